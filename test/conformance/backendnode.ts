/** A node of any backend on a machine, opened as the daemon opens it, with time that stands still until it is turned. */
import { expect, vi } from 'vitest'
import type { Backend, BackendContext, Network } from '../../src/backend/backend.ts'
import { removeLeftovers } from '../../src/backend/leftovers.ts'
import { openBackend } from '../../src/backends.ts'
import { formatIpv4 } from '../../src/ip.ts'
import type { Logger } from '../../src/log.ts'
import { Rtnl } from '../../src/netlink/conn.ts'
import { Monitor } from '../../src/netlink/monitor.ts'
import type { NetlinkSocket } from '../../src/netlink/socket.ts'
import { describeMessage } from '../../src/netlink/trace.ts'
import { readMessages } from '../../src/netlink/wire.ts'
import type { Lease, LeaseAttributes } from '../../src/subnet/lease.ts'
import type { KernelState } from '../fakes/kernel.ts'
import { ManualClock } from '../masq/manual-clock.ts'
import type { Machine } from './machine.ts'
import { sorted, subnet, underlayOf } from './node.ts'
import { ip, type Operator } from './operator.ts'

/** A remote node, as its lease describes it. */
export interface RemoteNode {
  readonly subnet: string
  readonly ip: string
}

/** Node `n`: subnet 10.(244 + n >> 8).(n & 255).0/24, on the link of eth0 while `n` is below 65,000. */
export function remote(n: number, changes: Partial<RemoteNode> = {}): RemoteNode {
  return { subnet: `10.${244 + (n >> 8)}.${n & 255}.0/24`, ip: formatIpv4(ip('10.9.0.0') + n), ...changes }
}

/** What is particular to one backend. */
export interface Row {
  readonly type: string
  readonly options?: Readonly<Record<string, unknown>>
  /** The device it makes, if it makes one. */
  readonly device?: string
  /** What the lease of a peer says. */
  readonly attributes: (peer: RemoteNode) => LeaseAttributes
  /** The kernel lines that one peer calls for. */
  readonly lines: (peer: RemoteNode) => Partial<KernelState>
  /** The WireGuard peer that stands for it. */
  readonly peer?: (peer: RemoteNode) => string
  /** The kernel lines that the node itself calls for. */
  readonly own?: Partial<KernelState>
  readonly mtu: number
  /** Its work is done by commands, which take their time. */
  readonly commands?: true
}

export class BackendNode {
  readonly machine: Machine
  readonly op: Operator
  readonly row: Row
  readonly clock = new ManualClock()
  readonly logged: string[] = []
  readonly writes: string[] = []
  backend: Backend | undefined
  /** `BackendType` of the lease that an earlier run has written. */
  before: string | undefined
  readonly keyFile: string
  #network: Network | undefined
  readonly #requests: NetlinkSocket
  readonly #about: Pick<BackendContext, 'rtnl' | 'log' | 'network' | 'subnetLen'>
  readonly #monitor: Monitor
  readonly #stop = new AbortController()
  #running: Promise<void> | undefined

  /** `keyFile` is where the node's WireGuard key is kept, if it has one. */
  constructor(machine: Machine, op: Operator, row: Row, keyFile: string) {
    this.keyFile = keyFile
    this.machine = machine
    this.op = op
    this.row = row
    this.#requests = this.#tapped(machine.open())
    this.#about = {
      ...{ rtnl: new Rtnl(this.#requests), log: this.#logger() },
      ...{ network: subnet('10.240.0.0/12'), subnetLen: 24 },
    }
    this.#monitor = new Monitor(
      machine.monitor({ ignore: this.#requests.portId }),
      (changes) => this.#network?.observe(changes),
      () => this.#network?.observeOverrun(),
    )
  }

  get network(): Network {
    if (this.#network === undefined) throw new Error('the node is not started')
    return this.#network
  }

  async open(changes: Partial<BackendContext> = {}): Promise<Backend> {
    const context: BackendContext = {
      ...this.#about,
      generic: () => new Rtnl(this.machine.generic()),
      clock: this.clock,
      options: this.row.options ?? {},
      underlay: underlayOf(this.op),
      resyncPeriod: 60_000,
      env: { WIREGUARD_KEY_FILE: this.keyFile },
      signal: this.#stop.signal,
      ...changes,
    }
    this.backend = await openBackend(this.row.type, context)
    return this.backend
  }

  /** As the daemon starts: what another backend has left goes, then the device, the first snapshot, one apply; from then on by itself. */
  async start(peers: readonly RemoteNode[], changes: Partial<BackendContext> = {}): Promise<this> {
    const backend = await this.open(changes)
    const attributes = backend.attributes(undefined)
    const { device } = backend
    const underlay = underlayOf(this.op).index
    removeLeftovers({ ...this.#about, before: this.before, type: this.row.type, device, underlay })
    const lease = { subnet: subnet('10.244.0.0/24'), attributes, ttl: 86_400, modifiedIndex: 1 }
    this.#network = await backend.start(lease, { drain: () => this.#monitor.drain() })
    this.snapshot(peers)
    this.network.apply()
    this.#running = this.network.run(this.#stop.signal)
    return this
  }

  snapshot(peers: readonly RemoteNode[]): void {
    this.network.replaceLeases(peers.map((peer) => this.leaseOf(peer)))
    this.network.apply()
  }

  put(peer: RemoteNode): void {
    this.network.putLease(this.leaseOf(peer))
    this.network.apply()
  }

  remove({ subnet: text }: RemoteNode): void {
    this.network.removeLease(subnet(text))
    this.network.apply()
  }

  leaseOf(peer: RemoteNode): Lease {
    const attributes = this.row.attributes(peer)
    return { subnet: subnet(peer.subnet), attributes, ttl: 86_400, modifiedIndex: 1 }
  }

  /** Hears what has happened, and lets `ms` pass. */
  async settle(ms = 100): Promise<void> {
    this.#monitor.drain()
    await this.clock.advance(ms)
  }

  forget(): void {
    this.logged.length = 0
    this.writes.length = 0
  }

  complaints(): readonly string[] {
    return this.logged.filter((line) => !line.startsWith('I'))
  }

  /** The kernel holds what these peers call for, and these further lines, and nothing else. */
  expectState(peers: readonly RemoteNode[], more: Partial<KernelState> = {}): void {
    const parts = [BASE, this.row.own ?? {}, more, ...peers.map((peer) => this.row.lines(peer))]
    const all = (table: keyof KernelState) => parts.flatMap((part) => part[table] ?? [])
    const wanted = {
      ...{ routes: all('routes'), neighbours: all('neighbours'), fdb: all('fdb') },
      ...{ nexthops: all('nexthops'), addresses: all('addresses') },
    }
    const state = this.machine.state()
    // What WireGuard sends makes the kernel look for neighbours; nobody writes but permanent ones.
    const neighbours = state.neighbours.filter((line) => line.endsWith(' PERMANENT'))
    expect(sorted({ ...state, neighbours })).toEqual(sorted(wanted))
    const { peer: line } = this.row
    if (line !== undefined) expect([...this.machine.peers()].sort()).toEqual(peers.map(line).sort())
  }

  /** As `expectState`: at once, or as soon as all commands have run. */
  async reach(peers: readonly RemoteNode[], more: Partial<KernelState> = {}): Promise<void> {
    if (this.row.commands !== undefined) {
      const { network } = this
      const done = () => {
        expect([...(network.peers?.() ?? [])].map(({ entries }) => entries.command)).toEqual(
          peers.map(() => 'ok'),
        )
        this.expectState(peers, more)
      }
      await vi.waitFor(done, { timeout: 20_000, interval: 20 })
    } else this.expectState(peers, more)
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
      (message) =>
        void this.logged.push(`${level} ${message}`)
    const silent = () => undefined
    return { trace: silent, debug: silent, info: at('I'), warn: at('W'), error: at('E') }
  }

  #tapped(socket: NetlinkSocket): NetlinkSocket {
    return {
      portId: socket.portId,
      receive: () => socket.receive(),
      onReadable: (callback) => socket.onReadable(callback),
      close: () => socket.close(),
      send: (bytes) => {
        for (const message of readMessages(bytes.slice())) {
          // Types come in fours, of which the third asks.
          if ((message.type & 3) !== 2)
            this.writes.push(describeMessage({ ...message, flags: 0, sequence: 0 }))
        }
        socket.send(bytes)
      },
    }
  }
}

/** eth0 as `prepare` makes it, and one more address, on whose link there is room for all peers. */
const BASE: Partial<KernelState> = {
  routes: [
    '192.0.2.0/24 dev eth0 proto kernel scope link src 192.0.2.1',
    '10.9.0.0/16 dev eth0 proto kernel scope link src 10.9.255.254',
  ],
  addresses: ['eth0 192.0.2.1/24', 'eth0 10.9.255.254/16'],
}
