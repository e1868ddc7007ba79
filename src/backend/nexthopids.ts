import type { Subnet } from '../ip.ts'

/** Nexthop ids of ours have one of these top bytes, so that a restart knows them and other software's stay clear. */
export const NEXTHOP_ID_PREFIX = 0xf1000000
/**
 * For paths around the tunnel. A peer that moves behind a router gets a new object and then a new route, which waits for
 * what carries it; the object that it had, put elsewhere, would take the route along at once.
 */
export const DIRECT_ID_PREFIX = 0xf2000000

/**
 * The nexthop id of a subnet: its position in the network, in the lower 24 bits. Undefined where positions do not
 * fit or do not exist (a lease of another length than the network's SubnetLen): such a peer gets a plain route.
 */
export function nexthopIdOf(
  subnet: Subnet,
  network: Subnet,
  subnetLen: number,
  prefix = NEXTHOP_ID_PREFIX,
): number | undefined {
  if (subnet.length !== subnetLen || subnetLen - network.length > 24) return undefined
  return prefix + ((subnet.address - network.address) >>> (32 - subnetLen))
}

export function isOurNexthopId(id: number): boolean {
  const prefix = id - (id & 0xffffff)
  return prefix === NEXTHOP_ID_PREFIX || prefix === DIRECT_ID_PREFIX
}
