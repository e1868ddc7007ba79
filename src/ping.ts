/** Pings of many addresses at once, through one socket and at a bounded rate. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { EchoSocket } from './icmp.ts'
import type { Ipv4 } from './ip.ts'

/** Packets a second through one socket: of full size, that is 6 MB. */
const RATE = 4_000
/** Packets at most that follow each other without a pause, when the event loop comes late. */
const BURST = 64
/** Milliseconds from one packet to an address to the next. */
const INTERVAL = 20

export interface PingResult {
  readonly sent: number
  readonly received: number
  /** Milliseconds, the mean; undefined without an answer. */
  readonly rtt: number | undefined
}

export interface PingRequest {
  readonly addresses: readonly Ipv4[]
  /** Bytes of a packet, headers and all; none is fragmented. */
  readonly size: number
  /** Packets to each address. */
  readonly count: number
  /** undefined: the kernel chooses. */
  readonly source?: Ipv4 | undefined
  /** Milliseconds to wait for the last answers; 1,000 when it is left out. */
  readonly wait?: number
  /** Called after each packet that was sent. */
  readonly onSent?: () => void
}

/** Resolves to how each address answered. Requests may overlap: they share the rate. */
export type Ping = (request: PingRequest) => Promise<ReadonlyMap<Ipv4, PingResult>>

interface Tally {
  sent: number
  received: number
  /** Milliseconds, of all answers together. */
  took: number
}

interface Waiting {
  readonly to: Ipv4
  readonly at: number
  readonly tally: Tally
}

/** Pings through this socket, of which it alone reads from now on. `now` is in milliseconds. */
export function pingThrough(socket: EchoSocket, now: () => number = () => performance.now()): Ping {
  /** What is not answered yet, by sequence number. */
  const waiting = new Map<number, Waiting>()
  let sequence = 0
  /** When the next packet may go. */
  let next = 0
  socket.onReadable(drain)

  function drain(): void {
    for (let answer = socket.receive(); answer !== undefined; answer = socket.receive()) {
      const asked = waiting.get(answer.sequence)
      if (asked?.to !== answer.from) continue
      waiting.delete(answer.sequence)
      asked.tally.received++
      asked.tally.took += now() - asked.at
    }
  }

  return async ({ addresses, size, count, source, wait = 1_000, onSent }) => {
    const tallies = new Map(addresses.map((to): [Ipv4, Tally] => [to, { sent: 0, received: 0, took: 0 }]))
    for (let round = 0; round < count; round++) {
      const begun = now()
      for (const [to, tally] of tallies) {
        // The pause that the event loop gives is longer than a packet's share of a second.
        next = Math.max(next + 1000 / RATE, now() - (1000 * BURST) / RATE)
        const pause = next - now()
        if (pause > 0) await sleep(Math.ceil(pause))
        sequence = (sequence + 1) & 0xffff
        tally.sent++
        const at = now()
        if (socket.send({ to, from: source, size, sequence })) waiting.set(sequence, { to, at, tally })
        onSent?.()
      }
      if (round + 1 < count) await sleep(Math.max(0, begun + INTERVAL - now()))
    }
    const all = [...tallies]
    const end = now() + wait
    while (now() < end && all.some(([, { sent, received }]) => received < sent)) await sleep(10)
    // A busy machine may run the timer before it looks at the socket.
    drain()
    for (const [number, { tally, to }] of waiting) if (tallies.get(to) === tally) waiting.delete(number)
    return new Map(all.map(([to, tally]) => [to, resultOf(tally)]))
  }
}

function resultOf({ sent, received, took }: Tally): PingResult {
  return { sent, received, rtt: received === 0 ? undefined : took / received }
}
