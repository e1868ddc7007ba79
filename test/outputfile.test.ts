import { mkdirSync, mkdtempSync, readFileSync, rmdirSync, rmSync, unlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { OutputFile } from '../src/outputfile.ts'
import { ManualClock } from './masq/manual-clock.ts'
import { LogLines } from './subnet/support.ts'

let folder: string
let path: string
let log: LogLines
let clock: ManualClock
let mtu: number
let ready: boolean
let stop: AbortController
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'output-'))
  path = join(folder, 'subnet.env')
  log = new LogLines()
  clock = new ManualClock()
  mtu = 1450
  ready = false
  stop = new AbortController()
})
afterEach(() => {
  stop.abort()
  rmSync(folder, { recursive: true })
})

const file = (): OutputFile =>
  new OutputFile({
    ...{ what: 'subnet file', path, flag: '-subnet-file', clock, log },
    render: () => `MTU=${mtu}\n`,
    ready: () => ready,
  })
const content = (): string => readFileSync(path, 'utf8')
const block = (): void => mkdirSync(path)
const unblock = (): void => rmdirSync(path)

test('is written at once, and again when what it tells has changed', async () => {
  const output = file()
  const first = output.write(stop.signal)
  expect(content()).toBe('MTU=1450\n')
  mtu = 1400
  const second = output.write(stop.signal)
  expect(content()).toBe('MTU=1400\n')
  await Promise.all([first, second])
  expect(log.lines).toEqual(Array(2).fill(`info Wrote subnet file to ${path}`))
})

test('that cannot be written is told of once, and tried again every 5 s until it is there', async () => {
  block()
  let done = false
  const written = file()
    .write(stop.signal)
    .then(() => (done = true))
  await clock.advance(5_000)
  await clock.advance(5_000)
  expect(done).toBe(false)
  expect(
    log.matching(
      /^warn Failed to write subnet file: EISDIR.*; trying again every 5 s, and READY=1 waits for it: /,
    ),
  ).toHaveLength(1)
  unblock()
  await clock.advance(5_000)
  await written
  expect(content()).toBe('MTU=1450\n')
  expect(log.lines).toHaveLength(2)
})

test('changes meanwhile begin no tries of their own, and what is written is how it is then', async () => {
  const output = file()
  ready = true
  block()
  const all = [1400, 1300, 1200].map((now) => {
    mtu = now
    return output.write(stop.signal)
  })
  expect(log.matching(/READY/)).toEqual([])
  expect(log.lines).toHaveLength(1)
  unblock()
  await clock.advance(5_000)
  await Promise.all(all)
  expect(content()).toBe('MTU=1200\n')
  expect(log.lines).toHaveLength(2)
  // Done is done: the next change is written at once again.
  mtu = 1100
  await output.write(stop.signal)
  expect(content()).toBe('MTU=1100\n')
})

test('is written again when somebody has removed it, and left alone when somebody has edited it', async () => {
  const output = file()
  await output.write(stop.signal)
  await output.restore(stop.signal)
  expect(log.lines).toHaveLength(1)
  unlinkSync(path)
  await output.restore(stop.signal)
  expect(content()).toBe('MTU=1450\n')
  expect(log.matching(/^warn Somebody has removed the subnet file/)).toHaveLength(1)
  writeFileSync(path, 'MTU=9000\n')
  await output.restore(stop.signal)
  expect(content()).toBe('MTU=9000\n')
})

test("that was never there yet is nobody's doing", async () => {
  const output = file()
  mkdirSync(path)
  void output.write(stop.signal)
  rmdirSync(path)
  await output.restore(stop.signal)
  expect(log.matching(/removed/)).toEqual([])
})

test('is not tried again once the signal has fired', async () => {
  block()
  const written = file().write(stop.signal)
  unblock()
  stop.abort()
  await clock.advance(5_000)
  await written
  expect(() => content()).toThrow('ENOENT')
})
