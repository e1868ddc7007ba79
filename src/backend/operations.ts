import type { NetlinkRequest } from '../netlink/request.ts'
import type { DeltaTracker } from './delta.ts'

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
  readonly request: NetlinkRequest
  acknowledged(): void
}

/** False while a key waits for its back-off to run out. */
export type May = (key: TableKey) => boolean

/** Writes of all that is wanted and not held, of those entries that `when` lets pass. */
export function* writes<K extends number | string, E, W extends E>(
  table: TableName,
  tracker: DeltaTracker<K, E, W>,
  request: (entry: W) => NetlinkRequest,
  may: May,
  when: (entry: W) => boolean = () => true,
): Generator<Operation> {
  for (const [key, entry] of tracker.missing()) {
    if (!when(entry) || !may({ table, key })) continue
    yield new Write(table, key, request(entry), tracker, entry)
  }
}

/** Deletions of all that is held and not wanted, of those entries that `when` lets pass. */
export function* deletions<K extends number | string, E, W extends E>(
  table: TableName,
  tracker: DeltaTracker<K, E, W>,
  request: (entry: E) => NetlinkRequest,
  may: May,
  when: (entry: E, key: K) => boolean = () => true,
): Generator<Operation> {
  for (const [key, entry] of tracker.extra()) {
    if (!when(entry, key) || !may({ table, key })) continue
    yield new Deletion(table, key, request(entry), tracker)
  }
}

/** One step of a plan out of several parts, each looked at only when its turn comes. */
export function* step(...parts: readonly Iterable<Operation>[]): Generator<Operation> {
  for (const part of parts) yield* part
}

class Write<K extends number | string, E, W extends E> implements Operation {
  readonly action = 'write'
  readonly table: TableName
  readonly key: K
  readonly request: NetlinkRequest
  readonly #tracker: DeltaTracker<K, E, W>
  readonly #entry: W

  constructor(table: TableName, key: K, request: NetlinkRequest, tracker: DeltaTracker<K, E, W>, entry: W) {
    this.table = table
    this.key = key
    this.request = request
    this.#tracker = tracker
    this.#entry = entry
  }

  acknowledged(): void {
    this.#tracker.hold(this.key, this.#entry)
  }
}

class Deletion<K extends number | string, E, W extends E> implements Operation {
  readonly action = 'delete'
  readonly table: TableName
  readonly key: K
  readonly request: NetlinkRequest
  readonly #tracker: DeltaTracker<K, E, W>

  constructor(table: TableName, key: K, request: NetlinkRequest, tracker: DeltaTracker<K, E, W>) {
    this.table = table
    this.key = key
    this.request = request
    this.#tracker = tracker
  }

  acknowledged(): void {
    this.#tracker.lose(this.key)
  }
}
