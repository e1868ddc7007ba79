import { execFileSync } from 'node:child_process'
import {
  closeSync,
  constants,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { writeFileAtomically } from '../src/files.ts'

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'files-'))
})
afterEach(() => {
  rmSync(folder, { recursive: true })
})

const text = 'one\ntwo\n'

test('makes missing folders (0755) and a file of mode 0644 less the umask, and leaves nothing else', () => {
  const path = join(folder, 'a/b/file')
  writeFileAtomically(path, text)
  expect(readFileSync(path, 'utf8')).toBe(text)
  expect(readdirSync(join(folder, 'a/b'))).toEqual(['file'])
  expect(statSync(path).mode & 0o777).toBe(0o644 & ~process.umask())
  expect(statSync(join(folder, 'a')).mode & 0o777).toBe(0o755 & ~process.umask())
})

test('replaces by rename: another inode, so a reader of the old file keeps it whole', () => {
  const path = join(folder, 'file')
  writeFileSync(path, 'old')
  const before = statSync(path).ino
  writeFileAtomically(path, text)
  expect(readFileSync(path, 'utf8')).toBe(text)
  expect(statSync(path).ino).not.toBe(before)
})

test('leaves a file alone that is right already', () => {
  const path = join(folder, 'file')
  writeFileSync(path, text)
  const before = statSync(path, { bigint: true })
  writeFileAtomically(path, text)
  expect(statSync(path, { bigint: true })).toMatchObject({ ino: before.ino, ctimeNs: before.ctimeNs })
})

test('a path that cannot be written throws, and leaves nothing behind', () => {
  const path = join(folder, 'file')
  mkdirSync(path)
  expect(() => writeFileAtomically(path, text)).toThrow(/EISDIR/)
  expect(readdirSync(folder)).toEqual(['file'])
  writeFileSync(join(folder, 'inner'), '')
  expect(() => writeFileAtomically(join(folder, 'inner/file'), text)).toThrow(/ENOTDIR|EEXIST/)
  expect(() => writeFileAtomically('/proc/none/deeper/file', text)).toThrow(/ENOENT/)
})

test('writes to what is no file, be it behind a link, and leaves it what it is', () => {
  const link = join(folder, 'link')
  symlinkSync('/dev/null', link)
  writeFileAtomically(link, text)
  expect(lstatSync(link).isSymbolicLink()).toBe(true)
  expect(statSync('/dev/null').isCharacterDevice()).toBe(true)

  const pipe = join(folder, 'pipe')
  execFileSync('mkfifo', [pipe])
  // Nobody reads, and nobody waits for that.
  expect(() => writeFileAtomically(pipe, text)).toThrow('ENXIO')
  const reader = openSync(pipe, constants.O_RDONLY | constants.O_NONBLOCK)
  writeFileAtomically(pipe, text)
  const bytes = Buffer.alloc(100)
  expect(bytes.toString('utf8', 0, readSync(reader, bytes))).toBe(text)
  closeSync(reader)
  expect(statSync(pipe).isFIFO()).toBe(true)
})
