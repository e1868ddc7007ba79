/**
 * Forwarding entries of a VXLAN device: frames to this MAC go to the tunnel end at this underlay address. Not
 * to be mixed up with neighbour entries (neighbour.ts), which say what MAC an overlay address has. Both travel
 * as RTM_NEWNEIGH; family AF_BRIDGE is what makes it this.
 */
import { formatIpv4, type Ipv4, type MacAddress } from '../ip.ts'
import {
  AF_BRIDGE,
  NDA_DST,
  NDA_IFINDEX,
  NDA_LLADDR,
  NDA_PORT,
  NDA_VNI,
  NLM_F_CREATE,
  NLM_F_DUMP,
  NLM_F_REPLACE,
  NTF_SELF,
  NUD_PERMANENT,
  RTM_DELNEIGH,
  RTM_GETNEIGH,
  RTM_NEWNEIGH,
} from './constants.ts'
import { NDMSG, ndmsg } from './ndmsg.ts'
import { type DumpRequest, EntryRequest, type NetlinkRequest, only, type RequestKind } from './request.ts'
import { attributesIn, getU16, getU32 } from './wire.ts'

export interface FdbEntry {
  readonly index: number
  readonly mac: MacAddress
  /** Undefined for a bridge's entry, and for an IPv6 tunnel end. */
  readonly destination: Ipv4 | undefined
  /** NUD_*. */
  readonly state: number
  /** NTF_*. */
  readonly flags: number
  /** UDP port, VNI and index of the interface under it, where they are not the device's own. */
  readonly port: number | undefined
  readonly vni: number | undefined
  readonly via: number | undefined
}

interface NewFdbEntry {
  readonly index: number
  readonly mac: MacAddress
  readonly destination: Ipv4
  readonly state?: number
}

type OldFdbEntry = Pick<FdbEntry, 'index' | 'mac' | 'destination'> &
  Partial<Pick<FdbEntry, 'port' | 'vni' | 'via'>>

const REPLACE: RequestKind<NewFdbEntry> = {
  type: RTM_NEWNEIGH,
  flags: NLM_F_CREATE | NLM_F_REPLACE,
  encode: (writer, { index, mac, destination, state = NUD_PERMANENT }) =>
    ndmsg(writer, AF_BRIDGE, index, state, NTF_SELF)
      .attributeMac(NDA_LLADDR, mac)
      .attributeIp(NDA_DST, destination),
  operation: ({ mac, destination }, device) =>
    `write FDB entry ${mac} -> ${formatIpv4(destination)} on ${device}`,
}

const DELETE: RequestKind<OldFdbEntry> = {
  type: RTM_DELNEIGH,
  flags: 0,
  encode(writer, { index, mac, destination, port, vni, via }) {
    ndmsg(writer, AF_BRIDGE, index, 0, NTF_SELF).attributeMac(NDA_LLADDR, mac)
    if (destination !== undefined) writer.attributeIp(NDA_DST, destination)
    if (port !== undefined) writer.attributeU16be(NDA_PORT, port)
    if (vni !== undefined) writer.attributeU32(NDA_VNI, vni)
    if (via !== undefined) writer.attributeU32(NDA_IFINDEX, via)
  },
  operation({ mac, destination }, device) {
    const to = destination === undefined ? '' : ` -> ${formatIpv4(destination)}`
    return `delete FDB entry ${mac}${to} on ${device}`
  },
}

/** Writes an entry, permanent unless `state` says otherwise, in the place of the one with the same MAC. */
export function replaceFdbEntry(entry: NewFdbEntry, device: string): NetlinkRequest {
  return new EntryRequest(REPLACE, entry, device)
}

/**
 * Deletes one destination of a MAC, or without `destination` all of them; ENOENT when the MAC has none. When it
 * has others but not this one, the kernel deletes nothing and reports success.
 */
export function deleteFdbEntry(entry: OldFdbEntry, device: string): NetlinkRequest {
  return new EntryRequest(DELETE, entry, device)
}

/** The entries of one device. Here the kernel filters by `ndm_ifindex`, not by NDA_IFINDEX as for neighbours. */
export function dumpFdb({ index }: { readonly index: number }): DumpRequest<FdbEntry> {
  return {
    type: RTM_GETNEIGH,
    flags: NLM_F_DUMP,
    encode: (writer) => ndmsg(writer, AF_BRIDGE, index, 0, 0),
    operation: () => `list FDB entries of device ${index}`,
    decode: only(decodeFdbEntry, (entry) => entry.index === index),
  }
}

/** RTM_NEWNEIGH or RTM_DELNEIGH of family AF_BRIDGE; undefined when it cannot be read or is of another family. */
export function decodeFdbEntry(bytes: Uint8Array, start = 0, end = bytes.length): FdbEntry | undefined {
  const attributes = attributesIn(bytes, start + NDMSG, end)
  if (attributes.failed || bytes[start] !== AF_BRIDGE) return undefined
  let mac: MacAddress | undefined
  let destination: Ipv4 | undefined
  let port: number | undefined
  let vni: number | undefined
  let via: number | undefined
  while (attributes.next()) {
    switch (attributes.type) {
      case NDA_LLADDR:
        mac = attributes.mac()
        break
      case NDA_DST:
        if (attributes.length === 4) destination = attributes.ipv4()
        break
      case NDA_PORT:
        port = attributes.u16be()
        break
      case NDA_VNI:
        vni = attributes.u32()
        break
      case NDA_IFINDEX:
        via = attributes.u32()
        break
    }
  }
  if (attributes.failed || mac === undefined) return undefined
  const state = getU16(bytes, start + 8)
  const flags = bytes[start + 10] ?? 0
  return { index: getU32(bytes, start + 4), mac, destination, state, flags, port, vni, via }
}
