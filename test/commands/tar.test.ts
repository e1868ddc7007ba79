import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { tarGz } from '../../src/commands/tar.ts'

test('tar takes out what was put in, byte for byte', () => {
  const dir = mkdtempSync(join(tmpdir(), 'flannel-tar-'))
  onTestFinished(() => rmSync(dir, { recursive: true }))
  const files = {
    'a/empty': '',
    'a/block': 'x'.repeat(512),
    'a/b/more': 'y'.repeat(513),
    ['n'.repeat(100)]: 'z',
  }
  const entries = Object.entries(files).map(([name, text]) => ({ name, content: Buffer.from(text) }))
  writeFileSync(join(dir, 'x.tar.gz'), tarGz(entries, 1_700_000_000))
  execFileSync('tar', ['-xzf', 'x.tar.gz'], { cwd: dir })
  for (const [name, text] of Object.entries(files)) expect(readFileSync(join(dir, name), 'utf8')).toBe(text)
  const { mode, mtimeMs } = statSync(join(dir, 'a/block'))
  expect([mode & 0o777, mtimeMs]).toEqual([0o600, 1_700_000_000_000])
})

test('a name that does not fit is refused', () => {
  expect(() => tarGz([{ name: 'n'.repeat(101), content: Buffer.of() }], 0)).toThrow(RangeError)
})
