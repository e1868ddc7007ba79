import type { NetlinkRequest } from '../netlink/request.ts'
import type { DeltaTracker } from './delta.ts'

/** The kernel tables that backends write to. */
export type TableName = 'neighbour' | 'fdb' | 'nexthop' | 'route'

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
    yield {
      table,
      key,
      action: 'write',
      request: request(entry),
      acknowledged: () => tracker.hold(key, entry),
    }
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
    yield { table, key, action: 'delete', request: request(entry), acknowledged: () => tracker.lose(key) }
  }
}
