/**
 * Neighbour (ARP) entries: on this device, this overlay address has this MAC. Not to be mixed up with FDB
 * entries (fdb.ts), which travel in the same message and say where on the underlay that MAC is.
 */
import type { IpAddress, MacAddress } from '../ip.ts'
import {
  AF_INET,
  AF_INET6,
  AF_UNSPEC,
  NDA_DST,
  NDA_IFINDEX,
  NDA_LLADDR,
  NLM_F_CREATE,
  NLM_F_DUMP,
  NLM_F_REPLACE,
  NUD_PERMANENT,
  RTM_DELNEIGH,
  RTM_GETNEIGH,
  RTM_NEWNEIGH,
} from './constants.ts'
import { formatIp } from './format.ts'
import { NDMSG, ndmsg } from './ndmsg.ts'
import { type DumpRequest, EntryRequest, type NetlinkRequest, only, type RequestKind } from './request.ts'
import { attributesIn, getU16, getU32 } from './wire.ts'

export interface Neighbour {
  readonly index: number
  readonly address: IpAddress
  /** Undefined while it is not resolved. */
  readonly mac: MacAddress | undefined
  /** NUD_*. */
  readonly state: number
  /** NTF_*. */
  readonly flags: number
}

interface NewNeighbour {
  readonly index: number
  readonly address: IpAddress
  readonly mac: MacAddress
  readonly state?: number
}

const REPLACE: RequestKind<NewNeighbour> = {
  type: RTM_NEWNEIGH,
  flags: NLM_F_CREATE | NLM_F_REPLACE,
  encode: (writer, { index, address, mac, state = NUD_PERMANENT }) =>
    ndmsg(writer, family(address), index, state, 0)
      .attributeIp(NDA_DST, address)
      .attributeMac(NDA_LLADDR, mac),
  operation: ({ address, mac }, device) => `write neighbour ${formatIp(address)} -> ${mac} on ${device}`,
}

const DELETE: RequestKind<Pick<Neighbour, 'index' | 'address'>> = {
  type: RTM_DELNEIGH,
  flags: 0,
  encode: (writer, { index, address }) =>
    ndmsg(writer, family(address), index, 0, 0).attributeIp(NDA_DST, address),
  operation: ({ address }, device) => `delete neighbour ${formatIp(address)} on ${device}`,
}

/** Writes an entry, permanent unless `state` says otherwise, in the place of the one with the same address. */
export function replaceNeighbour(entry: NewNeighbour, device: string): NetlinkRequest {
  return new EntryRequest(REPLACE, entry, device)
}

/**
 * Deletes the entry of an address, whatever its MAC; ENOENT when there is none. It is notified twice: as changed
 * to NUD_FAILED, by us, and as deleted, by the kernel.
 */
export function deleteNeighbour(entry: Pick<Neighbour, 'index' | 'address'>, device: string): NetlinkRequest {
  return new EntryRequest(DELETE, entry, device)
}

/** The entries of one device; the kernel does the filtering. */
export function dumpNeighbours(of: {
  readonly family: 4 | 6
  readonly index: number
}): DumpRequest<Neighbour> {
  return {
    type: RTM_GETNEIGH,
    flags: NLM_F_DUMP,
    encode: (writer) =>
      ndmsg(writer, of.family === 4 ? AF_INET : AF_INET6, 0, 0, 0).attributeU32(NDA_IFINDEX, of.index),
    operation: () => `list IPv${of.family} neighbours of device ${of.index}`,
    decode: only(decodeNeighbour, (entry) => entry.index === of.index),
  }
}

function family(address: IpAddress): number {
  return typeof address === 'number' ? AF_INET : AF_INET6
}

/** RTM_NEWNEIGH or RTM_DELNEIGH; undefined when it cannot be read or is of neither IPv4 nor IPv6. */
export function decodeNeighbour(bytes: Uint8Array, start = 0, end = bytes.length): Neighbour | undefined {
  const attributes = attributesIn(bytes, start + NDMSG, end)
  const family = bytes[start] ?? AF_UNSPEC
  if (attributes.failed || (family !== AF_INET && family !== AF_INET6)) return undefined
  let address: IpAddress | undefined
  let mac: MacAddress | undefined
  while (attributes.next()) {
    switch (attributes.type) {
      case NDA_DST:
        address = family === AF_INET ? attributes.ipv4() : attributes.ipv6()
        break
      case NDA_LLADDR:
        mac = attributes.mac()
        break
    }
  }
  if (attributes.failed || address === undefined) return undefined
  const flags = bytes[start + 10] ?? 0
  return { index: getU32(bytes, start + 4), address, mac, state: getU16(bytes, start + 8), flags }
}
