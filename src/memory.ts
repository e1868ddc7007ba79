/**
 * Gives back what a burst leaves behind.
 *
 * A first snapshot of a thousand leases, two thousand joins, or a full compare of thousands of entries leave a heap sized for
 * them: V8 grows its young generation, the compilers' scratch memory stays with malloc, and none of it returns by itself while
 * the daemon idles. So when a burst has been quiet for a moment, the heap is collected once and what is free goes back to the
 * kernel.
 */
export class Memory {
  readonly #trim: () => void
  /** The start itself counts as a burst. */
  #used = BURST
  #timer: NodeJS.Timeout | undefined

  /** `trim` collects garbage and gives what is free back to the kernel. */
  constructor(trim: () => void) {
    this.#trim = trim
  }

  /** So many leases or kernel entries were taken in. */
  used(count: number): void {
    this.#used += count
    if (this.#used < BURST) return
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => this.#release(), QUIET)
    this.#timer.unref()
  }

  close(): void {
    clearTimeout(this.#timer)
  }

  #release(): void {
    this.#used = 0
    this.#trim()
  }
}

/** Leases and entries that make a burst. */
const BURST = 500
/** Milliseconds without another. */
const QUIET = 1000
