import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { request } from 'node:http'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { beforeEach, expect, onTestFinished, test } from 'vitest'
import { DaemonClient } from '../src/commands/client.ts'
import { type Controlled, openControlSocket } from '../src/control.ts'
import type { Level, Logger } from '../src/log.ts'

let path: string
let lines: string[]
const write = (message: string): void => void lines.push(message)
const log: Logger = { trace: write, debug: write, info: write, warn: write, error: write }

beforeEach(() => {
  const dir = mkdtempSync(join(tmpdir(), 'flannel-control-'))
  onTestFinished(() => rmSync(dir, { recursive: true }))
  path = join(dir, 'run/sock')
  lines = []
})

function view(more: Partial<Controlled> = {}): Controlled & { logLevel: Level } {
  return {
    status: () => ({ version: 1, daemon: { pid: 4711 } }),
    *peers(limit = Number.POSITIVE_INFINITY) {
      for (let i = 0; i < Math.min(limit, 15_000); i++) yield { subnet: `peer ${i}`, publicIP: '192.0.2.1' }
    },
    events: { since: (seq) => [{ seq: seq + 1, text: 'x' }] },
    logLevel: 'info',
    setLogLevel(level) {
      this.logLevel = level
    },
    ...more,
  } as Controlled & { logLevel: Level }
}

async function open(of: Controlled = view()) {
  const socket = await openControlSocket(path, of, log)
  onTestFinished(() => socket?.close())
  return socket
}

const client = () => new DaemonClient(path, {})

async function all(lines: AsyncIterable<string>): Promise<string[]> {
  const list: string[] = []
  for await (const line of lines) list.push(line)
  return list
}

test('status, events and peers', async () => {
  await open()
  expect(await client().json('/status')).toEqual({ version: 1, daemon: { pid: 4711 } })
  expect(await client().json('/events?since=6')).toEqual([{ seq: 7, text: 'x' }])
  expect(await all(await client().lines('/peers?limit=2'))).toEqual([
    '{"subnet":"peer 0","publicIP":"192.0.2.1"}',
    '{"subnet":"peer 1","publicIP":"192.0.2.1"}',
  ])
  const everyone = await all(await client().lines('/peers'))
  expect([everyone.length, everyone.at(-1)]).toEqual([
    15_000,
    '{"subnet":"peer 14999","publicIP":"192.0.2.1"}',
  ])
  await expect(client().text('/nothing')).rejects.toThrow('404 page not found')
  expect(lines).toEqual([])
})

test('only root may connect, from the first moment', async () => {
  await open()
  expect(statSync(path).mode & 0o777).toBe(0o600)
})

test('the log level is shown and set, and nothing else is taken for one', async () => {
  const of = view()
  await open(of)
  expect(await client().text('/log-level')).toBe('info\n')
  expect(await client().text('/log-level', 'debug')).toBe('debug\n')
  expect(of.logLevel).toBe('debug')
  for (const wrong of ['loud', '', 'x'.repeat(100_000)]) {
    await expect(client().text('/log-level', wrong)).rejects.toThrow('the log level must be one of trace,')
  }
  expect(of.logLevel).toBe('debug')
})

test('peers are made as the reader takes them, and no longer when it is gone', async () => {
  let made = 0
  const endless = function* () {
    for (;;) yield { subnet: `peer ${made++}`, padding: 'x'.repeat(1000) }
  }
  await open(view({ peers: endless }))
  const asked = request({ socketPath: path, path: '/peers', agent: false })
  asked.end()
  const [response] = await once(asked, 'response')
  await once(response, 'readable')
  response.read()
  response.destroy()
  await once(response, 'close')
  // An answer to another question shows that the first is no longer worked on.
  await client().json('/status')
  const then = made
  for (let i = 0; i < 5; i++) await client().json('/status')
  expect(made).toBe(then)
})

test('a question that fails is answered, and others go on', async () => {
  const broken = (): never => {
    throw new Error('oops')
  }
  await open(view({ status: broken }))
  await expect(client().json('/status')).rejects.toThrow('internal error')
  expect(await client().text('/log-level')).toBe('info\n')
  expect(lines).toEqual([expect.stringContaining('oops')])
})

test('what a daemon left that was killed is replaced; what an orderly end leaves is nothing', async () => {
  const child = spawn(process.execPath, [
    '-e',
    `require('net').createServer().listen('${join(path, '..')}.sock', () => console.log('up'))`,
  ])
  await once(child.stdout, 'data')
  child.kill('SIGKILL')
  await once(child, 'exit')
  const left = `${join(path, '..')}.sock`
  expect(existsSync(left)).toBe(true)
  const socket = await openControlSocket(left, view(), log)
  expect(await new DaemonClient(left, {}).text('/log-level')).toBe('info\n')
  await socket?.close()
  expect(existsSync(left)).toBe(false)
  expect(lines).toEqual([])
})

test('a second daemon says so and leaves the first alone', async () => {
  await open()
  expect(await openControlSocket(path, view(), log)).toBeUndefined()
  expect(lines).toEqual([expect.stringMatching(/^Another flanneld \(pid 4711\) serves the control socket /)])
  expect(await client().text('/log-level')).toBe('info\n')
})

test('a file that is no socket is left alone', async () => {
  path = join(path, '../..', 'file')
  writeFileSync(path, 'precious')
  expect(await openControlSocket(path, view(), log)).toBeUndefined()
  expect(lines).toEqual([expect.stringContaining('a file that is no socket has this name; remove it')])
  expect(statSync(path).size).toBe(8)
})

test.each([
  ['a name that is too long', (p: string) => `${p}${'x'.repeat(120)}`],
  ['a folder that cannot be', () => '/proc/nowhere/sock'],
])('%s is one line, and no reason to stop', async (_, name) => {
  expect(await openControlSocket(name(path), view(), log)).toBeUndefined()
  expect(lines).toEqual([expect.stringMatching(/^Cannot open the control socket .*: /)])
})

test.each([
  ['no socket', () => undefined, /^no flanneld is running here: there is no /],
  [
    'a socket that nobody serves',
    async () => {
      path = `${join(path, '..')}.sock`
      const child = spawn(process.execPath, [
        '-e',
        `require('net').createServer().listen('${path}', () => console.log('up'))`,
      ])
      await once(child.stdout, 'data')
      child.kill('SIGKILL')
      await once(child, 'exit')
    },
    /^no flanneld is running here: nobody serves /,
  ],
  [
    'somebody else',
    async () => {
      path = `${join(path, '..')}.sock`
      const server = createServer((socket) => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi'))
      await new Promise<void>((resolve) => server.listen(path, resolve))
      onTestFinished(() => void server.close())
    },
    /answered something that is no JSON/,
  ],
])('a command that meets %s says so in one line', async (_, prepare, message) => {
  await prepare()
  await expect(client().json('/status')).rejects.toThrow(message)
})
