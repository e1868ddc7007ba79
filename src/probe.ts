/**
 * Pings of every peer, again and again, by the running daemon: whether packets get through, which no table of the kernel can
 * tell. In a bundle of its own, loaded when it is turned on.
 *
 *   turn of a peer .................... its next turn, an interval later
 *   answered the last ping, or lost it; the next is sent
 *
 * Turns are spread over the interval, so that thousands of peers are a trickle and no burst.
 */
import type { Clock } from './clock.ts'
import { Durations } from './durations.ts'
import { type EchoSocket, openEchoSocket } from './icmp.ts'
import { formatIpv4, formatSubnet, type Ipv4, type Subnet } from './ip.ts'
import type { Logger } from './log.ts'
import { NativeError } from './native.ts'

/** Pings in a row that a peer loses before it counts as unreachable. */
export const LOST_IN_A_ROW = 3
/** Milliseconds between two bursts of pings, at least and at most. */
const SHORTEST_PAUSE = 200
const LONGEST_PAUSE = 1_000
/** Pings in one burst: with the pause, 5,000 a second. A round of more peers than that takes longer than the interval. */
const BURST = 1_000
/** Bytes: as `ping` sends them. */
const SIZE = 84
/** Peers that a line of the log names. */
const NAMED = 8
/** Upper ends of the buckets, in seconds: a link of a data centre, up to the other side of the world. */
const RTT_BOUNDS = [
  0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,
] as const

export interface Pinged {
  readonly subnet: Subnet
  readonly publicIP: Ipv4
}

export interface ProberOptions {
  readonly socket: EchoSocket
  readonly clock: Clock
  readonly log: Logger
  /** Milliseconds between two pings of a peer. */
  readonly interval: number
  /** All peers there are now. */
  readonly peers: () => Iterable<Pinged>
  /** What answers for a peer. */
  readonly addressOf: (peer: Pinged) => Ipv4
}

/** `rtt` is the last answer's, in milliseconds; `reachable` is undefined until the first answer or loss can tell. */
export interface Reachability {
  readonly reachable: boolean | undefined
  readonly rtt: number | undefined
}

interface Probed {
  readonly address: Ipv4
  peer: Pinged
  reachable: boolean | undefined
  rtt: number | undefined
  lost: number
  /** Of the ping that is under way; undefined when it is answered. */
  waits: number | undefined
  sentAt: number
}

/** undefined, with the reason logged, when this process may not send pings. */
export function openProber(options: Omit<ProberOptions, 'socket'>): Prober | undefined {
  try {
    return new Prober({ ...options, socket: openEchoSocket() })
  } catch (error) {
    if (!(error instanceof NativeError)) throw error
    options.log.warn(
      `Peers are not pinged: ${error.message}: give flanneld CAP_NET_RAW, or leave -peer-probe-interval out`,
    )
    return undefined
  }
}

export class Prober {
  readonly interval: number
  /** Of all answers so far. */
  readonly rtts = new Durations(RTT_BOUNDS)
  readonly #options: ProberOptions
  #probed = new Map<Ipv4, Probed>()
  #sequence = 0
  #rounds = 0
  #lost = 0
  /** Whose state has changed since the last line of the log. */
  #gone: Probed[] = []
  #back: Probed[] = []
  #toldAt = Number.NEGATIVE_INFINITY

  constructor(options: ProberOptions) {
    this.#options = options
    this.interval = options.interval
  }

  /** Rounds begun so far. */
  get rounds(): number {
    return this.#rounds
  }

  /** Pings that no answer came to until the next. */
  get lost(): number {
    return this.#lost
  }

  of(peer: Pinged): Reachability {
    return this.#probed.get(this.#options.addressOf(peer)) ?? { reachable: undefined, rtt: undefined }
  }

  /** How many peers are in each state, and the last round trips of those that answer, in milliseconds. */
  get summary() {
    const count = { reachable: 0, unreachable: 0, pending: 0 }
    const rtts: number[] = []
    for (const { reachable, rtt } of this.#probed.values()) {
      count[reachable === undefined ? 'pending' : reachable ? 'reachable' : 'unreachable']++
      if (reachable && rtt !== undefined) rtts.push(rtt)
    }
    const sorted = Float64Array.from(rtts).sort()
    const at = (share: number): number => sorted[Math.floor(share * (sorted.length - 1))] ?? 0
    return { ...count, rtt: rtts.length === 0 ? undefined : { least: at(0), median: at(0.5), most: at(1) } }
  }

  /** Until the signal fires. Closes the socket. */
  async run(signal: AbortSignal): Promise<void> {
    const { socket, clock, interval } = this.#options
    socket.onReadable(() => this.#drain())
    try {
      let round: readonly Probed[] = []
      let turn = 0
      let began = Number.NEGATIVE_INFINITY
      while (!signal.aborted) {
        const now = clock.now()
        if (turn === round.length && now - began >= interval) {
          round = this.#nextRound()
          turn = 0
          began = now
        }
        const pause = Math.min(Math.max(interval / round.length, SHORTEST_PAUSE), LONGEST_PAUSE)
        const due = Math.ceil((round.length * (now - began + pause)) / interval)
        for (const end = Math.min(due, turn + BURST, round.length); turn < end; turn++) {
          // What waits in the socket is not lost, and would be slower than it was if it waited for the end of the burst.
          this.#drain()
          const probed = round[turn]
          if (probed !== undefined) this.#ping(probed)
        }
        this.#tell()
        await clock.sleep(pause, signal)
      }
    } finally {
      socket.close()
    }
  }

  /** Those that are peers now; what is known of them stays, and the others are forgotten. */
  #nextRound(): readonly Probed[] {
    const { peers, addressOf } = this.#options
    const before = this.#probed
    this.#probed = new Map()
    for (const peer of peers()) {
      const address = addressOf(peer)
      const known = before.get(address)
      if (known !== undefined) known.peer = peer
      const fresh = { reachable: undefined, rtt: undefined, lost: 0, waits: undefined, sentAt: 0 }
      this.#probed.set(address, known ?? { address, peer, ...fresh })
    }
    this.#rounds++
    return [...this.#probed.values()]
  }

  #ping(probed: Probed): void {
    if (probed.waits !== undefined) {
      this.#lost++
      if (++probed.lost >= LOST_IN_A_ROW && probed.reachable !== false) {
        probed.reachable = false
        this.#gone.push(probed)
      }
    }
    this.#sequence = (this.#sequence + 1) & 0xffff
    probed.waits = this.#sequence
    probed.sentAt = this.#options.clock.now()
    // One that does not leave is lost like any other.
    this.#options.socket.send({
      to: probed.address,
      from: undefined,
      size: SIZE,
      sequence: this.#sequence,
    })
  }

  #drain(): void {
    const { socket, clock } = this.#options
    for (let answer = socket.receive(); answer !== undefined; answer = socket.receive()) {
      const probed = this.#probed.get(answer.from)
      if (probed === undefined || probed.waits !== answer.sequence) continue
      probed.waits = undefined
      probed.lost = 0
      probed.rtt = clock.now() - probed.sentAt
      this.rtts.add(probed.rtt)
      if (probed.reachable === true) continue
      if (probed.reachable === false) this.#back.push(probed)
      probed.reachable = true
    }
  }

  /** The first at once, all others of the same round in one line: when a switch fails, that is everybody. */
  #tell(): void {
    const { log, clock, interval } = this.#options
    const now = clock.now()
    if (this.#gone.length + this.#back.length === 0 || now - this.#toldAt < interval) return
    this.#toldAt = now
    const { unreachable } = this.summary
    const tail = `${unreachable} of ${this.#probed.size} do not answer`
    const still = (probed: Probed): boolean => this.#probed.get(probed.address) === probed
    const [gone, back] = [this.#gone.filter(still), this.#back.filter(still)]
    if (gone.length > 0) log.warn(`Peers no longer answer pings: ${names(gone)}; ${tail}`)
    if (back.length > 0) log.info(`Peers answer pings again: ${names(back)}; ${tail}`)
    this.#gone = []
    this.#back = []
  }
}

function names(probed: readonly Probed[]): string {
  const shown = probed
    .slice(0, NAMED)
    .map(({ peer }) => `${formatSubnet(peer.subnet)} (${formatIpv4(peer.publicIP)})`)
  const rest = probed.length - shown.length
  return shown.join(', ') + (rest > 0 ? ` and ${rest} more` : '')
}
