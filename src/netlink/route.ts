/** IPv4 routes. */
import { formatIpv4, formatSubnet, type Ipv4, type Subnet } from '../ip.ts'
import {
  AF_INET,
  NLM_F_CREATE,
  NLM_F_DUMP,
  NLM_F_REPLACE,
  RT_TABLE_MAIN,
  RTA_DST,
  RTA_GATEWAY,
  RTA_MULTIPATH,
  RTA_NH_ID,
  RTA_OIF,
  RTA_PREFSRC,
  RTA_PRIORITY,
  RTA_TABLE,
  RTM_DELROUTE,
  RTM_F_CLONED,
  RTM_F_LOOKUP_TABLE,
  RTM_GETROUTE,
  RTM_NEWROUTE,
  RTNH_F_ONLINK,
} from './constants.ts'
import { type DumpRequest, EntryRequest, type NetlinkRequest, only, type RequestKind } from './request.ts'
import { attributesIn, getU32, type MessageWriter } from './wire.ts'

export interface Route {
  readonly destination: Subnet
  readonly table: number
  /** RTPROT_*: who made it. */
  readonly protocol: number
  /** RT_SCOPE_*. */
  readonly scope: number
  /** RTN_*. */
  readonly type: number
  readonly tos: number
  /** Priority; 0, the best, is what a route has that nobody gave one. */
  readonly metric: number
  readonly gateway: Ipv4 | undefined
  /** The nexthop object it goes through; the kernel then tells gateway, device and onlink of that, too. */
  readonly nexthopId: number | undefined
  readonly oif: number | undefined
  /** Preferred source address. */
  readonly source: Ipv4 | undefined
  /** The gateway is taken to be on the link, though no route says so. */
  readonly onlink: boolean
  /**
   * RTA_MULTIPATH as it came: several gateways, which are not read, but which a deletion has to name. `gateway` and `oif` are
   * undefined then.
   */
  readonly multipath: Uint8Array | undefined
  /** Not an entry of the table but the answer to a look-up. */
  readonly cloned: boolean
}

// struct rtmsg { u8 rtm_family, rtm_dst_len, rtm_src_len, rtm_tos; u8 rtm_table, rtm_protocol, rtm_scope, rtm_type;
//                u32 rtm_flags; }
const RTMSG = 12

/** What makes a route; `cloned` only comes from the kernel, and `multipath` only goes back there in a deletion. */
export type RouteSpec = Omit<Route, 'cloned' | 'multipath'> & Partial<Pick<Route, 'multipath'>>

function encode(writer: MessageWriter, route: RouteSpec): void {
  // A route through a nexthop object must not repeat what the object says.
  const own = route.nexthopId === undefined
  writer
    .octets(AF_INET, route.destination.length, 0, route.tos)
    .octets(route.table < 256 ? route.table : 0, route.protocol, route.scope, route.type)
    .u32(own && route.onlink ? RTNH_F_ONLINK : 0)
  if (route.destination.length > 0) writer.attributeIp(RTA_DST, route.destination.address)
  if (route.table >= 256) writer.attributeU32(RTA_TABLE, route.table)
  if (route.source !== undefined) writer.attributeIp(RTA_PREFSRC, route.source)
  if (route.metric !== 0) writer.attributeU32(RTA_PRIORITY, route.metric)
  if (!own) writer.attributeU32(RTA_NH_ID, route.nexthopId)
  if (own && route.gateway !== undefined) writer.attributeIp(RTA_GATEWAY, route.gateway)
  if (own && route.oif !== undefined) writer.attributeU32(RTA_OIF, route.oif)
  if (own && route.multipath !== undefined) writer.attributeBytes(RTA_MULTIPATH, route.multipath)
}

function words(route: RouteSpec, device: string): string {
  const gateway = route.gateway === undefined ? '' : ` via ${formatIpv4(route.gateway)}`
  const nexthop = route.nexthopId === undefined ? '' : ` through nexthop ${route.nexthopId}`
  const metric = route.metric === 0 ? '' : ` metric ${route.metric}`
  const table = route.table === RT_TABLE_MAIN ? '' : ` table ${route.table}`
  return `${formatSubnet(route.destination)}${nexthop}${gateway}${device && ` on ${device}`}${metric}${table}`
}

const REPLACE: RequestKind<RouteSpec> = {
  type: RTM_NEWROUTE,
  flags: NLM_F_CREATE | NLM_F_REPLACE,
  encode,
  operation: (route, device) => `write route ${words(route, device)}`,
}

/** What the kernel answers where there is no nexthop object of the number that a route names. */
const NO_NEXTHOP = 'EINVAL'

const REPLACE_THROUGH_NEXTHOP: RequestKind<RouteSpec> = { ...REPLACE, lacking: NO_NEXTHOP }

const DELETE: RequestKind<RouteSpec> = {
  type: RTM_DELROUTE,
  flags: 0,
  encode,
  operation: (route, device) => `delete route ${words(route, device)}`,
}

/** No object of this number, so no route through it. */
const DELETE_THROUGH_NEXTHOP: RequestKind<RouteSpec> = { ...DELETE, gone: NO_NEXTHOP }

/**
 * Writes a route in the place of the one with the same destination, TOS and metric, if there is one: whoever
 * made that, and whichever device it goes to. Without `oif` the kernel finds the device.
 */
export function replaceRoute(route: RouteSpec, device: string): NetlinkRequest {
  return new EntryRequest(route.nexthopId === undefined ? REPLACE : REPLACE_THROUGH_NEXTHOP, route, device)
}

/**
 * Deletes the route that has all of this; ESRCH when there is none. The kernel takes metric 0 for "any", and deletes the
 * first of those that match. Of two routes of which one has several gateways it compares only as many as the other has, so
 * that it may take another one than was meant: its notification tells.
 */
export function deleteRoute(route: RouteSpec, device = ''): NetlinkRequest {
  return new EntryRequest(route.nexthopId === undefined ? DELETE : DELETE_THROUGH_NEXTHOP, route, device)
}

/** The routes that have all of what is given; the kernel does the filtering. */
export function dumpRoutes(
  filter: {
    readonly table?: number
    readonly oif?: number
    readonly protocol?: number
    /** Prefix length of the destination; the kernel tells of all, and the others are passed over undecoded. */
    readonly length?: number
  } = {},
): DumpRequest<Route> {
  const { table, oif, protocol = 0, length } = filter
  const matching = only(
    decodeRoute,
    (route) =>
      (table === undefined || route.table === table) &&
      (oif === undefined || route.oif === oif || route.multipath !== undefined) &&
      (protocol === 0 || route.protocol === protocol),
  )
  return {
    type: RTM_GETROUTE,
    flags: NLM_F_DUMP,
    encode: (writer) => {
      writer.octets(AF_INET, 0, 0, 0).octets(0, protocol, 0, 0).u32(0)
      if (table !== undefined) writer.attributeU32(RTA_TABLE, table)
      if (oif !== undefined) writer.attributeU32(RTA_OIF, oif)
    },
    operation: () => 'list routes',
    // A table is made when its first route is: in a new namespace there is not even a main one.
    none: 'ENOENT',
    decode:
      length === undefined
        ? matching
        : (bytes, start = 0, end) => (bytes[start + 1] === length ? matching(bytes, start, end) : undefined),
  }
}

/** The route that a packet to `address` would take; ENETUNREACH when there is none. */
export function getRoute(address: Ipv4): DumpRequest<Route> {
  return {
    type: RTM_GETROUTE,
    flags: 0,
    encode: (writer) =>
      writer
        .octets(AF_INET, 32, 0, 0)
        .octets(0, 0, 0, 0)
        // So that the answer names the table that it was found in, and not always the main one.
        .u32(RTM_F_LOOKUP_TABLE)
        .attributeIp(RTA_DST, address),
    operation: () => `look up the route to ${formatIpv4(address)}`,
    decode: decodeRoute,
  }
}

/** RTM_NEWROUTE or RTM_DELROUTE; undefined when it cannot be read or is not of IPv4. */
export function decodeRoute(bytes: Uint8Array, start = 0, end = bytes.length): Route | undefined {
  const attributes = attributesIn(bytes, start + RTMSG, end)
  const length = bytes[start + 1] ?? 0
  if (attributes.failed || bytes[start] !== AF_INET || length > 32) return undefined
  const flags = getU32(bytes, start + 8)
  let address = 0
  let table = bytes[start + 4] ?? 0
  let metric = 0
  let gateway: Ipv4 | undefined
  let nexthopId: number | undefined
  let oif: number | undefined
  let source: Ipv4 | undefined
  let multipath: Uint8Array | undefined
  while (attributes.next()) {
    switch (attributes.type) {
      case RTA_DST:
        address = attributes.ipv4()
        break
      // All 32 bits, of which the header has room for 8.
      case RTA_TABLE:
        table = attributes.u32()
        break
      case RTA_PRIORITY:
        metric = attributes.u32()
        break
      case RTA_GATEWAY:
        gateway = attributes.ipv4()
        break
      case RTA_NH_ID:
        nexthopId = attributes.u32()
        break
      case RTA_OIF:
        oif = attributes.u32()
        break
      case RTA_PREFSRC:
        source = attributes.ipv4()
        break
      case RTA_MULTIPATH:
        multipath = attributes.bytes().slice()
        break
    }
  }
  if (attributes.failed) return undefined
  return {
    destination: { address, length },
    table,
    protocol: bytes[start + 5] ?? 0,
    scope: bytes[start + 6] ?? 0,
    type: bytes[start + 7] ?? 0,
    tos: bytes[start + 3] ?? 0,
    metric,
    gateway,
    nexthopId,
    oif,
    source,
    onlink: (flags & RTNH_F_ONLINK) !== 0,
    multipath,
    cloned: (flags & RTM_F_CLONED) !== 0,
  }
}
