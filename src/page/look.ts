import { setImmediate as otherWork } from 'node:timers/promises'
import type { Clock } from '../clock.ts'
import type { Event } from '../events.ts'
import { parseCidr } from '../ip.ts'
import type { PeerLine, Status } from '../status.ts'
import { PEER_STATES, type PeerState, stateOf } from './select.ts'

/** What is looked at: `View` is the real one. */
export interface Viewed {
  status(): Status
  peers(): Iterable<PeerLine>
  readonly events: { since(seq: number): Iterable<Event> }
}

/** All peers at one moment, in the order of their subnets. */
export interface Peers {
  /** Differs from that of any other list. */
  readonly edition: number
  readonly lines: readonly PeerLine[]
  readonly count: Readonly<Record<PeerState, number>>
}

export interface Look {
  readonly status: Status
  readonly peers: Peers
  /** Newest first. */
  readonly events: readonly Event[]
}

/** Milliseconds that a status serves everybody who asks. */
const STATUS_SERVES = 1_000
/** Milliseconds that a list of peers serves although something has changed; as many per peer, for large clusters, besides. */
const PEERS_SERVE = 1_000
const PEERS_SERVE_EACH = 1
/** Milliseconds after which nothing is kept for a page that nobody looks at any more. */
const KEPT = 30_000
/** Peers that are looked at in one go, before other work has its turn. */
const AT_ONCE = 250
const EVENTS = 80

/**
 * The daemon as all who look at the page see it. However many they are and however often they ask, the status is read at most
 * once a second, and the peers only when the status shows that something about them has changed.
 */
export class Looks {
  readonly #view: Viewed
  readonly #clock: Clock
  #look: { readonly at: number; readonly look: Promise<Look> } | undefined
  #peers: { readonly at: number; readonly sign: string; readonly peers: Peers } | undefined
  #edition = 0
  #forget: NodeJS.Timeout | undefined

  constructor(view: Viewed, clock: Clock) {
    this.#view = view
    this.#clock = clock
  }

  /** How things stand, or stood a second ago. */
  async take(): Promise<Look> {
    const now = this.#clock.now()
    if (this.#look === undefined || now - this.#look.at >= STATUS_SERVES) {
      const look = this.#take(now)
      this.#look = { at: now, look }
      // The next to ask tries again.
      look.catch(() => {
        this.#look = undefined
      })
    }
    clearTimeout(this.#forget)
    this.#forget = setTimeout(() => {
      this.#look = undefined
      this.#peers = undefined
    }, KEPT).unref()
    return await this.#look.look
  }

  async #take(now: number): Promise<Look> {
    const status = this.#view.status()
    const peers = await this.#peersOf(status, now)
    return { status, peers, events: [...this.#view.events.since(0)].slice(-EVENTS).reverse() }
  }

  async #peersOf(status: Status, now: number): Promise<Peers> {
    const kept = this.#peers
    const sign = signOf(status)
    const serves = kept === undefined ? 0 : PEERS_SERVE + kept.peers.lines.length * PEERS_SERVE_EACH
    if (kept !== undefined && (kept.sign === sign || now - kept.at < serves)) return kept.peers
    const lines: PeerLine[] = []
    for (const line of this.#view.peers()) {
      if (lines.push(line) % AT_ONCE === 0) await otherWork()
    }
    const peers = arrange(lines, ++this.#edition)
    this.#peers = { at: now, sign, peers }
    return peers
  }
}

/** Exported for tests: sorts and counts. */
export function arrange(lines: readonly PeerLine[], edition = 1): Peers {
  const order = new Map(lines.map((line) => [line, parseCidr(line.subnet)?.address ?? 0]))
  const count = Object.fromEntries(PEER_STATES.map((state) => [state, 0])) as Record<PeerState, number>
  for (const line of lines) count[stateOf(line)]++
  return { edition, lines: [...lines].sort((a, b) => (order.get(a) ?? 0) - (order.get(b) ?? 0)), count }
}

/** Changes with whatever changes peers: an apply that wrote, or a compare that found something, took a time of its own. */
function signOf({ leases, kernel, etcd, probes }: Status): string {
  const { lastApply, lastCompare, tables, repairs, trouble } = kernel ?? {}
  return JSON.stringify([
    leases.inUse,
    // Backends without entries have nothing but the leases.
    kernel?.lastApply ? 0 : etcd.watch?.index,
    ...[tables, repairs, trouble],
    // Round trips are as new as the last round.
    ...[probes?.rounds, probes?.reachable, probes?.unreachable],
    ...[lastApply, lastCompare].map((round) => (round?.entries ? [round.tookMs, round.entries] : 0)),
  ])
}
