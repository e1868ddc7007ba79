import { once } from 'node:events'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { TcpProxy } from './proxy.ts'
import { waitFor } from './wait.ts'

/** An echo server behind the proxy. */
let echo: Server
let proxy: TcpProxy
const clients: Client[] = []

interface Client {
  readonly socket: Socket
  received: string
  ended: boolean
  failed: boolean
}

beforeEach(async () => {
  echo = createServer((socket) => socket.on('error', () => undefined).pipe(socket))
  await once(echo.listen(0, '127.0.0.1'), 'listening')
  const address = echo.address()
  const port = typeof address === 'object' && address !== null ? address.port : 0
  proxy = await TcpProxy.listen({ host: '127.0.0.1', port: 0 }, { host: '127.0.0.1', port })
})

afterEach(async () => {
  for (const { socket } of clients.splice(0)) socket.destroy()
  await proxy.close()
  echo.close()
})

function dial(): Client {
  const client: Client = {
    socket: connect(proxy.port, '127.0.0.1'),
    received: '',
    ended: false,
    failed: false,
  }
  client.socket.setEncoding('latin1')
  client.socket.on('data', (text) => {
    client.received += text
  })
  client.socket.on('end', () => {
    client.ended = true
  })
  client.socket.on('error', () => {
    client.failed = true
  })
  clients.push(client)
  return client
}

async function says(client: Client, text: string): Promise<void> {
  await waitFor(() => client.received === text, { what: () => `${text}, not ${client.received}` })
}

test('passes bytes both ways', async () => {
  const client = dial()
  client.socket.write('hello')
  await says(client, 'hello')
  expect(await proxy.stats()).toEqual({ accepted: 1, open: 1, answered: 0, held: 0 })
})

test('stalls one direction of an open connection, then delivers what it held', async () => {
  const client = dial()
  client.socket.write('one')
  await says(client, 'one')
  await proxy.set({ toClient: { kind: 'stall' } })
  client.socket.write('two')
  // A second connection through the same proxy proves that the first would have been answered by now.
  const other = dial()
  await proxy.set({ toServer: { kind: 'pass' } })
  other.socket.write('x')
  await waitFor(async () => (await proxy.stats()).accepted === 2, { what: 'the second connection' })
  expect(client.received).toBe('one')
  await proxy.set({ toClient: { kind: 'pass' } })
  await says(client, 'onetwo')
})

test('stalls after so many bytes, then delivers the rest', async () => {
  await proxy.set({ toClient: { kind: 'stall', after: 3 } })
  const client = dial()
  client.socket.write('abcdefgh')
  await says(client, 'abc')
  await waitFor(async () => (await proxy.stats()).held === 5, { what: 'the rest at the proxy' })
  await proxy.set({ toClient: { kind: 'pass' } })
  await says(client, 'abcdefgh')
})

test('strands what is open for good, and serves what comes later', async () => {
  const client = dial()
  client.socket.write('one')
  await says(client, 'one')
  await proxy.set({ toClient: { kind: 'stall' } })
  client.socket.write('two')
  await proxy.strand()
  await proxy.set({ toClient: { kind: 'pass' } })
  client.socket.write('three')
  const other = dial()
  other.socket.write('x')
  await says(other, 'x')
  expect(client).toMatchObject({ received: 'one', ended: false, failed: false })
})

test.each([
  { kind: 'slow', delay: 200 },
  { kind: 'throttle', rate: 25 },
] as const)('strands what is on its way through $kind, too', async (fault) => {
  const client = dial()
  await proxy.set({ toClient: { kind: 'stall' } })
  client.socket.write('later')
  await waitFor(async () => (await proxy.stats()).held === 5, { what: 'the bytes at the proxy' })
  await proxy.set({ toClient: fault })
  await proxy.strand()
  // Long enough for them to have passed.
  await sleep(300)
  expect(client).toMatchObject({ received: '', ended: false, failed: false })
})

test('throttles, and loses nothing', async () => {
  await proxy.set({ toServer: { kind: 'throttle', rate: 100_000 } })
  const client = dial()
  const begin = performance.now()
  const text = 'abcd'.repeat(2_500)
  client.socket.write(text)
  await says(client, text)
  expect(performance.now() - begin).toBeGreaterThan(90)
})

test('truncates after so many bytes and closes', async () => {
  await proxy.set({ toClient: { kind: 'truncate', after: 4 } })
  const client = dial()
  client.socket.write('abcdefgh')
  await waitFor(() => client.ended || client.failed, { what: 'the end' })
  expect(client.received).toBe('abcd')
})

test('corrupts every so-manieth byte', async () => {
  await proxy.set({ toServer: { kind: 'corrupt', every: 3 } })
  const client = dial()
  client.socket.write('aaaaaa')
  const wrong = String.fromCharCode(0x61 ^ 0xff)
  await says(client, `aa${wrong}aa${wrong}`)
})

test('slows, and loses nothing', async () => {
  await proxy.set({ toServer: { kind: 'slow', delay: 30 } })
  const client = dial()
  const begin = performance.now()
  client.socket.write('late')
  await says(client, 'late')
  expect(performance.now() - begin).toBeGreaterThan(25)
})

test('cuts open connections, and refuses or ignores new ones', async () => {
  const open = dial()
  open.socket.write('x')
  await says(open, 'x')
  await proxy.cut()
  await waitFor(() => open.failed, { what: 'a reset' })
  await proxy.set({ door: 'refuse' })
  const refused = dial()
  await waitFor(() => refused.failed || refused.ended, { what: 'a refusal' })
  await proxy.set({ door: 'silent' })
  const silent = dial()
  silent.socket.write('anybody?')
  await waitFor(async () => (await proxy.stats()).open === 1, { what: 'the silent connection' })
  await proxy.set({ door: 'open' })
  const good = dial()
  good.socket.write('yes')
  await says(good, 'yes')
  expect(silent.received).toBe('')
})
