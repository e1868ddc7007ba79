/**
 * What the backends made in the kernel, known as they know it again after a restart (leftovers.ts, routes.ts):
 *
 *     a device      flannel's name and kind, and an address in the network; entries on it go with it
 *     a nexthop     an id with our prefix
 *     a route       of a lease's shape, through the interface under the overlay
 */
import { flannelLinks, isInNetwork } from '../../backend/leftovers.ts'
import { isOurNexthopId } from '../../backend/nexthopids.ts'
import { isLeaseRoute } from '../../backend/routes.ts'
import type { ExternalInterface } from '../../iface.ts'
import { formatIpv4, formatSubnet, type Subnet } from '../../ip.ts'
import type { Rtnl } from '../../netlink/conn.ts'
import { RT_TABLE_MAIN } from '../../netlink/constants.ts'
import { NetlinkError } from '../../netlink/errors.ts'
import { deleteLink, dumpLinks, type Link } from '../../netlink/link.ts'
import { deleteNexthop, dumpNexthops, type Nexthop } from '../../netlink/nexthop.ts'
import type { NetlinkRequest } from '../../netlink/request.ts'
import { deleteRoute, dumpRoutes, type Route } from '../../netlink/route.ts'
import type { Findings, Step } from './step.ts'

export interface Overlay {
  readonly network: Subnet
  readonly subnetLen: number
}

/** Looks through the tables; without an overlay nothing but nexthop objects can be told to be ours. Throws NetlinkError. */
export function kernelFindings(
  rtnl: Rtnl,
  overlay: Overlay | undefined,
  underlay: ExternalInterface | undefined,
): Findings {
  const steps: Step[] = []
  const strangers: string[] = []
  const names = new Map(rtnl.dump(dumpLinks()).map(({ index, name }) => [index, name]))
  const nameOf = (index: number | undefined): string => names.get(index ?? 0) ?? `interface ${index}`

  const devices: Link[] = []
  const others = new Set<number>()
  for (const link of flannelLinks(rtnl)) {
    if (overlay !== undefined && isInNetwork(rtnl, link, overlay.network)) {
      devices.push(link)
      continue
    }
    others.add(link.index)
    const why =
      overlay === undefined ? 'its network is not known' : `no address in ${formatSubnet(overlay.network)}`
    strangers.push(`device ${link.name}: ${why}; if it is of flannel: ip link del ${link.name}`)
  }
  const goes = new Set(devices.map(({ index }) => index))

  for (const route of overlay === undefined ? [] : leaseRoutes(rtnl, overlay)) {
    if (goes.has(route.oif ?? 0) || others.has(route.oif ?? 0)) continue
    const words = routeWords(route, nameOf(route.oif))
    if (route.oif === underlay?.index) {
      steps.push(step(rtnl, `route ${words}`, `ip route del ${words} proto boot`, deleteRoute(route)))
    } else {
      strangers.push(
        `route ${words}: not through ${underlay?.name ?? 'a known interface'}; if flannel's is another, name it with -iface`,
      )
    }
  }
  // Routes through them go along.
  for (const { id, oif } of nexthops(rtnl)) {
    if (!isOurNexthopId(id) || goes.has(oif) || others.has(oif)) continue
    steps.push(step(rtnl, `nexthop ${id} on ${nameOf(oif)}`, `ip nexthop del id ${id}`, deleteNexthop(id)))
  }
  for (const link of devices) {
    steps.push(step(rtnl, `device ${link.name}`, `ip link del ${link.name}`, deleteLink(link)))
  }
  return { steps, strangers }
}

function step(rtnl: Rtnl, what: string, command: string, request: NetlinkRequest): Step {
  return {
    removes: [what],
    commands: [command],
    run() {
      try {
        rtnl.execute(request)
      } catch (error) {
        if (!(error instanceof NetlinkError && error.notFound)) throw error
      }
    },
  }
}

function leaseRoutes(rtnl: Rtnl, { network, subnetLen }: Overlay): Route[] {
  return rtnl
    .dump(dumpRoutes({ table: RT_TABLE_MAIN }))
    .filter((route) => route.nexthopId === undefined && isLeaseRoute(route, network, subnetLen))
}

function routeWords({ destination, gateway, onlink }: Route, device: string): string {
  // A lease's route has a gateway.
  const via = formatIpv4(gateway ?? 0)
  return `${formatSubnet(destination)} via ${via} dev ${device}${onlink ? ' onlink' : ''}`
}

/** None before Linux 5.3. */
function nexthops(rtnl: Rtnl): Nexthop[] {
  try {
    return rtnl.dump(dumpNexthops())
  } catch (error) {
    if (error instanceof NetlinkError && error.code === 'ENOTSUP') return []
    throw error
  }
}
