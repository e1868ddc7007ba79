import { subnetKey } from '../ip.ts'
import { RT_SCOPE_UNIVERSE, RTN_UNICAST, RTPROT_BOOT } from '../netlink/constants.ts'
import type { Route } from '../netlink/route.ts'

/** A `routeKey`, or the number that `PeerRoutes` has in its place for the thousands whose subnet says all. */
export type RouteKey = number | string

/** What RTM_DELROUTE finds a route by, so that deleting a wrong one never takes the right one beside it. */
export function routeKey(route: Route): string {
  return `${subnetKey(route.destination)} ${pathKey(route)}${isOrdinary(route) ? '' : restKey(route)}`
}

function pathKey({ nexthopId, multipath, gateway, oif }: Route): string {
  if (nexthopId !== undefined) return `nhid ${nexthopId}`
  if (multipath !== undefined) return `by ${Buffer.from(multipath).toString('hex')}`
  return `${gateway ?? ''} ${oif ?? ''}`
}

/** The rest is as in the thousands that we write, whose keys need not say so. */
export function isOrdinary({ metric, tos, type, protocol, scope, source }: Route): boolean {
  return (
    metric === 0 &&
    tos === 0 &&
    type === RTN_UNICAST &&
    protocol === RTPROT_BOOT &&
    scope === RT_SCOPE_UNIVERSE &&
    source === undefined
  )
}

function restKey({ metric, tos, type, protocol, scope, source }: Route): string {
  return ` ${metric} ${tos} ${type} ${protocol} ${scope} ${source ?? ''}`
}
