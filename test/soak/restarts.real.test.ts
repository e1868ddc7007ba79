import { expect, test } from 'vitest'
import { restarts } from './restarts.ts'

test('restarts do not show, whatever ends the daemon', { timeout: 600_000 }, async () => {
  const seed = Number(process.env.SOAK_SEED ?? 1)
  const { connections, each } = await restarts({ count: 20, seed, say: () => undefined })
  expect(connections).toBeGreaterThan(100)
  process.stdout.write(
    `20 restarts under load: ${each.toFixed(0)} ms each, ${connections} connections, none failed\n`,
  )
})
