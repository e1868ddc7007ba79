import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { renderFlags } from '../scripts/flags.ts'

test('docs/flags.md is what `node scripts/flags.ts` writes', async () => {
  const page = readFileSync(join(import.meta.dirname, '../docs/flags.md'), 'utf8')
  expect(page).toBe(await renderFlags())
})
