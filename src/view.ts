import type { Network } from './backend/backend.ts'
import type { Clock } from './clock.ts'
import { EventRing } from './events.ts'
import type { Pulse } from './heartbeat.ts'
import { type Subnet, subnetKey } from './ip.ts'
import type { Level, LeveledLogger } from './log.ts'
import type { Firewall } from './masq/firewall.ts'
import type { Rtnl } from './netlink/conn.ts'
import type { Monitor } from './netlink/monitor.ts'
import type { Prober } from './probe.ts'
import {
  buildStatus,
  type Health,
  healthOf,
  isSound,
  type NetworkSource,
  type PeerLine,
  type PeerSource,
  type Phase,
  peerLine,
  type Status,
  type StatusSources,
} from './status.ts'
import type { NetworkConfig } from './subnet/config.ts'
import type { EtcdTally } from './subnet/etcd/tally.ts'
import type { LeaseKeeper } from './subnet/keeper.ts'
import type { Lease } from './subnet/lease.ts'
import type { LeaseTable } from './subnet/table.ts'
import type { WatchProgress } from './subnet/watch.ts'
import type { UnderlayWatcher } from './underlay.ts'

/** Changes of leases that become an event each; more of them at once become one. */
const MOST_AT_ONCE = 32

/** The parts, as they come to be in the course of a start. */
export interface ViewedParts {
  tally?: EtcdTally
  firewall?: Firewall
  rtnl?: Rtnl
  monitor?: Monitor
  config?: NetworkConfig
  underlay?: Pick<UnderlayWatcher, 'current' | 'up'>
  keeper?: LeaseKeeper
  network?: Network
  table?: LeaseTable
  watch?: WatchProgress
  prober?: Prober
}

/**
 * A window into the running daemon. Whoever makes a part puts it here; whoever wants to look in (control socket, health,
 * metrics, watchdog) asks here. It keeps the recent events and nothing else.
 */
export class View {
  phase: Phase = 'starting'
  readonly parts: ViewedParts = {}
  readonly pulses: Pulse[] = []
  readonly events: EventRing
  readonly #clock: Clock
  readonly #about: Pick<StatusSources, 'version' | 'pid' | 'etcdPrefix' | 'masquerade' | 'forwardRules'>
  readonly #startedAt: number
  /** When leases changed since the first list, wall clock, by subnet. */
  readonly #changed = new Map<number, number>()
  readonly #ready = new AbortController()
  #log: LeveledLogger | undefined
  /** The level that `toggleDebug` goes back to. */
  #quiet: Level = 'info'

  constructor(
    clock: Clock,
    about: Pick<StatusSources, 'version' | 'pid' | 'etcdPrefix' | 'masquerade' | 'forwardRules'>,
  ) {
    this.#clock = clock
    this.#about = about
    this.#startedAt = clock.wall()
    this.events = new EventRing({ wall: () => clock.wall() })
  }

  /** The log whose level is shown and set. */
  watchLog(log: LeveledLogger): void {
    this.#log = log
  }

  get logLevel(): Level {
    return this.#log?.level ?? 'info'
  }

  setLogLevel(level: Level): void {
    if (this.#log === undefined || this.#log.level === level) return
    const before = this.#log.level
    this.#log.level = level
    this.#log.info(`Log level changed from ${before} to ${level}`)
  }

  /** From any other level to debug, and back. */
  toggleDebug(): void {
    const { logLevel } = this
    const talks = logLevel === 'debug' || logLevel === 'trace'
    if (!talks) this.#quiet = logLevel
    this.setLogLevel(talks ? this.#quiet : 'debug')
  }

  /** Fires when lease, kernel and files are there for the first time. */
  get ready(): AbortSignal {
    return this.#ready.signal
  }

  becameReady(): void {
    this.#ready.abort()
  }

  /** Peers' leases that came or changed, and subnets of those that went, since the first list. */
  leasesChanged({
    put,
    removed,
  }: {
    readonly put: readonly Lease[]
    readonly removed: readonly Subnet[]
  }): void {
    const at = this.#clock.wall()
    for (const { subnet } of put) this.#changed.set(subnetKey(subnet), at)
    for (const subnet of removed) this.#changed.delete(subnetKey(subnet))
    if (put.length + removed.length > MOST_AT_ONCE) {
      this.events.note('info', `${put.length} leases put, ${removed.length} deleted at once`)
      return
    }
    for (const { subnet, attributes } of put) this.events.lease('put', subnet, attributes.publicIP)
    for (const subnet of removed) this.events.lease('delete', subnet)
  }

  status(): Status {
    return buildStatus(this.#sources())
  }

  health(): Health {
    return healthOf(this.#sources())
  }

  /** At most `limit` peers, those with something amiss first; each is looked at when it is asked for. */
  *peers(limit = Number.POSITIVE_INFINITY): Generator<PeerLine> {
    let left = limit
    for (const wanted of [false, true]) {
      for (const peer of this.#peers()) {
        if (left <= 0) return
        const probed = this.parts.prober?.of(peer)
        if (isSound(peer, probed) !== wanted) continue
        left--
        yield peerLine(peer, this.#changed.get(subnetKey(peer.subnet)), probed)
      }
    }
  }

  /** Of a backend that has no entries to look at, what the leases say. */
  *#peers(): Iterable<PeerSource> {
    const { network, table } = this.parts
    if (network?.peers !== undefined) return yield* network.peers()
    for (const { subnet, attributes } of table?.leases() ?? []) {
      yield { subnet, publicIP: attributes.publicIP, mac: undefined, route: 'other', entries: {} }
    }
  }

  #sources(): StatusSources {
    const { underlay, network, ...parts } = this.parts
    return {
      ...this.#about,
      ...parts,
      clock: this.#clock,
      startedAt: this.#startedAt,
      phase: this.phase,
      logLevel: this.logLevel,
      pulses: this.pulses,
      filesWritten: this.#ready.signal.aborted,
      underlay: underlay && { ...underlay.current, up: underlay.up },
      overlay: network && snapshot(network),
    }
  }
}

/** Each getter is asked once: those that count walk over all peers. */
function snapshot({ name, mtu, status, details, history }: Network): NetworkSource {
  return { name, mtu, status, ...(details && { details }), ...(history && { history }) }
}
