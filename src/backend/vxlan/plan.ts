import { deleteFdbEntry, replaceFdbEntry } from '../../netlink/fdb.ts'
import { deleteNeighbour, replaceNeighbour } from '../../netlink/neighbour.ts'
import { deletions, type May, type Step, writes } from '../operations.ts'
import type { PeerRoutes } from '../routes.ts'
import type { Tables } from './tables.ts'

export interface PlanContext {
  readonly tables: Tables
  readonly routes: PeerRoutes
  readonly deviceName: string
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
 * nothing itself. Within a step, what is acknowledged drops out while the rest is still being listed. Every key that
 * is neither wanted nor held is not touched.
 */
export function* plan({ tables, routes, deviceName, may }: PlanContext): Generator<Step> {
  const { neighbours, fdb } = tables

  yield [routes.stale(may)]

  yield [
    writes('neighbour', neighbours, (n) => replaceNeighbour(n, deviceName), may),
    writes('fdb', fdb, (f) => replaceFdbEntry(f, deviceName), may),
    routes.nexthopWrites(may),
  ]

  yield [routes.writes(may)]

  yield [routes.wrong(may)]

  yield [
    deletions('neighbour', neighbours, (n) => deleteNeighbour(n, deviceName), may),
    deletions('fdb', fdb, (f) => deleteFdbEntry(f, deviceName), may),
    routes.nexthopDeletions(may),
  ]
}
