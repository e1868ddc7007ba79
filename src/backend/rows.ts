/**
 * Routes in a row: same destination, TOS and metric. The kernel uses the first only, a write takes the place of the
 * first, whichever that is, and a deletion takes metric 0 for "any": to delete a wrong route that a write has just
 * replaced would delete somebody else's, the same at another metric.
 *
 *     row as found         after surplus()     after writes()     believed
 *     wrong1 wrong2        wrong2              right              wrong2 is gone
 *
 * So all wrong routes of a row but one go first, and that one is known to be what the write replaced.
 */
import { subnetKey } from '../ip.ts'
import type { NetlinkRequest } from '../netlink/request.ts'
import { deleteRoute, type Route } from '../netlink/route.ts'
import type { DeltaTracker, MissingRow } from './delta.ts'
import { deletions, type May, type Operation, writes } from './operations.ts'
import type { RouteKey } from './routekeys.ts'

type Routes = DeltaTracker<RouteKey, Route>

/** The wrong routes in the rows of routes that are yet to be written, by destination; the keys of each row in order. */
function wrongRows(routes: Routes): Map<number, RouteKey[]> {
  const wrong = new Map<number, RouteKey[]>()
  for (const { key, held } of routes.extra()) {
    const { destination, metric, tos } = held
    if (metric !== 0 || tos !== 0) continue
    const row = wrong.get(subnetKey(destination))
    if (row === undefined) wrong.set(subnetKey(destination), [key])
    else row.push(key)
  }
  const rows = new Map<number, RouteKey[]>()
  for (const { key, wanted, held } of routes.missing()) {
    if (held === undefined && wrong.size === 0) continue
    const { destination } = wanted
    const others = wrong.get(subnetKey(destination))
    // One that is held with another value is in its own way.
    if (held !== undefined || others !== undefined)
      rows.set(subnetKey(destination), [...(held === undefined ? [] : [key]), ...(others ?? [])])
  }
  return rows
}

/** Deletes all but the first of the wrong routes in a row that is yet to be written. */
export function surplus(routes: Routes, may: May): Iterable<Operation> {
  const surplus = new Set<RouteKey>()
  for (const [, ...rest] of wrongRows(routes).values()) for (const key of rest) surplus.add(key)
  return surplus.size === 0 ? [] : deletions('route', routes, deleteRoute, may, ({ key }) => surplus.has(key))
}

/** Writes what is wanted and not held, at metric 0, as far as `when` lets it. */
export function* rowWrites(
  routes: Routes,
  request: (route: Route) => NetlinkRequest,
  may: May,
  when: (row: MissingRow<RouteKey, Route>) => boolean,
): Generator<Operation> {
  const rows = wrongRows(routes)
  for (const operation of writes('route', routes, request, may, when)) {
    const wrong = rows.size === 0 ? undefined : rows.get(subnetKey(operation.row.wanted.destination))
    if (wrong === undefined) {
      yield operation
      continue
    }
    const { table, key, action, entry, request: write } = operation
    const acknowledged = (): void => {
      for (const other of wrong) routes.lose(other)
      operation.acknowledged()
    }
    yield { table, key, action, entry, request: write, acknowledged }
  }
}
