/**
 * When to look at the rules next. A look is due every period, sooner after a failure, and soon after a kick, which
 * is a word from the kernel that something changed. Two things may not happen: that a busy system, whose rules
 * change all the time, makes us look all the time; and that two programs which both insist keep each other busy.
 */

/** A kick waits this long for the rest of the change that it announces, ms. */
const COALESCE = 20
/** Between two checks that kicks ask for: at least this, ms, and 10 times as long as the last check took. */
const MIN_GAP = 100
/** After this many repairs with no quiet time between, somebody works against us; each further one doubles the gap. */
const PATIENCE = 5
const MAX_GAP = 60_000
/** The first retry after a failure, ms; doubles up to the period. */
const FIRST_RETRY = 250

/** Times are milliseconds of a monotonic clock, which the caller passes in. */
export class Pace {
  readonly #period: number
  #lastEnd = Number.NEGATIVE_INFINITY
  #lastTook = 0
  #failures = 0
  #repairs = 0
  #lastRepair = Number.NEGATIVE_INFINITY

  constructor(period: number) {
    this.#period = period
  }

  /** Failed checks since the last that went well. */
  get failures(): number {
    return this.#failures
  }

  /** A check went well. */
  succeeded(begin: number, end: number): void {
    this.#ended(begin, end)
    this.#failures = 0
    const quiet = 2 * Math.max(Math.min(this.#period, MAX_GAP), this.#backOff())
    if (end - this.#lastRepair > quiet) this.#repairs = 0
  }

  failed(begin: number, end: number): void {
    this.#ended(begin, end)
    this.#failures++
  }

  /** Rules were written. True once when it has become clear that somebody keeps undoing it. */
  repaired(now: number): boolean {
    this.#lastRepair = now
    return ++this.#repairs === PATIENCE
  }

  /** How long to sleep when nothing happens. */
  untilNext(): number {
    if (!this.#failures) return Math.max(this.#period, this.#backOff())
    return Math.min(this.#period, FIRST_RETRY * 2 ** (this.#failures - 1))
  }

  /** How long to wait with the check that a kick asks for. */
  holdOff(now: number): number {
    // A check that stood waiting for the lock took long too; kicks must not make the next one later than the period.
    const gap = Math.max(MIN_GAP, Math.min(10 * this.#lastTook, this.#period), this.#backOff())
    return Math.max(COALESCE, this.#lastEnd + gap - now)
  }

  #ended(begin: number, end: number): void {
    this.#lastEnd = end
    this.#lastTook = end - begin
  }

  #backOff(): number {
    const excess = this.#repairs - PATIENCE
    return excess < 0 ? 0 : Math.min(MAX_GAP, MIN_GAP * 2 ** (excess + 1))
  }
}
