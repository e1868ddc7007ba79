import {
  contains,
  formatIpv4,
  formatSubnet,
  type Ipv4,
  overlaps,
  type Subnet,
  sameSubnet,
  subnetOf,
} from '../ip.ts'
import type { Lease } from './lease.ts'

/** What a node holds a peer's lease against before it lets it near the kernel. */
export interface LeaseRules {
  readonly network: Subnet
  /** The node's own lease and public address. */
  readonly own: Subnet
  readonly publicIP: Ipv4
  /** The node's own addresses with the prefix lengths they stand on their interfaces with; host bits are kept. */
  readonly underlay: readonly InterfaceAddress[]
}

/** An address as it stands on an interface. */
export interface InterfaceAddress {
  readonly address: Ipv4
  readonly length: number
}

/** Why this peer's lease must not become routes, or undefined when it may. The own lease is not asked about. */
export function leaseObjection(lease: Lease, rules: LeaseRules): string | undefined {
  const { subnet } = lease
  const { publicIP } = lease.attributes
  if (!inside(subnet, rules.network)) {
    return `${formatSubnet(subnet)} is not within the network ${formatSubnet(rules.network)}`
  }
  if (overlaps(subnet, rules.own)) {
    return `${formatSubnet(subnet)} overlaps this node's own subnet ${formatSubnet(rules.own)}`
  }
  if (publicIP === rules.publicIP) return `PublicIP ${formatIpv4(publicIP)} is this node's own`
  if (contains(subnet, publicIP))
    return `PublicIP ${formatIpv4(publicIP)} lies within the subnet it would be reached by`
  return underlayObjection(subnet, rules)
}

/**
 * Why routes to `subnet` would cut this node's own connections. A network that was carved out of a wide underlay
 * prefix on purpose (10.5.0.0/16 where the interface stands in 10.0.0.0/8) is fine, as long as a lease holds no
 * address of ours.
 */
export function underlayObjection(
  subnet: Subnet,
  { network, underlay }: Pick<LeaseRules, 'network' | 'underlay'>,
): string | undefined {
  for (const { address, length } of underlay) {
    const prefix = subnetOf(address, length)
    if (!overlaps(subnet, prefix)) continue
    if (contains(subnet, address)) {
      return `${formatSubnet(subnet)} holds this node's own address ${formatIpv4(address)}`
    }
    const carved = inside(network, prefix) && !sameSubnet(network, prefix)
    if (!carved) {
      return `${formatSubnet(subnet)} overlaps ${formatSubnet(prefix)}, which this node reaches directly`
    }
  }
  return undefined
}

function inside(inner: Subnet, outer: Subnet): boolean {
  return inner.length >= outer.length && contains(outer, inner.address)
}
