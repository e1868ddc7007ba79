import type { Clock } from '../clock.ts'
import type { Logger } from '../log.ts'

/**
 * A failure that repeats, in two lines: its beginning, and its end with a count. A reason that changes meanwhile is
 * logged too.
 */
export class Outage {
  readonly #log: Logger
  readonly #clock: Clock
  #reason: string | undefined
  #since = 0
  failures = 0

  constructor(log: Logger, clock: Clock) {
    this.#log = log
    this.#clock = clock
  }

  fail(reason: string): void {
    if (this.failures++ === 0) this.#since = this.#clock.now()
    if (this.#reason !== reason) this.#log.error(reason)
    this.#reason = reason
  }

  /** Ends the failure; `message` is logged only when there was one. */
  recover(message: string): void {
    if (this.failures === 0) return
    const seconds = Math.round((this.#clock.now() - this.#since) / 1000)
    this.#log.info(`${message} after ${this.failures} failed attempts in ${seconds} s`)
    this.failures = 0
    this.#reason = undefined
  }
}

/** The text of an error for the inside of a log line. */
export function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
