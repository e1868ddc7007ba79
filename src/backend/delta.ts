/** How a wanted entry stands in the kernel, as far as is known. */
export type EntryState = 'ok' | 'missing' | 'differs'

/**
 * One kernel table, as it should be beside as it is.
 *
 *   wanted ──┐
 *            ├── differing keys ──> missing() to write, extra() to delete
 *   held ────┘
 *
 * A key is what the kernel finds an entry by when it deletes it; everything else is the entry's value, and
 * `same` compares it. Only keys that differ are remembered apart, so that one join in a cluster of thousands
 * costs one entry and not a walk of the table. An entry is held once the kernel acknowledged it, a complete
 * dump showed it, or a notification said so: belief follows acknowledgement. `W` is what we want, which may be
 * narrower than the `E` that the kernel can show.
 */
export class DeltaTracker<K, E, W extends E = E> {
  readonly #same: (a: E, b: E) => boolean
  readonly #wanted = new Map<K, W>()
  readonly #held = new Map<K, E>()
  readonly #differing = new Set<K>()

  constructor(same: (a: E, b: E) => boolean) {
    this.#same = same
  }

  want(key: K, entry: W): void {
    this.#wanted.set(key, entry)
    this.#compare(key)
  }

  unwant(key: K): void {
    if (this.#wanted.delete(key)) this.#compare(key)
  }

  /** The kernel holds this entry. Returns whether that was news. */
  hold(key: K, entry: E): boolean {
    const before = this.#held.get(key)
    this.#held.set(key, entry)
    this.#compare(key)
    return before === undefined || !this.#same(before, entry)
  }

  /** The kernel holds nothing under this key. Returns whether that was news. */
  lose(key: K): boolean {
    const held = this.#held.delete(key)
    if (held) this.#compare(key)
    return held
  }

  /** A complete dump: what it lacks is not held. Returns the keys whose held entry was not as believed. */
  holdExactly(entries: Iterable<readonly [K, E]>): K[] {
    const surprising: K[] = []
    const seen = new Set<K>()
    for (const [key, entry] of entries) {
      seen.add(key)
      if (this.hold(key, entry)) surprising.push(key)
    }
    for (const key of this.#held.keys()) {
      if (!seen.has(key)) {
        this.lose(key)
        surprising.push(key)
      }
    }
    return surprising
  }

  wanted(key: K): W | undefined {
    return this.#wanted.get(key)
  }

  held(key: K): E | undefined {
    return this.#held.get(key)
  }

  /** Whether the kernel is known to hold exactly what is wanted under this key. */
  settled(key: K): boolean {
    return !this.#differing.has(key)
  }

  state(key: K): EntryState {
    return this.settled(key) ? 'ok' : this.#held.has(key) ? 'differs' : 'missing'
  }

  /** Wanted entries that the kernel lacks or holds with another value. */
  *missing(): Generator<[K, W]> {
    for (const key of this.#differing) {
      const entry = this.#wanted.get(key)
      if (entry !== undefined) yield [key, entry]
    }
  }

  /** Held entries that nothing wants. */
  *extra(): Generator<[K, E]> {
    for (const key of this.#differing) {
      if (this.#wanted.has(key)) continue
      const entry = this.#held.get(key)
      if (entry !== undefined) yield [key, entry]
    }
  }

  heldEntries(): Iterable<[K, E]> {
    return this.#held.entries()
  }

  get counts(): { readonly wanted: number; readonly held: number; readonly differing: number } {
    return { wanted: this.#wanted.size, held: this.#held.size, differing: this.#differing.size }
  }

  #compare(key: K): void {
    const wanted = this.#wanted.get(key)
    const held = this.#held.get(key)
    const settled = wanted === undefined ? held === undefined : held !== undefined && this.#same(wanted, held)
    if (settled) this.#differing.delete(key)
    else this.#differing.add(key)
  }
}
