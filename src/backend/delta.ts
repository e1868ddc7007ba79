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
  readonly #rows = new Map<K, Row<K, E, W>>()
  readonly #differing = new Set<Row<K, E, W>>()
  #wanted = 0
  #held = 0
  #dumps = 0

  constructor(same: (a: E, b: E) => boolean) {
    this.#same = same
  }

  want(key: K, entry: W): void {
    const row = this.#row(key)
    if (row.wanted === undefined) this.#wanted++
    row.wanted = entry
    this.#compare(row)
  }

  unwant(key: K): void {
    const row = this.#rows.get(key)
    if (row?.wanted === undefined) return
    this.#wanted--
    row.wanted = undefined
    this.#compare(row)
  }

  /** The kernel holds this entry. Returns whether that was news. */
  hold(key: K, entry: E): boolean {
    return this.#hold(this.#row(key), entry)
  }

  /** The kernel holds nothing under this key. Returns whether that was news. */
  lose(key: K): boolean {
    const row = this.#rows.get(key)
    if (row?.held === undefined) return false
    this.#held--
    row.held = undefined
    this.#compare(row)
    return true
  }

  /** A complete dump: what it lacks is not held. Returns the keys whose held entry was not as believed. */
  holdExactly(entries: Iterable<E>, keyOf: (entry: E) => K): K[] {
    const surprising: K[] = []
    const dump = ++this.#dumps
    let seen = 0
    for (const entry of entries) {
      const row = this.#row(keyOf(entry))
      if (row.dump !== dump) seen++
      row.dump = dump
      if (this.#hold(row, entry)) surprising.push(row.key)
    }
    if (seen === this.#held) return surprising
    for (const row of this.#rows.values()) {
      if (row.held !== undefined && row.dump !== dump) {
        this.lose(row.key)
        surprising.push(row.key)
      }
    }
    return surprising
  }

  wanted(key: K): W | undefined {
    return this.#rows.get(key)?.wanted
  }

  held(key: K): E | undefined {
    return this.#rows.get(key)?.held
  }

  /** Whether the kernel is known to hold exactly what is wanted under this key. */
  settled(key: K): boolean {
    const row = this.#rows.get(key)
    return row === undefined || !row.differs
  }

  state(key: K): EntryState {
    return this.settled(key) ? 'ok' : this.held(key) !== undefined ? 'differs' : 'missing'
  }

  /** Wanted entries that the kernel lacks or holds with another value, and that value. */
  *missing(): Generator<[K, W, E | undefined]> {
    for (const { key, wanted, held } of this.#differing) if (wanted !== undefined) yield [key, wanted, held]
  }

  /** Held entries that nothing wants. */
  *extra(): Generator<[K, E]> {
    for (const { key, wanted, held } of this.#differing) {
      if (wanted === undefined && held !== undefined) yield [key, held]
    }
  }

  *heldEntries(): Generator<[K, E]> {
    for (const { key, held } of this.#rows.values()) if (held !== undefined) yield [key, held]
  }

  get counts(): { readonly wanted: number; readonly held: number; readonly differing: number } {
    return { wanted: this.#wanted, held: this.#held, differing: this.#differing.size }
  }

  #row(key: K): Row<K, E, W> {
    let row = this.#rows.get(key)
    if (row === undefined) {
      row = { key, wanted: undefined, held: undefined, differs: false, dump: 0 }
      this.#rows.set(key, row)
    }
    return row
  }

  #hold(row: Row<K, E, W>, entry: E): boolean {
    const before = row.held
    if (before === undefined) this.#held++
    // Of two equal objects one is kept: a dump of thousands would double what is remembered.
    const { wanted } = row
    row.held = wanted !== undefined && this.#same(wanted, entry) ? wanted : entry
    this.#compare(row)
    return before === undefined || (before !== row.held && !this.#same(before, entry))
  }

  #compare(row: Row<K, E, W>): void {
    const { key, wanted, held } = row
    // Mostly they are one object: see `hold`.
    const same = wanted === held || (wanted !== undefined && held !== undefined && this.#same(wanted, held))
    if (same && wanted === undefined) this.#rows.delete(key)
    if (same !== row.differs) return
    row.differs = !same
    if (same) this.#differing.delete(row)
    else this.#differing.add(row)
  }
}

interface Row<K, E, W> {
  readonly key: K
  wanted: W | undefined
  held: E | undefined
  /** Whether it is among the differing. */
  differs: boolean
  /** The number of the last dump that showed it. */
  dump: number
}
