/** The kernel's side of the codec: entries as it writes them. Requests are read with what src/netlink reads answers with. */
import type { Ipv4, MacAddress } from '../../../src/ip.ts'
import {
  AF_BRIDGE,
  AF_INET,
  AF_UNSPEC,
  IFA_ADDRESS,
  IFA_F_PERMANENT,
  IFA_FLAGS,
  IFA_LOCAL,
  IFF_RUNNING,
  IFF_UP,
  IFLA_ADDRESS,
  IFLA_IFNAME,
  IFLA_INFO_DATA,
  IFLA_INFO_KIND,
  IFLA_IPTUN_LOCAL,
  IFLA_IPTUN_PMTUDISC,
  IFLA_IPTUN_REMOTE,
  IFLA_IPTUN_TOS,
  IFLA_IPTUN_TTL,
  IFLA_LINK,
  IFLA_LINKINFO,
  IFLA_MTU,
  IFLA_TXQLEN,
  IFLA_VXLAN_AGEING,
  IFLA_VXLAN_GBP,
  IFLA_VXLAN_ID,
  IFLA_VXLAN_L2MISS,
  IFLA_VXLAN_L3MISS,
  IFLA_VXLAN_LEARNING,
  IFLA_VXLAN_LINK,
  IFLA_VXLAN_LOCAL,
  IFLA_VXLAN_PORT,
  IFLA_VXLAN_PROXY,
  IFLA_VXLAN_RSC,
  IFLA_VXLAN_TOS,
  IFLA_VXLAN_TTL,
  NDA_DST,
  NDA_LLADDR,
  NLM_F_ACK_TLVS,
  NLM_F_CAPPED,
  NLMSG_ERROR,
  NLMSGERR_ATTR_MSG,
  RTA_DST,
  RTA_GATEWAY,
  RTA_MULTIPATH,
  RTA_NH_ID,
  RTA_OIF,
  RTA_PREFSRC,
  RTA_PRIORITY,
  RTA_TABLE,
  RTM_F_CLONED,
  RTNH_F_ONLINK,
} from '../../../src/netlink/constants.ts'
import type { FdbEntry } from '../../../src/netlink/fdb.ts'
import type { IpipAttributes, VxlanAttributes } from '../../../src/netlink/link.ts'
import { ndmsg } from '../../../src/netlink/ndmsg.ts'
import type { Neighbour } from '../../../src/netlink/neighbour.ts'
import { type Nexthop, replaceNexthop } from '../../../src/netlink/nexthop.ts'
import type { Route } from '../../../src/netlink/route.ts'
import {
  getU16,
  getU32,
  type MessageWriter,
  type NetlinkMessage,
  NLMSG_HDRLEN,
} from '../../../src/netlink/wire.ts'
import { encodeMessage, encodePayload, payloadOf } from '../../netlink/payload.ts'

export interface FakeLink {
  readonly index: number
  readonly kind: 'vxlan' | 'veth' | 'bridge' | 'ipip' | 'wireguard' | undefined
  name: string
  up: boolean
  mtu: number
  mac: MacAddress
  txQueueLength: number
  /** Index of a veth's other end. */
  peer: number
  /** Of a veth: whether its other end is up. */
  carrier: boolean
  vxlan: VxlanAttributes | undefined
  ipip: IpipAttributes | undefined
  /** IPv4 only. */
  readonly addresses: { readonly address: Ipv4; readonly length: number }[]
}

/** The attributes of a request by type, without the flag bits; of two alike the last one counts, as in the kernel. */
export function attributesOf(bytes: Uint8Array, start: number): Map<number, Uint8Array> {
  const found = new Map<number, Uint8Array>()
  for (let at = start; at + 4 <= bytes.length; ) {
    const length = getU16(bytes, at)
    if (length < 4 || at + length > bytes.length) break
    found.set(getU16(bytes, at + 2) & 0x3fff, bytes.subarray(at + 4, at + length))
    at += (length + 3) & ~3
  }
  return found
}

export function text(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString().replace(/\0.*$/s, '')
}

export function linkPayload(link: FakeLink): Uint8Array {
  return encodePayload((writer) => {
    writer
      .octets(AF_UNSPEC, 0, 1, 0)
      .u32(link.index)
      .u32(link.up ? IFF_UP | (link.carrier ? IFF_RUNNING : 0) : 0)
      .u32(0)
      .attributeString(IFLA_IFNAME, link.name)
      .attributeU32(IFLA_TXQLEN, link.txQueueLength)
      .attributeU32(IFLA_MTU, link.mtu)
      .attributeMac(IFLA_ADDRESS, link.mac)
    if (link.peer !== 0) writer.attributeU32(IFLA_LINK, link.peer)
    const { kind, vxlan, ipip } = link
    if (kind !== undefined) {
      writer.nested(IFLA_LINKINFO, () => {
        writer.attributeString(IFLA_INFO_KIND, kind)
        if (vxlan !== undefined) writer.nested(IFLA_INFO_DATA, () => vxlanData(writer, vxlan))
        if (ipip !== undefined) writer.nested(IFLA_INFO_DATA, () => ipipData(writer, ipip))
      })
    }
  })
}

function vxlanData(writer: MessageWriter, vxlan: VxlanAttributes): void {
  const bit = (on: boolean) => (on ? 1 : 0)
  writer.attributeU32(IFLA_VXLAN_ID, vxlan.vni)
  if (vxlan.parent !== 0) writer.attributeU32(IFLA_VXLAN_LINK, vxlan.parent)
  if (vxlan.local !== undefined) writer.attributeIp(IFLA_VXLAN_LOCAL, vxlan.local)
  writer
    .attributeU8(IFLA_VXLAN_TTL, vxlan.ttl)
    .attributeU8(IFLA_VXLAN_TOS, vxlan.tos)
    .attributeU8(IFLA_VXLAN_LEARNING, bit(vxlan.learning))
    .attributeU8(IFLA_VXLAN_PROXY, bit(vxlan.proxy))
    .attributeU8(IFLA_VXLAN_RSC, bit(vxlan.rsc))
    .attributeU8(IFLA_VXLAN_L2MISS, bit(vxlan.l2miss))
    .attributeU8(IFLA_VXLAN_L3MISS, bit(vxlan.l3miss))
    .attributeU32(IFLA_VXLAN_AGEING, vxlan.ageing)
    .attributeU16be(IFLA_VXLAN_PORT, vxlan.port)
  if (vxlan.gbp) writer.attributeFlag(IFLA_VXLAN_GBP)
}

function ipipData(writer: MessageWriter, ipip: IpipAttributes): void {
  writer
    .attributeIp(IFLA_IPTUN_LOCAL, ipip.local)
    .attributeIp(IFLA_IPTUN_REMOTE, ipip.remote)
    .attributeU8(IFLA_IPTUN_TTL, ipip.ttl)
    .attributeU8(IFLA_IPTUN_TOS, ipip.tos)
    .attributeU8(IFLA_IPTUN_PMTUDISC, ipip.pathMtuDiscovery ? 1 : 0)
}

export function addressPayload(index: number, address: Ipv4, length: number): Uint8Array {
  return encodePayload((writer) =>
    writer
      .octets(AF_INET, length, IFA_F_PERMANENT, 0)
      .u32(index)
      .attributeIp(IFA_ADDRESS, address)
      .attributeIp(IFA_LOCAL, address)
      .attributeU32(IFA_FLAGS, IFA_F_PERMANENT),
  )
}

/** A route through a nexthop object has the object's gateway and device in it, too; the caller puts them in. */
export function routePayload(route: Route): Uint8Array {
  return encodePayload((writer) => {
    writer
      .octets(AF_INET, route.destination.length, 0, route.tos)
      .octets(route.table < 256 ? route.table : 252, route.protocol, route.scope, route.type)
      .u32((route.onlink ? RTNH_F_ONLINK : 0) | (route.cloned ? RTM_F_CLONED : 0))
      .attributeU32(RTA_TABLE, route.table)
    if (route.destination.length > 0) writer.attributeIp(RTA_DST, route.destination.address)
    if (route.source !== undefined) writer.attributeIp(RTA_PREFSRC, route.source)
    if (route.metric !== 0) writer.attributeU32(RTA_PRIORITY, route.metric)
    if (route.nexthopId !== undefined) writer.attributeU32(RTA_NH_ID, route.nexthopId)
    if (route.gateway !== undefined) writer.attributeIp(RTA_GATEWAY, route.gateway)
    if (route.oif !== undefined) writer.attributeU32(RTA_OIF, route.oif)
    if (route.multipath !== undefined) writer.attributeBytes(RTA_MULTIPATH, route.multipath)
  })
}

export function neighbourPayload({ index, address, mac, state, flags }: Neighbour): Uint8Array {
  return encodePayload((writer) => {
    ndmsg(writer, AF_INET, index, state, flags).attributeIp(NDA_DST, address)
    if (mac !== undefined) writer.attributeMac(NDA_LLADDR, mac)
  })
}

export function fdbPayload({ index, mac, destination, state, flags }: FdbEntry): Uint8Array {
  return encodePayload((writer) => {
    ndmsg(writer, AF_BRIDGE, index, state, flags).attributeMac(NDA_LLADDR, mac)
    if (destination !== undefined) writer.attributeIp(NDA_DST, destination)
  })
}

export function nexthopPayload(nexthop: Nexthop): Uint8Array {
  return payloadOf(replaceNexthop(nexthop, ''))
}

/** NLMSG_ERROR in answer to `request`: capped, with the text in an attribute; errno 0 is an acknowledgement. */
export function ackMessage(
  request: NetlinkMessage,
  portId: number,
  errno: number,
  message: string | undefined,
): Uint8Array {
  const { sequence } = request
  const header = encodeMessage({ ...request, portId }).subarray(0, NLMSG_HDRLEN)
  const tlvs = message === undefined ? 0 : NLM_F_ACK_TLVS
  return encodeMessage({
    type: NLMSG_ERROR,
    flags: NLM_F_CAPPED | tlvs,
    sequence,
    portId,
    payload: encodePayload((writer) => {
      writer.u32(-errno)
      for (let at = 0; at < NLMSG_HDRLEN; at += 4) writer.u32(getU32(header, at))
      if (message !== undefined) writer.attributeString(NLMSGERR_ATTR_MSG, message)
    }),
  })
}

export { getU16, getU32 }
