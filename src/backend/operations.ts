import type { NetlinkRequest } from '../netlink/request.ts'
import type { DeltaTracker, ExtraRow, MissingRow, Row } from './delta.ts'

/** The kernel tables that backends write to. */
export type TableName = 'neighbour' | 'fdb' | 'nexthop' | 'route' | 'peer'

/** A key of one table, for logs, back-off and counters that span all of them. */
export interface TableKey {
  readonly table: TableName
  readonly key: number | string
}

/** One request, and what to believe when the kernel acknowledged it. */
export interface Operation extends TableKey {
  readonly action: 'write' | 'delete'
  /** What is written or deleted, the same object as long as it is the same. */
  readonly entry: unknown
  readonly request: NetlinkRequest
  acknowledged(): void
}

/** What may be done at once, for one connection: several parts, each of them looked at only when its turn comes. */
export type Step = readonly Iterable<Operation>[]

/** False while a key waits for its back-off to run out. */
export type May = (table: TableName, row: Row<number | string, unknown>) => boolean

/** Writes of all that is wanted and not held, of those rows that `when` lets pass. */
export function* writes<K extends number | string, E, W extends E>(
  table: TableName,
  tracker: DeltaTracker<K, E, W>,
  request: (entry: W) => NetlinkRequest,
  may: May,
  when: (row: MissingRow<K, E, W>) => boolean = () => true,
): Generator<Write<K, E, W>> {
  for (const row of tracker.missing()) {
    if (when(row) && may(table, row)) yield new Write(table, row, request(row.wanted), tracker)
  }
}

/** Deletions of all that is held and not wanted, of those rows that `when` lets pass. */
export function* deletions<K extends number | string, E, W extends E>(
  table: TableName,
  tracker: DeltaTracker<K, E, W>,
  request: (entry: E) => NetlinkRequest,
  may: May,
  when: (row: ExtraRow<K, E, W>) => boolean = () => true,
): Generator<Operation> {
  for (const row of tracker.extra()) {
    if (when(row) && may(table, row)) yield new Deletion(table, row, request(row.held), tracker)
  }
}

class Write<K extends number | string, E, W extends E> implements Operation {
  readonly action = 'write'
  readonly table: TableName
  readonly row: MissingRow<K, E, W>
  readonly request: NetlinkRequest
  readonly #tracker: DeltaTracker<K, E, W>

  constructor(
    table: TableName,
    row: MissingRow<K, E, W>,
    request: NetlinkRequest,
    tracker: DeltaTracker<K, E, W>,
  ) {
    this.table = table
    this.row = row
    this.request = request
    this.#tracker = tracker
  }

  get key(): K {
    return this.row.key
  }

  get entry(): W {
    return this.row.wanted
  }

  acknowledged(): void {
    this.#tracker.acknowledge(this.row)
  }
}

class Deletion<K extends number | string, E, W extends E> implements Operation {
  readonly action = 'delete'
  readonly table: TableName
  readonly key: K
  readonly entry: E
  readonly request: NetlinkRequest
  readonly #tracker: DeltaTracker<K, E, W>

  constructor(
    table: TableName,
    row: ExtraRow<K, E, W>,
    request: NetlinkRequest,
    tracker: DeltaTracker<K, E, W>,
  ) {
    this.table = table
    this.key = row.key
    this.entry = row.held
    this.request = request
    this.#tracker = tracker
  }

  acknowledged(): void {
    this.#tracker.lose(this.key)
  }
}
