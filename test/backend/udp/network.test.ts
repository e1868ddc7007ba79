/** The udp network over a kernel in memory, with a tunnel that only remembers. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { DeviceError } from '../../../src/backend/model.ts'
import { openBackend } from '../../../src/backend/udp/backend.ts'
import { UdpNetwork, type UdpNetworkOptions } from '../../../src/backend/udp/network.ts'
import type { Forwarding, Tunnel, TunnelCounters } from '../../../src/backend/udp/tunnel.ts'
import { formatIpv4 } from '../../../src/ip.ts'
import type { LogFields, Logger } from '../../../src/log.ts'
import { Rtnl } from '../../../src/netlink/conn.ts'
import { Monitor } from '../../../src/netlink/monitor.ts'
import type { Lease } from '../../../src/subnet/lease.ts'
import { FakeMachine } from '../../conformance/machine.ts'
import { prepare, subnet, underlayOf } from '../../conformance/node.ts'
import { ip, Operator } from '../../conformance/operator.ts'
import { ManualClock } from '../../masq/manual-clock.ts'

const NONE: TunnelCounters = {
  sentPackets: 0,
  sentBytes: 0,
  receivedPackets: 0,
  receivedBytes: 0,
  strangers: 0,
  foreign: 0,
  malformed: 0,
  unreachable: 0,
  expired: 0,
  sendErrors: 0,
  unusable: 0,
  writeErrors: 0,
  lastOffender: 0,
}

class FakeTunnel implements Tunnel {
  readonly #op: Operator
  readonly calls: string[] = []
  peers: readonly string[] = []
  count = NONE
  /** What the next call of this name fails with. */
  readonly failures = new Map<string, Error>()

  constructor(op: Operator) {
    this.#op = op
  }

  openDevice(pattern: string, own: number): string {
    this.#call('openDevice', pattern, formatIpv4(own))
    // Any kind will do.
    const name = pattern.replace('%d', '0')
    this.#op.do(this.#op.bridge(name))
    return name
  }

  bind(address: number, port: number): void {
    this.#call('bind', formatIpv4(address), port)
  }

  setPeers(peers: readonly Forwarding[]): void {
    this.#call('setPeers', peers.length)
    this.peers = peers.map(({ first, last, host }) => [first, last, host].map(formatIpv4).join(' '))
  }

  counters(): TunnelCounters {
    return this.count
  }

  close(): void {
    this.#call('close')
  }

  #call(name: string, ...args: readonly unknown[]): void {
    const failure = this.failures.get(name)
    this.failures.delete(name)
    if (failure !== undefined) throw failure
    this.calls.push([name, ...args].join(' '))
  }
}

const ALICE = lease('10.244.1.0/24', '203.0.113.1')
const BOB = lease('10.244.2.0/23', '203.0.113.2', 'vxlan')

function lease(text: string, publicIP: string, backendType = ''): Lease {
  const attributes = { publicIP: ip(publicIP), backendType, backendData: undefined }
  return { subnet: subnet(text), attributes, ttl: 86_400, modifiedIndex: 1 }
}

let machine: FakeMachine
let op: Operator
let tunnel: FakeTunnel
let network: UdpNetwork
let monitor: Monitor
const clock = new ManualClock()
const logged: string[] = []
let stop: AbortController
let running: Promise<void> | undefined

const at =
  (level: string): Logger['info'] =>
  (message: string, fields: LogFields = {}) =>
    void logged.push(
      `${level} ${message}${Object.entries(fields)
        .map(([k, v]) => ` ${k}=${v}`)
        .join('')}`,
    )
const log: Logger = { trace: at('T'), debug: at('D'), info: at('I'), warn: at('W'), error: at('E') }

function options(): UdpNetworkOptions {
  return {
    rtnl: new Rtnl(machine.open()),
    generic: () => new Rtnl(machine.open()),
    drain: () => monitor.drain(),
    log,
    clock,
    network: subnet('10.244.0.0/16'),
    subnetLen: 24,
    options: {},
    underlay: underlayOf(op),
    resyncPeriod: 60_000,
    env: {},
    signal: stop.signal,
    tunnel,
    port: 8285,
    address: ip('10.244.0.0'),
  }
}

beforeEach(() => {
  machine = new FakeMachine()
  op = new Operator(machine.open())
  prepare(op)
  tunnel = new FakeTunnel(op)
  logged.length = 0
  stop = new AbortController()
  monitor = new Monitor(
    machine.monitor(),
    (changes) => network.observe(changes),
    () => network.observeOverrun(),
  )
  network = new UdpNetwork(options())
})
afterEach(async () => {
  stop.abort()
  await clock.settle()
  await running
})

function start(...peers: readonly Lease[]): void {
  network.start()
  network.replaceLeases(peers)
  network.apply()
  running = network.run(stop.signal)
}

async function settle(ms = 100): Promise<void> {
  monitor.drain()
  await clock.advance(ms)
}

const ROUTES = [
  '192.0.2.0/24 dev eth0 proto kernel scope link src 192.0.2.1',
  '10.244.0.0/16 dev flannel0',
].sort()

function expectRight(): void {
  expect(machine.state().routes.toSorted()).toEqual(ROUTES)
  expect(machine.state().addresses).toContain('flannel0 10.244.0.0/32')
  expect(op.link('flannel0')).toMatchObject({ up: true, mtu: 1472 })
}

describe('the udp network', () => {
  it('makes device, address, route and socket, and tells the tunnel the peers', () => {
    start(ALICE, BOB)
    expectRight()
    expect(tunnel.calls).toEqual(['openDevice flannel%d 10.244.0.0', 'bind 192.0.2.1 8285', 'setPeers 2'])
    expect(tunnel.peers).toEqual([
      '10.244.1.0 10.244.1.255 203.0.113.1',
      '10.244.2.0 10.244.3.255 203.0.113.2',
    ])
    expect(logged.filter((line) => !line.startsWith('I'))).toEqual([])
    expect(network.status).toMatchObject({ peers: 2, tables: { route: { wanted: 1, held: 1, failed: 0 } } })
    expect(network.mtu).toBe(1472)
  })

  it('hands over peers when they have changed, and only then', async () => {
    start(ALICE)
    network.putLease({ ...ALICE, modifiedIndex: 2 })
    await settle(70_000)
    expect(tunnel.calls.at(-1)).toBe('setPeers 1')
    tunnel.calls.length = 0
    network.putLease(BOB)
    network.putLease(lease('10.244.1.0/24', '203.0.113.9'))
    network.apply()
    expect(tunnel.calls).toEqual(['setPeers 2'])
    expect(tunnel.peers).toContain('10.244.1.0 10.244.1.255 203.0.113.9')
    network.replaceLeases([BOB])
    network.apply()
    expect(tunnel.peers).toEqual(['10.244.2.0 10.244.3.255 203.0.113.2'])
    network.removeLease(BOB.subnet)
    network.apply()
    expect(tunnel.peers).toEqual([])
    expect(logged.filter((line) => line.includes('Subnet'))).toEqual([
      'I Subnet added: 10.244.1.0/24 via 203.0.113.1',
      'I Subnet added: 10.244.2.0/23 via 203.0.113.2',
      'I Subnet added: 10.244.1.0/24 via 203.0.113.9',
      'I Subnet removed: 10.244.1.0/24',
      'I Subnet removed: 10.244.2.0/23',
    ])
  })

  it.each<[string, () => void]>([
    ['device deleted', () => op.do(op.unlink('flannel0'))],
    ['device down', () => op.do(op.set('flannel0', { up: false }))],
    ['device renamed', () => op.do(op.set('flannel0', { rename: 'other' }))],
    ['MTU changed', () => op.do(op.set('flannel0', { mtu: 900 }))],
    ['address gone', () => op.do(op.address('delete', 'flannel0', '10.244.0.0/32'))],
    ['address added', () => op.do(op.address('add', 'flannel0', '10.9.9.9/32'))],
    ['route deleted', () => op.do(op.route('delete', { to: '10.244.0.0/16' }))],
    ['route replaced', () => op.do(op.route('replace', { to: '10.244.0.0/16', dev: 'eth0' }))],
    [
      'route shadowed',
      () => op.do(op.route('prepend', { to: '10.244.0.0/16', via: '192.0.2.9', dev: 'eth0' })),
    ],
    ['a route more', () => op.do(op.route('add', { to: '10.9.0.0/16', dev: 'flannel0' }))],
  ])('%s: mended at once, and said', async (_, damage) => {
    start(ALICE)
    logged.length = 0
    damage()
    await settle()
    expectRight()
    expect(logged.some((line) => line.startsWith('W'))).toBe(true)
    logged.length = 0
    await settle(130_000)
    expect(logged).toEqual([])
  })

  it('binds anew when the interface has another address, and keeps at it while it cannot', async () => {
    start(ALICE)
    tunnel.calls.length = 0
    tunnel.failures.set('bind', new DeviceError('failed to start listening: EADDRNOTAVAIL'))
    network.setUnderlay({ ...underlayOf(op), address: ip('192.0.2.7'), publicIP: ip('192.0.2.7') })
    await settle()
    expect(tunnel.calls).toEqual([])
    expect(logged.at(-1)).toMatch(/^E failed to start listening.*trying again/)
    await settle(2_000)
    expect(tunnel.calls).toEqual(['bind 192.0.2.7 8285'])
    expectRight()
  })

  it('fails its start with the reason when the tunnel has one', () => {
    tunnel.failures.set('openDevice', new DeviceError('open a TUN device'))
    expect(() => network.start()).toThrow('open a TUN device')
  })

  it('says what was dropped, once for all of it', async () => {
    start(ALICE)
    tunnel.count = { ...NONE, strangers: 7, malformed: 2, lastOffender: ip('198.51.100.4') }
    await settle(60_000)
    expect(logged.filter((line) => line.startsWith('W'))).toEqual([
      'W dropped packets that no peer may send fromStrangers=7 withForeignSource=0 malformed=2 last=198.51.100.4',
    ])
    expect(network.details).toMatchObject({ port: 8285, strangers: 7, lastOffender: '198.51.100.4' })
  })

  it('takes its device down with it, and stays down', async () => {
    start(ALICE)
    stop.abort()
    await running
    expect(tunnel.calls.at(-1)).toBe('close')
    network.putLease(BOB)
    network.apply()
    expect(tunnel.calls.at(-1)).toBe('close')
  })
})

describe('the udp backend', () => {
  it.each<[object, RegExp]>([
    [{ Type: 'udp', Port: 'x' }, /UDP backend config: Port must be a whole number from 0 to 65535, not "x"/],
    [{ Type: 'udp', Port: 65_536 }, /from 0 to 65535, not 65536/],
  ])('refuses %j', (given, reason) => {
    expect(() => openBackend({ ...options(), options: { ...given } })).toThrow(reason)
  })

  it('leases in the bytes of flannel: no type, no data', () => {
    const backend = openBackend({ ...options(), options: { Type: 'udp' } })
    expect(backend.attributes(undefined)).toEqual({
      publicIP: ip('192.0.2.1'),
      backendType: '',
      backendData: undefined,
    })
    expect(logged).toEqual([])
  })

  it('says of a config without a Backend what that means', () => {
    openBackend(options())
    expect(logged).toEqual([expect.stringMatching(/^W .*no Backend.*udp.*slowest.*"Type":"vxlan"/)])
  })
})
