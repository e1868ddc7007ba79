import { formatIpv4, type IpAddress } from '../ip.ts'

/** An address for an error or a trace; IPv6 as eight groups, not shortened. */
export function formatIp(address: IpAddress): string {
  if (typeof address === 'number') return formatIpv4(address)
  const groups = Array.from({ length: 8 }, (_, i) => (address >> BigInt(112 - 16 * i)) & 0xffffn)
  return groups.map((group) => group.toString(16)).join(':')
}
