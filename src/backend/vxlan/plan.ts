import type { Subnet } from '../../ip.ts'
import { deleteFdbEntry, replaceFdbEntry } from '../../netlink/fdb.ts'
import { deleteNeighbour, replaceNeighbour } from '../../netlink/neighbour.ts'
import { deleteNexthop, replaceNexthop } from '../../netlink/nexthop.ts'
import type { NetlinkRequest } from '../../netlink/request.ts'
import { deleteRoute, replaceRoute } from '../../netlink/route.ts'
import type { DeltaTracker } from '../delta.ts'
import type { PeerEntries } from './desired.ts'
import { fdbKey, neighbourKey, routeKey, type TableKey, type TableName, type Tables } from './tables.ts'

/** One request, and what to believe when the kernel acknowledged it. */
export interface Operation extends TableKey {
  readonly action: 'write' | 'delete'
  readonly request: NetlinkRequest
  acknowledged(): void
}

export interface PlanContext {
  readonly tables: Tables
  readonly deviceName: string
  /** The wanted entries of the peer that has this destination. */
  readonly peer: (destination: Subnet) => PeerEntries | undefined
  /** False while a key waits for its back-off to run out. */
  readonly may: (key: TableKey) => boolean
}

/**
 * The steps from the tables as held to the tables as wanted, one batch each:
 *
 *   1. routes to nowhere go, before what they lead through goes;
 *   2. neighbours, FDB entries and nexthop objects are written, before a route can lead to them;
 *   3. routes are written, each only once its own neighbour, FDB entry and nexthop stand;
 *   4. wrong routes beside a right one go;
 *   5. neighbours, FDB entries and nexthop objects that nothing uses go.
 *
 * It is a generator, so that each step is made from what the kernel acknowledged of the step before; it writes
 * nothing itself. Every key that is neither wanted nor held is not touched.
 */
export function* plan({ tables, deviceName, peer, may }: PlanContext): Generator<Operation[]> {
  const { neighbours, fdb, nexthops, routes } = tables

  yield [...deletions('route', routes, deleteRoute, may, (route) => peer(route.destination) === undefined)]

  yield [
    ...writes('neighbour', neighbours, (n) => replaceNeighbour(n, deviceName), may),
    ...writes('fdb', fdb, (f) => replaceFdbEntry(f, deviceName), may),
    ...writes('nexthop', nexthops, (n) => replaceNexthop(n, deviceName), may),
  ]

  yield [
    ...writes(
      'route',
      routes,
      (r) => replaceRoute(r, deviceName),
      may,
      (route) => {
        const entries = peer(route.destination)
        return entries !== undefined && standsFor(tables, entries)
      },
    ),
  ]

  yield [
    ...deletions('route', routes, deleteRoute, may, (route) => {
      const entries = peer(route.destination)
      return entries !== undefined && routes.settled(routeKey(entries.route))
    }),
  ]

  yield [
    ...deletions('neighbour', neighbours, (n) => deleteNeighbour(n, deviceName), may),
    ...deletions('fdb', fdb, (f) => deleteFdbEntry(f, deviceName), may),
    ...deletions('nexthop', nexthops, (n) => deleteNexthop(n.id), may),
  ]
}

/** Whether all that a peer's route leads through is in the kernel. */
function standsFor(tables: Tables, { neighbour, fdb, nexthop }: PeerEntries): boolean {
  return (
    (neighbour === undefined || tables.neighbours.settled(neighbourKey(neighbour))) &&
    (fdb === undefined || tables.fdb.settled(fdbKey(fdb))) &&
    (nexthop === undefined || tables.nexthops.settled(nexthop.id))
  )
}

function* writes<K extends number | string, E, W extends E>(
  table: TableName,
  tracker: DeltaTracker<K, E, W>,
  request: (entry: W) => NetlinkRequest,
  may: (key: TableKey) => boolean,
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

function* deletions<K extends number | string, E, W extends E>(
  table: TableName,
  tracker: DeltaTracker<K, E, W>,
  request: (entry: E) => NetlinkRequest,
  may: (key: TableKey) => boolean,
  when: (entry: E) => boolean = () => true,
): Generator<Operation> {
  for (const [key, entry] of tracker.extra()) {
    if (!when(entry) || !may({ table, key })) continue
    yield { table, key, action: 'delete', request: request(entry), acknowledged: () => tracker.lose(key) }
  }
}
