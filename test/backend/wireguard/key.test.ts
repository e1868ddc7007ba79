import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it, onTestFinished } from 'vitest'
import { loadKeyPair } from '../../../src/backend/wireguard/key.ts'
import { LogLines } from '../../subnet/support.ts'

it('is made for root alone, with the folders above it, and kept', () => {
  const folder = mkdtempSync(join(tmpdir(), 'wgkey-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  const path = join(folder, 'a/b/wgkey')
  const pair = loadKeyPair(path, new LogLines())
  expect(readFileSync(path, 'utf8')).toBe(pair.privateKey)
  expect(statSync(path).mode & 0o777).toBe(0o600)
  expect(loadKeyPair(path, new LogLines())).toEqual(pair)
})

it('says where it cannot be, and does not try for ever', () => {
  expect(() => loadKeyPair('/proc/none/deeper/wgkey', new LogLines())).toThrow(
    /^Error registering network: cannot write the WireGuard key \/proc\/none\/deeper\/wgkey: ENOENT/,
  )
})
