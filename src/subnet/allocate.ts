import { type Ipv4, type Subnet, subnetSize } from '../ip.ts'
import type { NetworkConfig } from './config.ts'
import { SubnetSet } from './subnetset.ts'

export interface Allocation {
  readonly config: Pick<NetworkConfig, 'subnetLen' | 'subnetMin' | 'subnetMax'>
  /** Every range somebody lays claim to, of whatever length. */
  readonly taken: Iterable<Subnet>
  /** Refuses a free subnet that this node must not use; absent, all free ones will do. */
  readonly usable?: (subnet: Subnet) => boolean
  readonly publicIP: Ipv4
}

/**
 * The first free subnet on this node's own path through SubnetMin..SubnetMax, or undefined when there is none.
 *
 * The path starts at a hash of the public IP and goes on by a stride that is another hash of it and has no divisor
 * in common with the number of subnets, so that it meets every subnet once. Thousands of nodes that start at
 * once therefore begin in different places and, if two meet, part again, whereas flannel v0.11 sends all of them
 * into the first 100 free subnets.
 */
export function chooseSubnet({ config, taken, usable, publicIP }: Allocation): Subnet | undefined {
  const { subnetLen, subnetMin, subnetMax } = config
  const size = subnetSize(subnetLen)
  const count = Math.floor((subnetMax - subnetMin) / size) + 1
  const set = new SubnetSet(subnetLen, taken)
  const stride = coprime(mix(publicIP ^ 0x9e3779b9) % count, count)
  let position = mix(publicIP) % count
  for (let i = 0; i < count; i++) {
    const address = subnetMin + position * size
    if (!set.overlaps(address)) {
      const subnet = { address, length: subnetLen }
      if (usable?.(subnet) !== false) return subnet
    }
    position = (position + stride) % count
  }
  return undefined
}

/** The finalizer of MurmurHash3: every input bit changes every output bit with even odds. */
function mix(value: number): number {
  let h = value >>> 0
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b)
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35)
  return (h ^ (h >>> 16)) >>> 0
}

/** The first number from `start` on that shares no divisor with `count`. */
function coprime(start: number, count: number): number {
  let stride = Math.max(1, start)
  while (divisor(stride, count) !== 1) stride++
  return stride
}

function divisor(a: number, b: number): number {
  return b === 0 ? a : divisor(b, a % b)
}
