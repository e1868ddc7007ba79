import type { Ipv4, MacAddress, Subnet } from '../../ip.ts'
import {
  NTF_SELF,
  NUD_PERMANENT,
  RT_SCOPE_UNIVERSE,
  RT_TABLE_MAIN,
  RTN_UNICAST,
  RTPROT_BOOT,
} from '../../netlink/constants.ts'
import type { FdbEntry } from '../../netlink/fdb.ts'
import type { Neighbour } from '../../netlink/neighbour.ts'
import type { Nexthop } from '../../netlink/nexthop.ts'
import type { Route } from '../../netlink/route.ts'
import type { Vtep } from './vtep.ts'

/**
 * How a peer's subnet is reached. `tunnel` is the line that flannel's users know, `10.1.2.0/24 via 10.1.2.0 dev
 * flannel.1 onlink`; `nexthop` is the same route through a nexthop object; `direct` is a plain route on the
 * underlay, for DirectRouting peers on the same link.
 */
export type RouteKind = 'tunnel' | 'nexthop' | 'direct'

export type WantedNeighbour = Neighbour & { readonly address: Ipv4; readonly mac: MacAddress }
export type WantedFdbEntry = FdbEntry & { readonly destination: Ipv4 }

/** The kernel entries that carry one peer. A direct peer needs its route alone. */
export interface PeerEntries {
  readonly kind: RouteKind
  readonly neighbour: WantedNeighbour | undefined
  readonly fdb: WantedFdbEntry | undefined
  readonly nexthop: Nexthop | undefined
  readonly route: Route
}

/** Interface indexes of `flannel.<VNI>` and of the interface under it. */
export interface Links {
  readonly device: number
  readonly parent: number
}

/** Pure: the entries for one peer, exactly as flannel writes them (RTM_NEWNEIGH twice, RTM_NEWROUTE). */
export function desiredEntries(
  vtep: Vtep,
  kind: RouteKind,
  nexthopId: number | undefined,
  links: Links,
): PeerEntries {
  const base = {
    destination: vtep.subnet,
    table: RT_TABLE_MAIN,
    protocol: RTPROT_BOOT,
    scope: RT_SCOPE_UNIVERSE,
    type: RTN_UNICAST,
    tos: 0,
    metric: 0,
    source: undefined,
    multipath: false,
    cloned: false,
  }
  if (kind === 'direct') {
    const route = { ...base, gateway: vtep.underlay, nexthopId: undefined, oif: links.parent, onlink: false }
    return { kind, neighbour: undefined, fdb: undefined, nexthop: undefined, route }
  }
  const overlay = vtep.subnet.address
  const neighbour = { index: links.device, address: overlay, mac: vtep.mac, state: NUD_PERMANENT, flags: 0 }
  const fdb = {
    index: links.device,
    mac: vtep.mac,
    destination: vtep.underlay,
    state: NUD_PERMANENT,
    flags: NTF_SELF,
    port: undefined,
    vni: undefined,
  }
  if (kind === 'nexthop' && nexthopId !== undefined) {
    const nexthop = {
      id: nexthopId,
      gateway: overlay,
      oif: links.device,
      onlink: true,
      protocol: RTPROT_BOOT,
    }
    const route = { ...base, gateway: undefined, nexthopId, oif: undefined, onlink: false }
    return { kind, neighbour, fdb, nexthop, route }
  }
  const route = { ...base, gateway: overlay, nexthopId: undefined, oif: links.device, onlink: true }
  return { kind: 'tunnel', neighbour, fdb, nexthop: undefined, route }
}

/** Nexthop ids of ours have this top byte, so that a restart knows them and other software's stay clear. */
const NEXTHOP_ID_PREFIX = 0xf1000000

/**
 * The nexthop id of a subnet: its position in the network, in the lower 24 bits. Undefined where positions do not
 * fit or do not exist (a lease of another length than the network's SubnetLen): such a peer gets a plain route.
 */
export function nexthopIdOf(subnet: Subnet, network: Subnet, subnetLen: number): number | undefined {
  if (subnet.length !== subnetLen || subnetLen - network.length > 24) return undefined
  return NEXTHOP_ID_PREFIX + (subnet.address - network.address) / 2 ** (32 - subnetLen)
}

export function isOurNexthopId(id: number): boolean {
  return id >>> 24 === NEXTHOP_ID_PREFIX >>> 24
}
