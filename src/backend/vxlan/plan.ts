import type { Subnet } from '../../ip.ts'
import { deleteFdbEntry, replaceFdbEntry } from '../../netlink/fdb.ts'
import { deleteNeighbour, replaceNeighbour } from '../../netlink/neighbour.ts'
import { deleteNexthop, replaceNexthop } from '../../netlink/nexthop.ts'
import { deleteRoute, replaceRoute } from '../../netlink/route.ts'
import { deletions, type May, type Operation, writes } from '../operations.ts'
import type { PeerEntries } from './desired.ts'
import { fdbKey, neighbourKey, routeKey, type Tables } from './tables.ts'

export interface PlanContext {
  readonly tables: Tables
  readonly deviceName: string
  /** The wanted entries of the peer that has this destination. */
  readonly peer: (destination: Subnet) => PeerEntries | undefined
  readonly may: May
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
