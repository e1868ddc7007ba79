/** Addresses of devices. */
import type { IpAddress } from '../ip.ts'
import {
  AF_INET,
  AF_INET6,
  IFA_ADDRESS,
  IFA_BROADCAST,
  IFA_FLAGS,
  IFA_LABEL,
  IFA_LOCAL,
  NLM_F_CREATE,
  NLM_F_DUMP,
  NLM_F_EXCL,
  RTM_DELADDR,
  RTM_GETADDR,
  RTM_NEWADDR,
} from './constants.ts'
import { formatIp } from './format.ts'
import { type DumpRequest, type NetlinkRequest, only } from './request.ts'
import { AttributeReader, getU32, type MessageWriter } from './wire.ts'

export interface Address {
  readonly index: number
  readonly address: IpAddress
  /** The other end of a point-to-point address (`ip address add ... peer`), which the prefix is of; else the address itself. */
  readonly peer: IpAddress
  /** Prefix length. */
  readonly length: number
  /** RT_SCOPE_*. */
  readonly scope: number
  /** IPv4 only: the device's name, or that with `:` and a word. */
  readonly label: string | undefined
  /** IFA_F_*. */
  readonly flags: number
  readonly broadcast: IpAddress | undefined
}

interface AddressOf {
  readonly index: number
  /** Of the device, for the error. */
  readonly name: string
  readonly address: IpAddress
  readonly peer?: IpAddress
  readonly length: number
}

// struct ifaddrmsg { u8 ifa_family; u8 ifa_prefixlen; u8 ifa_flags; u8 ifa_scope; u32 ifa_index; }
const IFADDRMSG = 8

function encode(writer: MessageWriter, { index, address, peer = address, length }: AddressOf): void {
  writer
    .octets(typeof address === 'number' ? AF_INET : AF_INET6, length, 0, 0)
    .u32(index)
    .attributeIp(IFA_LOCAL, address)
    .attributeIp(IFA_ADDRESS, peer)
}

/** Adds an address of global scope, without label or broadcast; EEXIST when the device has it. */
export function addAddress(address: AddressOf): NetlinkRequest {
  return {
    type: RTM_NEWADDR,
    flags: NLM_F_CREATE | NLM_F_EXCL,
    encode: (writer) => encode(writer, address),
    operation: () => `add address ${formatIp(address.address)}/${address.length} to ${address.name}`,
  }
}

/** EADDRNOTAVAIL when the device has no such address. */
export function deleteAddress(address: AddressOf): NetlinkRequest {
  return {
    type: RTM_DELADDR,
    flags: 0,
    encode: (writer) => encode(writer, address),
    operation: () => `delete address ${formatIp(address.address)}/${address.length} from ${address.name}`,
  }
}

/** The addresses of a family, of one device when `index` is given (ENODEV when it is gone). */
export function dumpAddresses(of: { readonly family: 4 | 6; readonly index?: number }): DumpRequest<Address> {
  const family = of.family === 4 ? AF_INET : AF_INET6
  return {
    type: RTM_GETADDR,
    flags: NLM_F_DUMP,
    encode: (writer) => writer.octets(family, 0, 0, 0).u32(of.index ?? 0),
    operation: () => `list IPv${of.family} addresses`,
    decode: only(decodeAddress, ({ index }) => of.index === undefined || index === of.index),
  }
}

/** RTM_NEWADDR or RTM_DELADDR; undefined when it cannot be read. */
export function decodeAddress(bytes: Uint8Array, start = 0, end = bytes.length): Address | undefined {
  const attributes = new AttributeReader().begin(bytes, start + IFADDRMSG, end)
  const family = bytes[start]
  if (attributes.failed || (family !== AF_INET && family !== AF_INET6)) return undefined
  let local: IpAddress | undefined
  let peer: IpAddress | undefined
  let broadcast: IpAddress | undefined
  let label: string | undefined
  let flags = bytes[start + 2] ?? 0
  while (attributes.next()) {
    switch (attributes.type) {
      case IFA_LOCAL:
        local = attributes.ip()
        break
      case IFA_ADDRESS:
        peer = attributes.ip()
        break
      case IFA_BROADCAST:
        broadcast = attributes.ip()
        break
      case IFA_LABEL:
        label = attributes.string()
        break
      // All 32 bits, of which the header has room for 8.
      case IFA_FLAGS:
        flags = attributes.u32()
        break
    }
  }
  // IPv6 has a local address of its own only where there is another end.
  const address = local ?? peer
  if (attributes.failed || address === undefined) return undefined
  const [length = 0, scope = 0] = [bytes[start + 1], bytes[start + 3]]
  const index = getU32(bytes, start + 4)
  return { index, address, peer: peer ?? address, length, scope, label, flags, broadcast }
}
