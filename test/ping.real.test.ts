/** Pings through a real raw socket, in a network namespace of this thread's own. */
import { execFileSync } from 'node:child_process'
import { afterAll, beforeAll, expect, it, onTestFinished } from 'vitest'
import { type EchoSocket, openEchoSocket } from '../src/icmp.ts'
import { type Ping, pingThrough } from '../src/ping.ts'
import { ip } from './doctor/facts.ts'
import { ensureAddon, enterNewNamespace } from './native/addons.ts'

let leave: () => void

beforeAll(() => {
  ensureAddon()
  leave = enterNewNamespace()
  execFileSync('ip', ['link', 'set', 'lo', 'up'])
})
afterAll(() => leave())

function open(): EchoSocket {
  const socket = openEchoSocket()
  onTestFinished(() => socket.close())
  return socket
}

function iptables(rule: string): void {
  execFileSync('iptables', ['-A', ...rule.split(' ')])
  onTestFinished(() => void execFileSync('iptables', ['-D', ...rule.split(' ')]))
}

const ping: Ping = (request) => pingThrough(open())(request)

it('counts and times the answers of a thousand addresses', async () => {
  const addresses = Array.from({ length: 1000 }, (_, i) => ip('127.0.1.1') + i)
  const results = await ping({ addresses, size: 1450, count: 3 })
  expect(results.size).toBe(1000)
  for (const result of results.values())
    expect(result).toEqual({ sent: 3, received: 3, rtt: expect.any(Number) })
})

it('keeps requests apart that run at the same time', async () => {
  iptables('OUTPUT -d 127.0.0.9 -m length --length 1000: -j DROP')
  const both = pingThrough(open())
  const addresses = [ip('127.0.0.8'), ip('127.0.0.9')]
  const [small, large] = await Promise.all(
    [84, 1200].map((size) => both({ addresses, size, count: 2, wait: 300 })),
  )
  expect([...(small?.values() ?? [])].map(({ received }) => received)).toEqual([2, 2])
  expect([...(large?.values() ?? [])].map(({ received }) => received)).toEqual([2, 0])
})

it('counts as lost what the kernel does not send: no route, or more than the device takes', async () => {
  const results = await ping({ addresses: [ip('192.0.2.1')], size: 84, count: 2, wait: 100 })
  expect([...results.values()]).toEqual([{ sent: 2, received: 0, rtt: undefined }])
  execFileSync('ip', ['link', 'set', 'lo', 'mtu', '1400'])
  const large = await ping({ addresses: [ip('127.0.0.1')], size: 1401, count: 1, wait: 100 })
  expect([...large.values()]).toEqual([{ sent: 1, received: 0, rtt: undefined }])
  const fits = await ping({ addresses: [ip('127.0.0.1')], size: 1400, count: 1 })
  expect([...fits.values()]).toEqual([{ sent: 1, received: 1, rtt: expect.any(Number) }])
})

it('sends whole packets that must not be fragmented, from the address that it is told', () => {
  // What the kernel would fragment, "don't fragment" makes it refuse: so this rule sees no fragment and no packet without.
  iptables(
    'OUTPUT -s 127.0.0.77 -d 127.0.0.78 -p icmp -m u32 --u32 0&0xffff=1400 -m u32 --u32 4&0x4000=0x4000',
  )
  const socket = open()
  expect(socket.send({ to: ip('127.0.0.78'), from: ip('127.0.0.77'), size: 1400, sequence: 7 })).toBe(true)
  expect(execFileSync('iptables', ['-nvxL', 'OUTPUT'], { encoding: 'utf8' })).toMatch(/^ +1 +1400 /m)
})
