/** A node whose VXLAN network runs on a machine, with time that stands still until it is turned. */
import { expect } from 'vitest'
import type { Underlay } from '../../src/backend/backend.ts'
import { VxlanNetwork } from '../../src/backend/vxlan/network.ts'
import { type MacAddress, parseCidr, type Subnet } from '../../src/ip.ts'
import type { Logger } from '../../src/log.ts'
import { Rtnl } from '../../src/netlink/conn.ts'
import { Monitor } from '../../src/netlink/monitor.ts'
import type { NetlinkSocket } from '../../src/netlink/socket.ts'
import { describeMessage } from '../../src/netlink/trace.ts'
import { readMessages, setU16 } from '../../src/netlink/wire.ts'
import type { Lease } from '../../src/subnet/lease.ts'
import type { KernelState } from '../fakes/kernel.ts'
import { ManualClock } from '../masq/manual-clock.ts'
import type { Machine } from './machine.ts'
import { ip, type Operator } from './operator.ts'

export const DEVICE = 'flannel.1'
export const OWN_MAC = '02:00:00:00:00:01'
const NETWORK = subnet('10.240.0.0/12')

/** What makes a lease, and the kernel entries of the peer. `n` is its number: subnet 10.244.n.0/24, and so on. */
export interface Peer {
  readonly subnet: string
  readonly mac: MacAddress
  readonly ip: string
  readonly modifiedIndex: number
  /** How its subnet is reached, for `expected`. */
  readonly kind: 'tunnel' | 'direct' | 'nexthop'
}

export function peer(n: number, changes: Partial<Peer> = {}): Peer {
  const [high, low] = [n >> 8, n & 255]
  return {
    subnet: `10.${244 + high}.${low}.0/24`,
    mac: `02:00:00:01:${hex(high)}:${hex(low)}`,
    ip: `203.0.${113 + high}.${low}`,
    modifiedIndex: n,
    kind: 'tunnel',
    ...changes,
  }
}

export function leaseOf({ subnet: text, mac, ip: publicIP, modifiedIndex }: Peer): Lease {
  const attributes = { publicIP: ip(publicIP), backendType: 'vxlan', backendData: { VtepMAC: mac } }
  return { subnet: subnet(text), attributes, ttl: 86_400, modifiedIndex }
}

/** The interface under it and the way out. Made once for a machine. */
export function prepare(op: Operator): void {
  op.do(op.veth('eth0', 'far0'))
  op.do(op.set('far0', { up: true }))
  op.do(op.set('eth0', { up: true }))
  op.do(op.address('add', 'eth0', '192.0.2.1/24'))
}

/** eth0 as it is now. */
export function underlayOf(op: Operator): Underlay {
  const { index, name, mtu } = op.link('eth0')
  return { index, name, mtu, address: ip('192.0.2.1'), publicIP: ip('192.0.2.1') }
}

const BASE: KernelState = {
  routes: ['192.0.2.0/24 dev eth0 proto kernel scope link src 192.0.2.1'],
  neighbours: [],
  fdb: [],
  nexthops: [],
  addresses: ['eth0 192.0.2.1/24', `${DEVICE} 10.244.0.0/32`],
}

/** The state of a kernel that holds these peers and these further lines, sorted. */
export function expected(peers: readonly Peer[], more: Partial<KernelState> = {}, base = BASE): KernelState {
  const state = {
    routes: [...base.routes, ...(more.routes ?? [])],
    neighbours: [...base.neighbours, ...(more.neighbours ?? [])],
    fdb: new Set([...base.fdb, ...(more.fdb ?? [])]),
    nexthops: [...base.nexthops, ...(more.nexthops ?? [])],
    addresses: [...base.addresses, ...(more.addresses ?? [])],
  }
  for (const { subnet: to, mac, ip: publicIP, kind } of peers) {
    const gateway = to.replace(/\/.*/, '')
    if (kind === 'direct') {
      state.routes.push(`${to} via ${publicIP} dev eth0`)
      continue
    }
    const id = 0xf1000000 + ((subnet(to).address - NETWORK.address) >> 8)
    const through = kind === 'nexthop' ? `nhid ${id} ` : ''
    state.routes.push(`${to} ${through}via ${gateway} dev ${DEVICE} onlink`)
    state.neighbours.push(`${gateway} dev ${DEVICE} lladdr ${mac} PERMANENT`)
    state.fdb.add(`${mac} dev ${DEVICE} dst ${publicIP} self permanent`)
    if (kind === 'nexthop')
      state.nexthops.push(`id ${id} via ${gateway} dev ${DEVICE} scope link proto boot onlink`)
  }
  return sorted({ ...state, fdb: [...state.fdb] })
}

export function sorted({ routes, neighbours, fdb, nexthops, addresses }: KernelState): KernelState {
  return {
    routes: routes.toSorted(),
    neighbours: neighbours.toSorted(),
    fdb: fdb.toSorted(),
    nexthops: nexthops.toSorted(),
    addresses: addresses.toSorted(),
  }
}

export interface NodeOptions {
  readonly directRouting?: boolean
  /** Of the monitor, in bytes. */
  readonly receiveBuffer?: number
  /** Changes, in words, that the kernel refuses. */
  readonly refuse?: (words: string) => boolean
}

export class TestNode {
  readonly machine: Machine
  readonly op: Operator
  readonly clock: ManualClock
  readonly network: VxlanNetwork
  /** `<level> <message>` and who did it, from info up. */
  readonly logged: string[] = []
  /** Every change that was asked of the kernel, in words. */
  readonly writes: string[] = []
  /** How many entries each full compare has read. */
  readonly compared: number[] = []
  /** While it is deaf, notifications are lost without a trace. */
  deaf = false
  readonly #requests: NetlinkSocket
  readonly #monitor: Monitor
  readonly #stop = new AbortController()
  #running: Promise<void> | undefined

  constructor(machine: Machine, op: Operator, options: NodeOptions = {}) {
    this.machine = machine
    this.op = op
    this.clock = new ManualClock()
    const { receiveBuffer } = options
    this.#requests = this.#tapped(machine.open(), options.refuse ?? (() => false))
    this.#monitor = new Monitor(
      this.#hearing(
        machine.monitor({
          ignore: this.#requests.portId,
          ...(receiveBuffer === undefined ? {} : { receiveBuffer }),
        }),
      ),
      (changes) => this.network.observe(changes),
      () => this.network.observeOverrun(),
    )
    this.network = new VxlanNetwork({
      rtnl: new Rtnl(this.#requests),
      drain: () => this.#monitor.drain(),
      compared: (entries) => this.compared.push(entries),
      log: this.#logger(),
      clock: this.clock,
      network: NETWORK,
      subnetLen: 24,
      directRouting: options.directRouting ?? false,
      underlay: underlayOf(op),
      device: { name: DEVICE, vni: 1, port: 8472, gbp: false, mac: OWN_MAC, address: ip('10.244.0.0') },
      resyncPeriod: 60_000,
    })
  }

  /** Of the requests: whom the kernel says to have done it. */
  get portId(): number {
    return this.#requests.portId
  }

  /** As the daemon starts: the device, the first snapshot, one apply; from then on by itself. */
  start(peers: readonly Peer[]): this {
    this.network.start()
    this.snapshot(peers)
    this.network.apply()
    this.#running = this.network.run(this.#stop.signal)
    return this
  }

  snapshot(peers: readonly Peer[]): void {
    this.network.replaceLeases(peers.map(leaseOf))
    this.network.wake()
  }

  put(changed: Peer): void {
    this.network.putLease(leaseOf(changed))
    this.network.wake()
  }

  remove({ subnet: text }: Peer): void {
    this.network.removeLease(subnet(text))
    this.network.wake()
  }

  /** Hears what has happened, and lets `ms` pass. */
  async settle(ms = 20): Promise<void> {
    this.#monitor.drain()
    await this.clock.advance(ms)
  }

  /** Forgets what was logged and written so far. */
  forget(): void {
    this.logged.length = 0
    this.writes.length = 0
  }

  expectState(peers: readonly Peer[], more: Partial<KernelState> = {}): void {
    expect(sorted(this.machine.state())).toEqual(expected(peers, more))
  }

  async stop(): Promise<void> {
    this.#stop.abort()
    await this.clock.settle()
    await this.#running
    this.#monitor.close()
    this.#requests.close()
  }

  #logger(): Logger {
    const at =
      (level: string): Logger['info'] =>
      (message, fields) => {
        const by = fields?.by === undefined ? '' : ` by=${fields.by}`
        this.logged.push(`${level} ${message}${by}`)
      }
    const silent = () => undefined
    return { trace: silent, debug: silent, info: at('I'), warn: at('W'), error: at('E') }
  }

  #tapped(socket: NetlinkSocket, refuse: (words: string) => boolean): NetlinkSocket {
    return {
      portId: socket.portId,
      receive: () => socket.receive(),
      onReadable: (callback) => socket.onReadable(callback),
      close: () => socket.close(),
      send: (bytes) => {
        const copy = bytes.slice()
        for (const message of readMessages(copy)) {
          // Types come in fours, of which the third asks.
          if ((message.type & 3) === 2) continue
          const words = describeMessage({ ...message, flags: 0, sequence: 0 })
          this.writes.push(words)
          // The header is before the payload; a type that rtnetlink does not know is refused with EOPNOTSUPP.
          if (refuse(words)) setU16(copy, message.payload.byteOffset - copy.byteOffset - 12, 0xfff0)
        }
        socket.send(copy)
      },
    }
  }

  #hearing(socket: NetlinkSocket): NetlinkSocket {
    return {
      portId: socket.portId,
      onReadable: (callback) => socket.onReadable(callback),
      close: () => socket.close(),
      send: (bytes) => socket.send(bytes),
      receive: () => {
        let datagram = socket.receive()
        while (this.deaf && datagram !== undefined) datagram = socket.receive()
        return datagram
      },
    }
  }
}

export function subnet(text: string): Subnet {
  const parsed = parseCidr(text)
  if (parsed === undefined) throw new Error(`${text} is no prefix`)
  return parsed
}

function hex(octet: number): string {
  return octet.toString(16).padStart(2, '0')
}
