import { createServer } from 'node:http'
import { type AddressInfo, connect } from 'node:net'
import { describe, expect, onTestFinished, test } from 'vitest'
import { HealthEndpointError, type Healthy, healthRoutes, openHealthEndpoint } from '../src/health.ts'
import { Heartbeat } from '../src/heartbeat.ts'
import type { Logger } from '../src/log.ts'
import type { Runner } from '../src/masq/exec.ts'
import { Firewall } from '../src/masq/firewall.ts'
import { View } from '../src/view.ts'
import { policy } from './masq/chains.ts'
import { FakeIptables } from './masq/fake-iptables.ts'
import { ManualClock } from './masq/manual-clock.ts'

type Health = ReturnType<Healthy['health']>
const WELL: Health = { alive: true, ready: true, stuckLoops: [], reasons: [] }

async function open(ip = '127.0.0.1', port = 0, health: () => Health = () => WELL) {
  const lines: string[] = []
  const write = (message: string): void => void lines.push(message)
  const log: Logger = { trace: write, debug: write, info: write, warn: write, error: write }
  const endpoint = await openHealthEndpoint({ ip, port }, log, healthRoutes({ health }))
  onTestFinished(() => endpoint.close())
  return { endpoint, lines, log }
}

/** The whole answer as bytes on the wire; fetch would hide what is wrong with it. */
async function ask(port: number, request: string): Promise<string> {
  const socket = connect(port, '127.0.0.1')
  socket.write(`${request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`)
  let answer = ''
  for await (const chunk of socket) answer += chunk
  return answer
}

test.each(['GET /healthz', 'POST /healthz', 'DELETE /healthz', 'GET /healthz?verbose'])(
  '%s',
  async (request) => {
    const { endpoint } = await open()
    const [head, body] = (await ask(endpoint.port, request)).split('\r\n\r\n')
    expect(head).toMatch(/^HTTP\/1\.1 200 OK\r\n/)
    expect(head).toContain('Content-Type: text/plain; charset=utf-8\r\n')
    expect(head).toContain('Content-Length: 19\r\n')
    expect(body).toBe('flanneld is running')
  },
)

test('HEAD /healthz', async () => {
  const { endpoint } = await open()
  expect(await ask(endpoint.port, 'HEAD /healthz')).toMatch(/^HTTP\/1\.1 200 OK\r\n(.+\r\n)+\r\n$/)
})

test.each(['GET /', 'GET /healthz/', 'GET /healthzz', 'POST /metrics', 'GET http://x/'])(
  '%s is not found',
  async (request) => {
    const { endpoint } = await open()
    const [head, body] = (await ask(endpoint.port, request)).split('\r\n\r\n')
    expect(head).toMatch(/^HTTP\/1\.1 404 Not Found\r\n/)
    expect(head).toContain('Content-Type: text/plain; charset=utf-8\r\n')
    expect(body).toBe('404 page not found\n')
  },
)

test('rubbish does not end the endpoint', async () => {
  const { endpoint } = await open()
  expect(await ask(endpoint.port, 'rubbish')).toMatch(/^HTTP\/1\.1 400 /)
  expect(await ask(endpoint.port, 'GET /healthz')).toMatch(/running$/)
})

test.each([
  ['127.0.0.1', 'Start healthz server on 127.0.0.1:0'],
  ['::1', 'Start healthz server on [::1]:0'],
  ['', 'Start healthz server on :0'],
])('listening on %j is logged', async (ip, line) => {
  expect((await open(ip)).lines).toEqual([line])
})

test('a port that is taken is one clear error', async () => {
  const other = createServer()
  await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => void other.close())
  const { port } = other.address() as AddressInfo
  const error = await open('127.0.0.1', port).catch((e: unknown) => e)
  expect(error).toBeInstanceOf(HealthEndpointError)
  expect(error).toMatchObject({
    code: 'EADDRINUSE',
    message: `Cannot start healthz server on 127.0.0.1:${port}: EADDRINUSE: another process has the port; choose one with -healthz-ip and -healthz-port`,
  })
})

test('so is an address that is not ours', async () => {
  await expect(open('192.0.2.1', 0)).rejects.toThrow(
    'Cannot start healthz server on 192.0.2.1:0: EADDRNOTAVAIL: check -healthz-ip and -healthz-port',
  )
})

test.each([
  ['kept alive', 'GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n'],
  ['in the middle of a request', 'GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /heal'],
])('close ends a connection that is %s', async (_, request) => {
  const { endpoint } = await open()
  const socket = connect(endpoint.port, '127.0.0.1')
  socket.write(request)
  await new Promise((resolve) => socket.once('data', resolve))
  const closed = new Promise((resolve) => socket.once('close', resolve))
  await endpoint.close()
  await closed
  await expect(ask(endpoint.port, 'GET /healthz')).rejects.toThrow('ECONNREFUSED')
})

describe('how it is', () => {
  const waiting: Health = { ...WELL, ready: false, reasons: ['the lease has expired', 'another'] }
  const stuck: Health = {
    alive: false,
    ready: false,
    stuckLoops: ['firewall', 'lease watch'],
    reasons: ['loop firewall is stuck', 'loop lease watch is stuck'],
  }

  test.each<[string, Health, number, string]>([
    ['/healthz', WELL, 200, 'flanneld is running'],
    ['/healthz', waiting, 200, 'flanneld is running'],
    ['/healthz', stuck, 500, 'flanneld is stuck in: firewall, lease watch\n'],
    ['/readyz', WELL, 200, 'flanneld is ready'],
    ['/readyz', waiting, 503, 'the lease has expired\nanother\n'],
    ['/readyz', stuck, 503, 'loop firewall is stuck\nloop lease watch is stuck\n'],
  ])('%s of %j', async (path, health, status, text) => {
    const { endpoint } = await open('127.0.0.1', 0, () => health)
    const url = `http://127.0.0.1:${endpoint.port}${path}`
    const plain = await fetch(url)
    expect([plain.status, await plain.text()]).toEqual([status, text])
    const json = await fetch(url, { headers: { Accept: 'application/json' } })
    expect([json.status, await json.json()]).toEqual([status, health])
  })

  test('goes back and forth', async () => {
    let health = WELL
    const { endpoint } = await open('127.0.0.1', 0, () => health)
    const ask = async (): Promise<number> => (await fetch(`http://127.0.0.1:${endpoint.port}/readyz`)).status
    expect(await ask()).toBe(200)
    health = waiting
    expect(await ask()).toBe(503)
    health = WELL
    expect(await ask()).toBe(200)
  })

  test('a loop whose program never ends is named, and no more when it does', async () => {
    const clock = new ManualClock()
    const about = { version: 'v1', pid: 1, etcdPrefix: '/x', masquerade: true, forwardRules: true }
    const view = new View(clock, about)
    const heart = new Heartbeat('firewall', clock, 180_000)
    view.pulses.push(heart)
    let hangs = false
    let end = (): void => undefined
    const kernel = new FakeIptables()
    const runner: Runner = async (...call) => {
      if (hangs) await new Promise<void>((resolve) => (end = resolve))
      return await kernel.run(...call)
    }
    const { endpoint, log } = await open('127.0.0.1', 0, () => view.health())
    const firewall = new Firewall({ runner, clock: heart, log, resyncSeconds: 5 })
    const stop = new AbortController()
    await firewall.start(policy, undefined, stop.signal)
    const running = firewall.run(stop.signal)
    const ask = async (path: string): Promise<[number, string]> => {
      const answer = await fetch(`http://127.0.0.1:${endpoint.port}${path}`)
      return [answer.status, await answer.text()]
    }
    await clock.advance(60_000)
    expect(await ask('/healthz')).toEqual([200, 'flanneld is running'])
    hangs = true
    await clock.advance(200_000)
    expect(await ask('/healthz')).toEqual([200, 'flanneld is running'])
    await clock.advance(20_000)
    expect(await ask('/healthz')).toEqual([500, 'flanneld is stuck in: firewall\n'])
    expect((await ask('/readyz'))[1]).toMatch(/^loop firewall is stuck, last heard of 21[0-9.]* s ago$/m)
    hangs = false
    end()
    await clock.advance(1_000)
    expect(await ask('/healthz')).toEqual([200, 'flanneld is running'])
    stop.abort()
    await running
  })

  test('a question that fails is answered, and logged', async () => {
    const { endpoint, lines } = await open('127.0.0.1', 0, () => {
      throw new Error('oops')
    })
    expect((await fetch(`http://127.0.0.1:${endpoint.port}/healthz`)).status).toBe(500)
    expect(lines.at(-1)).toContain('oops')
  })
})
