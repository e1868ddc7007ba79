import type { Clock } from '../clock.ts'
import type { Logger } from '../log.ts'

/** Reasons that one outage may give; what goes on beyond that is only counted. */
const MOST_REASONS = 8

/**
 * A failure that repeats, in two lines: its beginning, and its end with a count. Another reason meanwhile is a line of
 * its own, the first time it is given.
 */
export class Outage {
  readonly #log: Logger
  readonly #clock: Clock
  readonly #reasons = new Set<string>()
  #since = 0
  failures = 0

  constructor(log: Logger, clock: Clock) {
    this.#log = log
    this.#clock = clock
  }

  fail(reason: string): void {
    if (this.failures++ === 0) this.#since = this.#clock.now()
    // etcd ends its errors with its index, which grows with every write of anybody
    const known = reason.replace(/\[\d+\]/g, '[]')
    if (this.#reasons.has(known) || this.#reasons.size >= MOST_REASONS) return
    this.#reasons.add(known)
    this.#log.error(reason)
  }

  /** Ends the failure; `message` is logged only when there was one. */
  recover(message: string): void {
    if (this.failures === 0) return
    const seconds = Math.round((this.#clock.now() - this.#since) / 1000)
    this.#log.info(`${message} after ${this.failures} failed attempts in ${seconds} s`)
    this.failures = 0
    this.#reasons.clear()
  }
}

/** The text of an error for the inside of a log line. */
export function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
