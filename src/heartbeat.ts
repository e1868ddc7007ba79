import type { Clock } from './clock.ts'

/** Milliseconds a loop may come late before it counts as stuck: a busy machine is no fault. */
const GRACE = 30_000

/** One loop's word on when it will be heard of again, on the clock's monotonic time. */
export interface Pulse {
  readonly loop: string
  /** When it was last heard of; undefined before it began. */
  readonly last: number | undefined
  /** When it will have been heard of again, unless it is stuck. */
  readonly due: number
}

/**
 * The clock that one loop lives by, which tells whether the loop still goes round.
 *
 *   sleep(ms) ......... woke up ......... sleep(ms) ...
 *   due: now + ms      due: now + `busy`
 *
 * Every loop of this program ends a round by sleeping, so that what it sleeps on knows its pace, and the loop itself need
 * not. A loop that has not slept yet is not watched.
 */
export class Heartbeat implements Clock, Pulse {
  readonly loop: string
  readonly #clock: Clock
  readonly #awake: () => void
  #sleepers = 0
  #last: number | undefined
  #due = Number.POSITIVE_INFINITY

  /** `busy` is how long, in milliseconds, a round may take with all its time-outs. */
  constructor(loop: string, clock: Clock, busy: number) {
    this.loop = loop
    this.#clock = clock
    this.#awake = () => {
      if (--this.#sleepers === 0) this.#expect(busy)
    }
  }

  get last(): number | undefined {
    return this.#last
  }

  get due(): number {
    return this.#due
  }

  now(): number {
    return this.#clock.now()
  }

  wall(): number {
    return this.#clock.wall()
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    this.#sleepers++
    this.#expect(ms)
    return this.#clock.sleep(ms, signal).then(this.#awake)
  }

  #expect(ms: number): void {
    this.#last = this.#clock.now()
    this.#due = this.#last + ms + GRACE
  }
}

/** Those that have not kept their word at `now`. */
export function stuck(pulses: Iterable<Pulse>, now: number): Pulse[] {
  return [...pulses].filter(({ due }) => now > due)
}
