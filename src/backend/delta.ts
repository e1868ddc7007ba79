/** How a wanted entry stands in the kernel, as far as is known. */
export type EntryState = 'ok' | 'missing' | 'differs'

/** What is wanted and what is held under one key. It stays this key's row as long as there is either. */
export interface Row<K, E, W extends E = E> {
  readonly key: K
  readonly wanted: W | undefined
  readonly held: E | undefined
  /** Whether the kernel is not known to hold exactly what is wanted. */
  readonly differs: boolean
}

/** A wanted entry that the kernel lacks, or holds with another value. */
export type MissingRow<K, E, W extends E = E> = Row<K, E, W> & { readonly wanted: W }
/** A held entry that nothing wants. */
export type ExtraRow<K, E, W extends E = E> = Row<K, E, W> & { readonly held: E }

/**
 * One kernel table, as it should be beside as it is.
 *
 *   wanted ──┐
 *            ├── differing rows ──> missing() to write, extra() to delete
 *   held ────┘
 *
 * A key is what the kernel finds an entry by when it deletes it; everything else is the entry's value, and
 * `same` compares it. Only rows that differ are listed apart, so that one join in a cluster of thousands
 * costs one entry and not a walk of the table. An entry is held once the kernel acknowledged it, a complete
 * dump showed it, or a notification said so: belief follows acknowledgement. `W` is what we want, which may be
 * narrower than the `E` that the kernel can show.
 */
export class DeltaTracker<K, E, W extends E = E> {
  readonly #same: (a: E, b: E) => boolean
  readonly #rows = new Map<K, TrackedRow<K, E, W>>()
  /** The rows that differ, and some that no longer do. A walk goes on with the list that it began with. */
  #listed: TrackedRow<K, E, W>[] = []
  /** Of the list, in its rows: another one needs no look at those that were in it. */
  #list = 1
  #differing = 0
  #wanted = 0
  #held = 0
  /** Entries of a dump that is being read, or that broke off. */
  #shown = 0

  constructor(same: (a: E, b: E) => boolean) {
    this.#same = same
  }

  want(key: K, entry: W): Row<K, E, W> {
    const row = this.#row(key)
    if (row.wanted === undefined) this.#wanted++
    row.wanted = entry
    this.#compare(row)
    return row
  }

  unwant(key: K): void {
    const row = this.#rows.get(key)
    if (row?.wanted === undefined) return
    this.#wanted--
    row.wanted = undefined
    this.#compare(row)
  }

  /** The kernel acknowledged that it holds what is wanted. The row is one of now: a wanted one is never dropped. */
  acknowledge(row: MissingRow<K, E, W>): void {
    // All rows are made here.
    this.#hold(row as TrackedRow<K, E, W>, row.wanted)
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

  /**
   * A complete dump: what it lacks is not held. `read` hands each entry to what `begin` returns, and begins again when the
   * dump has to start over. Returns the keys whose held entry was not as believed.
   */
  holdExactly(read: (begin: () => (entry: E) => void) => void, keyOf: (entry: E) => K): K[] {
    read(() => {
      if (this.#shown > 0) for (const row of this.#rows.values()) row.shown = undefined
      this.#shown = 0
      return (entry) => {
        this.#shown++
        const row = this.#row(keyOf(entry))
        const { wanted } = row
        // An entry that is as wanted need not outlive its look: there may be thousands.
        row.shown = wanted !== undefined && this.#same(wanted, entry) ? wanted : entry
      }
    })
    // Only now it is known that nothing interrupted the dump, or refused it.
    const surprising: K[] = []
    if (this.#shown === 0 && this.#held === 0 && this.#rows.size === this.#wanted) return surprising
    this.#shown = 0
    for (const row of this.#rows.values()) {
      const { key, wanted, held, shown } = row
      row.shown = undefined
      if (shown !== undefined ? this.#hold(row, shown) : held !== undefined && this.lose(key))
        surprising.push(key)
      else if (shown === undefined && wanted === undefined) this.#rows.delete(key)
    }
    return surprising
  }

  wanted(key: K): W | undefined {
    return this.#rows.get(key)?.wanted
  }

  held(key: K): E | undefined {
    return this.#rows.get(key)?.held
  }

  /** How what is wanted under this key stands. */
  state(key: K): EntryState {
    const row = this.#rows.get(key)
    return row === undefined ? 'ok' : stateOf(row)
  }

  *missing(): Generator<MissingRow<K, E, W>> {
    this.#sweep()
    for (const row of this.#listed) if (isMissing(row)) yield row
  }

  *extra(): Generator<ExtraRow<K, E, W>> {
    this.#sweep()
    for (const row of this.#listed) if (isExtra(row)) yield row
  }

  *heldEntries(): Generator<[K, E]> {
    for (const { key, held } of this.#rows.values()) if (held !== undefined) yield [key, held]
  }

  get counts(): { readonly wanted: number; readonly held: number; readonly differing: number } {
    return { wanted: this.#wanted, held: this.#held, differing: this.#differing }
  }

  #row(key: K): TrackedRow<K, E, W> {
    let row = this.#rows.get(key)
    if (row === undefined) {
      row = { key, wanted: undefined, held: undefined, shown: undefined, differs: false, list: 0 }
      this.#rows.set(key, row)
    }
    return row
  }

  #hold(row: TrackedRow<K, E, W>, entry: E): boolean {
    const before = row.held
    if (before === undefined) this.#held++
    row.held = entry
    this.#compare(row)
    return before === undefined || (before !== row.held && !this.#same(before, entry))
  }

  #compare(row: TrackedRow<K, E, W>): void {
    const { key, wanted, held } = row
    const same = wanted === held || (wanted !== undefined && held !== undefined && this.#same(wanted, held))
    if (same) {
      // Of two equal objects one is kept: a dump of thousands would double what is remembered.
      row.held = wanted
      if (wanted === undefined) this.#rows.delete(key)
    }
    if (same !== row.differs) return
    row.differs = !same
    if (same) {
      if (--this.#differing === 0) this.#relist([])
      return
    }
    this.#differing++
    if (row.list !== this.#list) {
      this.#sweep()
      this.#listed.push(row)
      row.list = this.#list
    }
  }

  #sweep(): void {
    if (this.#listed.length > 2 * this.#differing + SETTLED)
      this.#relist(this.#listed.filter(({ differs }) => differs))
  }

  #relist(rows: TrackedRow<K, E, W>[]): void {
    this.#listed = rows
    this.#list++
    for (const row of rows) row.list = this.#list
  }
}

/** The list is swept before it is walked, or grows, once the rows that no longer differ outnumber those that do by this many. */
const SETTLED = 1024

interface TrackedRow<K, E, W extends E> extends Row<K, E, W> {
  wanted: W | undefined
  held: E | undefined
  /** What the dump that is being read shows. */
  shown: E | undefined
  differs: boolean
  /** The number of the list that it was put into last. */
  list: number
}

export function stateOf(row: Row<unknown, unknown>): EntryState {
  return !row.differs ? 'ok' : row.held !== undefined ? 'differs' : 'missing'
}

function isMissing<K, E, W extends E>(row: Row<K, E, W>): row is MissingRow<K, E, W> {
  return row.differs && row.wanted !== undefined
}

function isExtra<K, E, W extends E>(row: Row<K, E, W>): row is ExtraRow<K, E, W> {
  return row.differs && row.wanted === undefined && row.held !== undefined
}
