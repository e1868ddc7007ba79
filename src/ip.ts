/**
 * Addresses as the program passes them around.
 *
 * IPv4 and IPv6 are two instances of one type: a `number` (unsigned 32 bit) is an IPv4 address, a `bigint`
 * (128 bit) an IPv6 one, so that the tables that hold tens of thousands of IPv4 entries pay for nothing
 * but a number. The parser is our own, since 65,000 leases pass through it; tests hold it to `ip-num`.
 */
export type Ipv4 = number
export type Ipv6 = bigint
export type IpAddress = Ipv4 | Ipv6

/** An IPv4 prefix. `address` has no host bits set; `length` is 0..32. */
export interface Subnet {
  readonly address: Ipv4
  readonly length: number
}

/** A MAC address as the kernel's tools print it: six lower-case octets with colons. */
export type MacAddress = string

/**
 * Dotted decimal, from one place in a text to another, to a number, or undefined. Strict: four decimal octets, no leading
 * zeros, no spaces.
 */
export function parseIpv4(text: string, from = 0, to = text.length): Ipv4 | undefined {
  let value = 0
  let octet = -1
  let dots = 0
  for (let i = from; i < to; i++) {
    const c = text.charCodeAt(i)
    if (c === 0x2e) {
      if (octet < 0 || ++dots > 3) return undefined
      value = value * 256 + octet
      octet = -1
    } else if (c >= 0x30 && c <= 0x39) {
      if (octet === 0) return undefined
      octet = octet < 0 ? c - 0x30 : octet * 10 + (c - 0x30)
      if (octet > 255) return undefined
    } else {
      return undefined
    }
  }
  return dots === 3 && octet >= 0 ? value * 256 + octet : undefined
}

export function formatIpv4(ip: Ipv4): string {
  return `${ip >>> 24}.${(ip >>> 16) & 255}.${(ip >>> 8) & 255}.${ip & 255}`
}

/** The mask of a prefix length, 0..32, as an unsigned number. */
export function netmask(length: number): Ipv4 {
  return length === 0 ? 0 : (0xffffffff << (32 - length)) >>> 0
}

/** Number of addresses in a prefix of this length, 0..32. */
export function subnetSize(length: number): number {
  return 2 ** (32 - length)
}

/** The prefix of `length` that holds `address`: host bits are cleared. */
export function subnetOf(address: Ipv4, length: number): Subnet {
  return { address: (address & netmask(length)) >>> 0, length }
}

/** `a.b.c.d/len` to address and length, host bits kept; undefined when it is not that. */
export function parseCidr(text: string): { readonly address: Ipv4; readonly length: number } | undefined {
  const slash = text.indexOf('/')
  if (slash < 0) return undefined
  const address = parseIpv4(text, 0, slash)
  const length = parsePrefixLength(text, slash + 1)
  return address === undefined || length === undefined ? undefined : { address, length }
}

/** 0..32, as decimal digits without leading zeros from a place in a text to its end, or undefined. */
export function parsePrefixLength(text: string, from: number): number | undefined {
  let length = -1
  for (let i = from; i < text.length; i++) {
    const digit = text.charCodeAt(i) - 0x30
    if (digit < 0 || digit > 9 || length === 0) return undefined
    length = length < 0 ? digit : length * 10 + digit
    if (length > 32) return undefined
  }
  return length < 0 ? undefined : length
}

export function formatSubnet(subnet: Subnet): string {
  return `${formatIpv4(subnet.address)}/${subnet.length}`
}

export function contains(subnet: Subnet, address: Ipv4): boolean {
  return (address & netmask(subnet.length)) >>> 0 === subnet.address
}

/** Whether two prefixes share an address, that is, whether one holds the other. */
export function overlaps(a: Subnet, b: Subnet): boolean {
  const mask = netmask(Math.min(a.length, b.length))
  return ((a.address ^ b.address) & mask) === 0
}

/**
 * A number that stands for the prefix in maps: its address with the first host bit set, which tells the length. Maps
 * are several times faster with such 32-bit keys than with larger numbers or text; only a /32 needs another kind.
 */
export function subnetKey({ address, length }: Subnet): number {
  return length === 32 ? address + 0.5 : address | (1 << (31 - length))
}

/**
 * A 32-bit number, such as an address, as a key of maps: the same bits as a signed number, with which maps are several
 * times faster.
 */
export function smallKey(bits: number): number {
  return bits | 0
}

export function sameSubnet(a: Subnet, b: Subnet): boolean {
  return a.address === b.address && a.length === b.length
}

/** 224.0.0.0/4, 255.255.255.255, 0.0.0.0/8 and 127.0.0.0/8 can be no tunnel end. */
export function isUnicastHost(address: Ipv4): boolean {
  const first = address >>> 24
  return first !== 0 && first !== 127 && first < 224
}
