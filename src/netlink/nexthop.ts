/**
 * Nexthop objects (Linux 5.3 and later): a gateway that routes refer to by number. Thousands of routes to one
 * device cost the kernel far less this way, because it looks for equal gateways by number and not one by one.
 */
import { formatIpv4, type Ipv4 } from '../ip.ts'
import {
  AF_INET,
  AF_UNSPEC,
  NHA_GATEWAY,
  NHA_ID,
  NHA_OIF,
  NLM_F_CREATE,
  NLM_F_DUMP,
  NLM_F_REPLACE,
  RTM_DELNEXTHOP,
  RTM_GETNEXTHOP,
  RTM_NEWNEXTHOP,
  RTNH_F_ONLINK,
} from './constants.ts'
import { type DumpRequest, EntryRequest, type NetlinkRequest, only, type RequestKind } from './request.ts'
import { attributesIn, getU32, type MessageWriter } from './wire.ts'

export interface Nexthop {
  readonly id: number
  readonly gateway: Ipv4 | undefined
  /** Index of the device, 0 for a group of nexthops or one that drops. */
  readonly oif: number
  readonly onlink: boolean
  /** RTPROT_*: who made it. */
  readonly protocol: number
}

// struct nhmsg { u8 nh_family; u8 nh_scope; u8 nh_protocol; u8 resvd; u32 nh_flags; }
const NHMSG = 8

function header(writer: MessageWriter, family: number, protocol = 0, flags = 0): MessageWriter {
  return writer.octets(family, 0, protocol, 0).u32(flags)
}

const REPLACE: RequestKind<Nexthop> = {
  type: RTM_NEWNEXTHOP,
  flags: NLM_F_CREATE | NLM_F_REPLACE,
  encode(writer, { id, gateway, oif, onlink, protocol }) {
    header(writer, AF_INET, protocol, onlink ? RTNH_F_ONLINK : 0).attributeU32(NHA_ID, id)
    if (gateway !== undefined) writer.attributeIp(NHA_GATEWAY, gateway)
    writer.attributeU32(NHA_OIF, oif)
  },
  operation({ id, gateway }, device) {
    const via = gateway === undefined ? '' : ` via ${formatIpv4(gateway)}`
    return `write nexthop ${id}${via} on ${device}`
  },
}

const DELETE: RequestKind<number> = {
  type: RTM_DELNEXTHOP,
  flags: 0,
  encode: (writer, id) => header(writer, AF_UNSPEC).attributeU32(NHA_ID, id),
  operation: (id) => `delete nexthop ${id}`,
}

/** Writes a nexthop in the place of the one with the same id; routes through it follow. */
export function replaceNexthop(nexthop: Nexthop, device: string): NetlinkRequest {
  return new EntryRequest(REPLACE, nexthop, device)
}

/** Deletes a nexthop, and with it every route through it; ENOENT when there is none. */
export function deleteNexthop(id: number): NetlinkRequest {
  return new EntryRequest(DELETE, id, '')
}

/** All nexthops, or those on one device. EOPNOTSUPP from a kernel that has none of this. */
export function dumpNexthops({ oif }: { readonly oif?: number } = {}): DumpRequest<Nexthop> {
  return {
    type: RTM_GETNEXTHOP,
    flags: NLM_F_DUMP,
    encode: (writer) => {
      header(writer, AF_UNSPEC)
      if (oif !== undefined) writer.attributeU32(NHA_OIF, oif)
    },
    operation: () => 'list nexthops',
    decode: only(decodeNexthop, (nexthop) => oif === undefined || nexthop.oif === oif),
  }
}

/** RTM_NEWNEXTHOP or RTM_DELNEXTHOP; undefined when it cannot be read. */
export function decodeNexthop(bytes: Uint8Array, start = 0, end = bytes.length): Nexthop | undefined {
  const attributes = attributesIn(bytes, start + NHMSG, end)
  if (attributes.failed) return undefined
  let id: number | undefined
  let gateway: Ipv4 | undefined
  let oif = 0
  while (attributes.next()) {
    switch (attributes.type) {
      case NHA_ID:
        id = attributes.u32()
        break
      case NHA_GATEWAY:
        if (attributes.length === 4) gateway = attributes.ipv4()
        break
      case NHA_OIF:
        oif = attributes.u32()
        break
    }
  }
  if (attributes.failed || id === undefined) return undefined
  const onlink = (getU32(bytes, start + 4) & RTNH_F_ONLINK) !== 0
  return { id, gateway, oif, onlink, protocol: bytes[start + 2] ?? 0 }
}
