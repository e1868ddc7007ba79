/**
 * A node that starts with another backend than last time takes down what the last one left in the kernel:
 *
 *     vxlan          flannel.<VNI>                     ipip     flannel.ipip
 *     wireguard      flannel-wg                        udp      flannel<N>
 *     host-gw, and DirectRouting of vxlan and ipip     lease-shaped routes through the underlay
 *
 * A device is flannel's when it has flannel's name and kind and stands in our network, so that a second flanneld on this
 * machine, with another network, keeps its own. Routes show no owner; they go only if our lease says that there were any.
 */
import { contains, type Subnet } from '../ip.ts'
import type { Logger } from '../log.ts'
import { dumpAddresses } from '../netlink/address.ts'
import type { Rtnl } from '../netlink/conn.ts'
import { RT_TABLE_MAIN } from '../netlink/constants.ts'
import { NetlinkError } from '../netlink/errors.ts'
import { deleteLink, dumpLinks, type Link } from '../netlink/link.ts'
import { deleteNexthop, dumpNexthops } from '../netlink/nexthop.ts'
import type { NetlinkRequest } from '../netlink/request.ts'
import { deleteRoute, dumpRoutes } from '../netlink/route.ts'
import { isOurNexthopId } from './nexthopids.ts'
import { isLeaseRoute } from './routes.ts'

const DEVICES: readonly { readonly kind: string; readonly name: RegExp }[] = [
  { kind: 'vxlan', name: /^flannel\.\d+$/ },
  { kind: 'ipip', name: /^flannel\.ipip$/ },
  { kind: 'wireguard', name: /^flannel-wg$/ },
  { kind: 'tun', name: /^flannel\d+$/ },
]

/** Backends that make routes through the underlay. */
const ROUTING = new Set(['host-gw', 'vxlan', 'ipip'])

export interface Leftovers {
  readonly rtnl: Rtnl
  readonly log: Logger
  readonly network: Subnet
  readonly subnetLen: number
  /** Index of the interface under the overlay. */
  readonly underlay: number
  /** `BackendType` of our lease as the last run wrote it; undefined when there was none. */
  readonly before: string | undefined
  readonly type: string
  /** The device of the backend that is about to start. */
  readonly device: string | undefined
}

/** Never throws: what cannot be removed is logged, and does no more harm than before. */
export function removeLeftovers(of: Leftovers): void {
  const { log, before, type } = of
  const changed = before !== undefined && before !== type
  try {
    // The commands of the extension backend may have made a device of any name.
    if (type !== 'extension' || changed) removeDevices(of)
    // host-gw takes over what routes there are, and removes the stale ones itself.
    if (changed && ROUTING.has(before) && type !== 'host-gw') removeRoutes(of)
  } catch (error) {
    if (!(error instanceof NetlinkError)) throw error
    log.warn(`cannot remove what the backend of an earlier run has left: ${error.message}`)
  }
}

function removeDevices({ rtnl, log, network, device }: Leftovers): void {
  for (const link of flannelLinks(rtnl)) {
    if (link.name === device || !isInNetwork(rtnl, link, network)) continue
    rtnl.execute(deleteLink(link))
    log.info(`removed ${link.name}, which an earlier run with another backend had made`)
  }
}

/** Devices with flannel's names and kinds, of whichever flannel. Throws NetlinkError. */
export function flannelLinks(rtnl: Rtnl): Link[] {
  return rtnl
    .dump(dumpLinks())
    .filter((link) => DEVICES.some(({ kind, name }) => link.kind === kind && name.test(link.name)))
}

/** Whether a device stands in the network. Throws NetlinkError. */
export function isInNetwork(rtnl: Rtnl, { index }: Link, network: Subnet): boolean {
  return rtnl
    .dump(dumpAddresses({ family: 4, index }))
    .some(({ address }) => typeof address === 'number' && contains(network, address))
}

function removeRoutes({ rtnl, log, network, subnetLen, underlay }: Leftovers): void {
  const routes = rtnl
    .dump(dumpRoutes({ table: RT_TABLE_MAIN, oif: underlay }))
    .filter((route) => route.nexthopId === undefined && isLeaseRoute(route, network, subnetLen))
  const requests: NetlinkRequest[] = routes.map((route) => deleteRoute(route))
  // Routes through a nexthop object go with it.
  const objects = rtnl.dump(dumpNexthops({ oif: underlay })).filter(({ id }) => isOurNexthopId(id))
  requests.push(...objects.map(({ id }) => deleteNexthop(id)))
  if (requests.length === 0) return
  const failed = rtnl.batch(requests).find((error) => error !== undefined && !error.notFound)
  if (failed !== undefined) throw failed
  log.info(`removed ${requests.length} routes, which an earlier run with another backend had made`)
}
