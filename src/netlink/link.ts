/**
 * Network devices, and what is particular to VXLAN, IPIP and WireGuard ones.
 *
 * What Linux lets us change of a VXLAN device that exists (tried on 6.18, also while it is up): learning,
 * local address, underlying device, TTL, TOS, ageing. Refused, with EOPNOTSUPP and these words: "Cannot change
 * VNI", "Cannot change port", "cannot change GBP flag", and likewise PROXY, RSC, L2MISS, L3MISS. For those the
 * device has to be made anew.
 */
import type { IpAddress, Ipv4, MacAddress } from '../ip.ts'
import {
  AF_UNSPEC,
  IFF_UP,
  IFLA_ADDRESS,
  IFLA_EXT_MASK,
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
  IFLA_MASTER,
  IFLA_MTU,
  IFLA_PROTO_DOWN,
  IFLA_TXQLEN,
  IFLA_VXLAN_AGEING,
  IFLA_VXLAN_GBP,
  IFLA_VXLAN_GROUP,
  IFLA_VXLAN_GROUP6,
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
  NLM_F_CREATE,
  NLM_F_DUMP,
  NLM_F_EXCL,
  RTEXT_FILTER_SKIP_STATS,
  RTM_DELLINK,
  RTM_GETLINK,
  RTM_NEWLINK,
} from './constants.ts'
import type { DumpRequest, NetlinkRequest } from './request.ts'
import { AttributeReader, getU32, type MessageWriter } from './wire.ts'

export interface Link {
  readonly index: number
  readonly name: string
  /** "vxlan", "veth", ...; undefined for a device that no driver made by request, such as a network card. */
  readonly kind: string | undefined
  /** IFF_UP: set up by the administrator, with or without a carrier. */
  readonly up: boolean
  /** IFF_*. */
  readonly flags: number
  readonly mtu: number
  readonly mac: MacAddress | undefined
  readonly txQueueLength: number
  /** The device that this one stands on, IFLA_LINK. */
  readonly parent: number | undefined
  /** The bridge, bond or VRF that this one is part of. */
  readonly master: number | undefined
  /** Some program holds it without a carrier, whatever it is set to. */
  readonly protoDown: boolean
  readonly vxlan: VxlanAttributes | undefined
  readonly ipip: IpipAttributes | undefined
}

export interface IpipAttributes {
  readonly local: Ipv4
  /** 0 for any: the route says where to. */
  readonly remote: Ipv4
  /** Of the outer packet; 0 for the inner one's. */
  readonly ttl: number
  readonly tos: number
  /** Whether the outer packet must not be fragmented. */
  readonly pathMtuDiscovery: boolean
}

export interface VxlanAttributes {
  readonly vni: number
  /** Index of the underlying device, 0 for none. */
  readonly parent: number
  readonly local: Ipv4 | undefined
  readonly group: IpAddress | undefined
  /** UDP destination port. */
  readonly port: number
  readonly learning: boolean
  readonly proxy: boolean
  readonly rsc: boolean
  readonly l2miss: boolean
  readonly l3miss: boolean
  readonly gbp: boolean
  readonly ttl: number
  readonly tos: number
  /** Seconds after which a learnt FDB entry goes. */
  readonly ageing: number
}

// struct ifinfomsg { u8 ifi_family; u8 pad; u16 ifi_type; s32 ifi_index; u32 ifi_flags; u32 ifi_change; }
const IFINFOMSG = 16

function header(writer: MessageWriter, index: number, flags = 0, change = 0): MessageWriter {
  return writer.u32(AF_UNSPEC).u32(index).u32(flags).u32(change)
}

/**
 * Creates a VXLAN device, down, that learns and resolves nothing by itself; EEXIST when the name is taken, or
 * when another device has the same VNI and port. Without a MAC or an MTU the kernel picks a random one and
 * that of the underlying device less 50. `port` 0 is the kernel's default, 8472.
 */
export function createVxlan(device: {
  readonly name: string
  readonly vni: number
  readonly parent: number
  readonly local: Ipv4 | undefined
  readonly port: number
  readonly gbp: boolean
  readonly mac?: MacAddress | undefined
  readonly mtu?: number | undefined
  readonly txQueueLength: number
}): NetlinkRequest {
  return {
    type: RTM_NEWLINK,
    flags: NLM_F_CREATE | NLM_F_EXCL,
    encode: (writer) => {
      header(writer, 0)
      if (device.mac !== undefined) writer.attributeMac(IFLA_ADDRESS, device.mac)
      writer.attributeU32(IFLA_TXQLEN, device.txQueueLength)
      if (device.mtu !== undefined) writer.attributeU32(IFLA_MTU, device.mtu)
      writer.attributeString(IFLA_IFNAME, device.name)
      writer.nested(IFLA_LINKINFO, () => {
        writer.attributeText(IFLA_INFO_KIND, 'vxlan').nested(IFLA_INFO_DATA, () => {
          if (device.parent !== 0) writer.attributeU32(IFLA_VXLAN_LINK, device.parent)
          writer.attributeU8(IFLA_VXLAN_TTL, 0).attributeU8(IFLA_VXLAN_TOS, 0)
          // Said, and not left to the kernel: without it, a VXLAN device learns.
          writer.attributeU8(IFLA_VXLAN_PROXY, 0).attributeU8(IFLA_VXLAN_RSC, 0)
          writer.attributeU8(IFLA_VXLAN_L2MISS, 0).attributeU8(IFLA_VXLAN_L3MISS, 0)
          // A flag: present means on, whatever its value.
          if (device.gbp) writer.attributeFlag(IFLA_VXLAN_GBP)
          writer.attributeU32(IFLA_VXLAN_ID, device.vni)
          if (device.local !== undefined) writer.attributeIp(IFLA_VXLAN_LOCAL, device.local)
          writer.attributeU8(IFLA_VXLAN_LEARNING, 0)
          if (device.port !== 0) writer.attributeU16be(IFLA_VXLAN_PORT, device.port)
        })
      })
    },
    operation: () => `create VXLAN device ${device.name} (VNI ${device.vni})`,
  }
}

/**
 * Creates an IPIP device (drivers/net, ipip.ko), down: IPv4 in IPv4 (RFC 2003) from `local` to whoever a route says. TTL and
 * TOS are the inner packet's, and the outer packet may be fragmented on its way. EOPNOTSUPP from a kernel without ipip.
 */
export function createIpip(device: {
  readonly name: string
  readonly local: Ipv4
  readonly mtu: number
  readonly txQueueLength: number
}): NetlinkRequest {
  return {
    type: RTM_NEWLINK,
    flags: NLM_F_CREATE | NLM_F_EXCL,
    encode: (writer) => {
      header(writer, 0)
      writer.attributeU32(IFLA_TXQLEN, device.txQueueLength).attributeU32(IFLA_MTU, device.mtu)
      writer.attributeString(IFLA_IFNAME, device.name)
      writer.nested(IFLA_LINKINFO, () => {
        writer
          .attributeText(IFLA_INFO_KIND, 'ipip')
          .nested(IFLA_INFO_DATA, () =>
            writer
              .attributeIp(IFLA_IPTUN_LOCAL, device.local)
              .attributeIp(IFLA_IPTUN_REMOTE, 0)
              .attributeU8(IFLA_IPTUN_TTL, 0)
              .attributeU8(IFLA_IPTUN_TOS, 0)
              .attributeU8(IFLA_IPTUN_PMTUDISC, 0),
          )
      })
    },
    operation: () => `create IPIP device ${device.name}`,
  }
}

/** Creates a WireGuard device, down and without a key or peers. EOPNOTSUPP from a kernel without wireguard. */
export function createWireGuard(device: { readonly name: string; readonly mtu: number }): NetlinkRequest {
  return {
    type: RTM_NEWLINK,
    flags: NLM_F_CREATE | NLM_F_EXCL,
    encode: (writer) => {
      header(writer, 0)
      writer.attributeU32(IFLA_MTU, device.mtu).attributeString(IFLA_IFNAME, device.name)
      writer.nested(IFLA_LINKINFO, () => writer.attributeText(IFLA_INFO_KIND, 'wireguard'))
    },
    operation: () => `create WireGuard device ${device.name}`,
  }
}

/** Changes what is given of a device; `name` is for the error only, `rename` is the new name (device down). */
export function changeLink(change: {
  readonly index: number
  readonly name: string
  readonly up?: boolean
  readonly mtu?: number
  readonly mac?: MacAddress
  readonly rename?: string
  readonly txQueueLength?: number
  /** 0 takes it out of what it is part of. */
  readonly master?: number
  readonly protoDown?: boolean
}): NetlinkRequest {
  const { index, name, up, mtu, mac, rename, txQueueLength, master, protoDown } = change
  const words = [
    up === undefined ? undefined : `set ${up ? 'up' : 'down'}`,
    mtu === undefined ? undefined : `set MTU ${mtu}`,
    mac === undefined ? undefined : `set MAC ${mac}`,
    txQueueLength === undefined ? undefined : `set queue length ${txQueueLength}`,
    rename === undefined ? undefined : `rename to ${rename}`,
    master === undefined ? undefined : `set master ${master}`,
    protoDown === undefined ? undefined : `set protodown ${protoDown ? 'on' : 'off'}`,
  ]
  return {
    type: RTM_NEWLINK,
    flags: 0,
    encode: (writer) => {
      header(writer, index, up ? IFF_UP : 0, up === undefined ? 0 : IFF_UP)
      if (mac !== undefined) writer.attributeMac(IFLA_ADDRESS, mac)
      if (mtu !== undefined) writer.attributeU32(IFLA_MTU, mtu)
      if (txQueueLength !== undefined) writer.attributeU32(IFLA_TXQLEN, txQueueLength)
      if (rename !== undefined) writer.attributeString(IFLA_IFNAME, rename)
      if (master !== undefined) writer.attributeU32(IFLA_MASTER, master)
      if (protoDown !== undefined) writer.attributeU8(IFLA_PROTO_DOWN, protoDown ? 1 : 0)
    },
    operation: () => `change ${name}: ${words.filter((word) => word !== undefined).join(', ')}`,
  }
}

/** Changes in place what Linux lets us change of a VXLAN device (see above); ENOENT-like errors as for changeLink. */
export function changeVxlan(change: {
  readonly index: number
  readonly name: string
  readonly learning?: boolean
  readonly local?: Ipv4
  readonly parent?: number
}): NetlinkRequest {
  const { index, name, learning, local, parent } = change
  return {
    type: RTM_NEWLINK,
    flags: 0,
    encode: (writer) => {
      header(writer, index)
      writer.nested(IFLA_LINKINFO, () => {
        writer.attributeText(IFLA_INFO_KIND, 'vxlan').nested(IFLA_INFO_DATA, () => {
          if (parent !== undefined) writer.attributeU32(IFLA_VXLAN_LINK, parent)
          if (local !== undefined) writer.attributeIp(IFLA_VXLAN_LOCAL, local)
          if (learning !== undefined) writer.attributeU8(IFLA_VXLAN_LEARNING, learning ? 1 : 0)
        })
      })
    },
    operation: () => `change VXLAN attributes of ${name}`,
  }
}

/** Deletes a device, and with it its addresses, routes, neighbours and FDB entries. */
export function deleteLink({
  index,
  name,
}: {
  readonly index: number
  readonly name: string
}): NetlinkRequest {
  return {
    type: RTM_DELLINK,
    flags: 0,
    encode: (writer) => header(writer, index),
    operation: () => `delete device ${name}`,
  }
}

/** One device, by name or by index; ENODEV when there is none. */
export function getLink(which: { readonly name: string } | { readonly index: number }): DumpRequest<Link> {
  return {
    type: RTM_GETLINK,
    flags: 0,
    encode: (writer) => {
      header(writer, 'index' in which ? which.index : 0)
      writer.attributeU32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
      if ('name' in which) writer.attributeString(IFLA_IFNAME, which.name)
    },
    operation: () => `read device ${'name' in which ? which.name : which.index}`,
    decode: decodeLink,
  }
}

export function dumpLinks(): DumpRequest<Link> {
  return {
    type: RTM_GETLINK,
    flags: NLM_F_DUMP,
    encode: (writer) => header(writer, 0).attributeU32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS),
    operation: () => 'list devices',
    decode: decodeLink,
  }
}

/** RTM_NEWLINK or RTM_DELLINK; undefined when it cannot be read, or is a bridge's word about its port. */
export function decodeLink(bytes: Uint8Array, start = 0, end = bytes.length): Link | undefined {
  const attributes = new AttributeReader().begin(bytes, start + IFINFOMSG, end)
  if (attributes.failed || bytes[start] !== AF_UNSPEC) return undefined
  const flags = getU32(bytes, start + 8)
  const link: { -readonly [K in keyof Link]: Link[K] } = {
    index: getU32(bytes, start + 4),
    name: '',
    kind: undefined,
    up: (flags & IFF_UP) !== 0,
    flags,
    mtu: 0,
    mac: undefined,
    txQueueLength: 0,
    parent: undefined,
    master: undefined,
    protoDown: false,
    vxlan: undefined,
    ipip: undefined,
  }
  while (attributes.next()) {
    switch (attributes.type) {
      case IFLA_ADDRESS:
        link.mac = attributes.mac()
        break
      case IFLA_IFNAME:
        link.name = attributes.string()
        break
      case IFLA_MTU:
        link.mtu = attributes.u32()
        break
      case IFLA_LINK:
        link.parent = attributes.u32()
        break
      case IFLA_MASTER:
        link.master = attributes.u32()
        break
      case IFLA_PROTO_DOWN:
        link.protoDown = attributes.u8() !== 0
        break
      case IFLA_TXQLEN:
        link.txQueueLength = attributes.u32()
        break
      case IFLA_LINKINFO:
        decodeLinkInfo(attributes, link)
        break
    }
  }
  return attributes.failed ? undefined : link
}

function decodeLinkInfo(
  attributes: AttributeReader,
  link: {
    kind: string | undefined
    vxlan: VxlanAttributes | undefined
    ipip: IpipAttributes | undefined
  },
): void {
  const info = attributes.nested()
  while (info.next()) {
    if (info.type === IFLA_INFO_KIND) link.kind = info.string()
    // The kind comes first: the kernel writes them so, and it says how to read the data.
    else if (info.type === IFLA_INFO_DATA && link.kind === 'vxlan') link.vxlan = decodeVxlan(info)
    else if (info.type === IFLA_INFO_DATA && link.kind === 'ipip') link.ipip = decodeIpip(info)
  }
  attributes.join(info)
}

function decodeVxlan(info: AttributeReader): VxlanAttributes {
  const data = info.nested()
  const vxlan: { -readonly [K in keyof VxlanAttributes]: VxlanAttributes[K] } = {
    vni: 0,
    parent: 0,
    local: undefined,
    group: undefined,
    port: 0,
    learning: false,
    proxy: false,
    rsc: false,
    l2miss: false,
    l3miss: false,
    gbp: false,
    ttl: 0,
    tos: 0,
    ageing: 0,
  }
  while (data.next()) {
    switch (data.type) {
      case IFLA_VXLAN_ID:
        vxlan.vni = data.u32()
        break
      case IFLA_VXLAN_LINK:
        vxlan.parent = data.u32()
        break
      case IFLA_VXLAN_LOCAL:
        vxlan.local = data.ipv4()
        break
      case IFLA_VXLAN_GROUP:
        vxlan.group = data.ipv4()
        break
      case IFLA_VXLAN_GROUP6:
        vxlan.group = data.ipv6()
        break
      case IFLA_VXLAN_PORT:
        vxlan.port = data.u16be()
        break
      case IFLA_VXLAN_LEARNING:
        vxlan.learning = data.u8() !== 0
        break
      case IFLA_VXLAN_PROXY:
        vxlan.proxy = data.u8() !== 0
        break
      case IFLA_VXLAN_RSC:
        vxlan.rsc = data.u8() !== 0
        break
      case IFLA_VXLAN_L2MISS:
        vxlan.l2miss = data.u8() !== 0
        break
      case IFLA_VXLAN_L3MISS:
        vxlan.l3miss = data.u8() !== 0
        break
      case IFLA_VXLAN_GBP:
        vxlan.gbp = true
        break
      case IFLA_VXLAN_TTL:
        vxlan.ttl = data.u8()
        break
      case IFLA_VXLAN_TOS:
        vxlan.tos = data.u8()
        break
      case IFLA_VXLAN_AGEING:
        vxlan.ageing = data.u32()
        break
    }
  }
  info.join(data)
  return vxlan
}

function decodeIpip(info: AttributeReader): IpipAttributes {
  const data = info.nested()
  const ipip = { local: 0, remote: 0, ttl: 0, tos: 0, pathMtuDiscovery: false }
  while (data.next()) {
    switch (data.type) {
      case IFLA_IPTUN_LOCAL:
        ipip.local = data.ipv4()
        break
      case IFLA_IPTUN_REMOTE:
        ipip.remote = data.ipv4()
        break
      case IFLA_IPTUN_TTL:
        ipip.ttl = data.u8()
        break
      case IFLA_IPTUN_TOS:
        ipip.tos = data.u8()
        break
      case IFLA_IPTUN_PMTUDISC:
        ipip.pathMtuDiscovery = data.u8() !== 0
        break
    }
  }
  info.join(data)
  return ipip
}
