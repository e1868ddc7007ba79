interface Entry {
  tries: number
  last: number
  next: number
}

/** Keys remembered before a look for those that can be forgotten. */
const SWEEP = 1000

function isOver({ last, next }: Entry, now: number): boolean {
  return now - last > Math.max(10_000, 2 * (next - last))
}

/**
 * When to try a key again. A key that keeps failing, or that somebody keeps changing back, waits 1, 2, 4 ...
 * up to 60 seconds between tries, so that it costs its neighbours nothing and a fight never spins. The first
 * `free` tries are not delayed; a key left alone for twice its last delay starts afresh.
 */
export class Backoff<K> {
  readonly #free: number
  readonly #entries = new Map<K, Entry>()
  #sweepAt = SWEEP

  constructor(free: number) {
    this.#free = free
  }

  /** Notes a try at `now` (monotonic ms) and returns how many there have been in this spell. */
  note(key: K, now: number): number {
    let entry = this.#entries.get(key)
    if (entry === undefined || isOver(entry, now)) {
      this.#sweep(now)
      entry = { tries: 0, last: now, next: now }
      this.#entries.set(key, entry)
    }
    entry.tries++
    entry.last = now
    const step = entry.tries - this.#free
    entry.next = step > 0 ? now + Math.min(60_000, 1000 * 2 ** (step - 1)) : now
    return entry.tries
  }

  /** How many keys are remembered. */
  get size(): number {
    return this.#entries.size
  }

  /** Forgets the keys left alone, now and then: somebody may disturb us under ever new ones. */
  #sweep(now: number): void {
    if (this.#entries.size < this.#sweepAt) return
    for (const [key, entry] of this.#entries) if (isOver(entry, now)) this.#entries.delete(key)
    this.#sweepAt = Math.max(SWEEP, 2 * this.#entries.size)
  }

  clear(key: K): void {
    this.#entries.delete(key)
  }

  /** Milliseconds from `now` until the key may be tried; 0 when it may be now. */
  wait(key: K, now: number): number {
    const entry = this.#entries.get(key)
    return entry === undefined ? 0 : Math.max(0, entry.next - now)
  }
}
