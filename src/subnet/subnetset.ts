import { type Ipv4, type Subnet, subnetOf } from '../ip.ts'

/**
 * Prefixes, asked whether one of them overlaps a subnet of one fixed length: one look-up for every prefix length in
 * use, whatever the number of prefixes.
 */
export class SubnetSet {
  readonly #length: number
  /** Network addresses by prefix length; the longer prefixes are entered as the one of `#length` that holds them. */
  readonly #byLength = new Map<number, Set<Ipv4>>()

  constructor(length: number, subnets: Iterable<Subnet>) {
    this.#length = length
    for (const subnet of subnets) this.add(subnet)
  }

  add(subnet: Subnet): void {
    const { address, length } = subnetOf(subnet.address, Math.min(subnet.length, this.#length))
    const set = this.#byLength.get(length)
    if (set === undefined) this.#byLength.set(length, new Set([address]))
    else set.add(address)
  }

  /** `address` is that of a subnet of this set's length. */
  overlaps(address: Ipv4): boolean {
    for (const [length, set] of this.#byLength) {
      if (set.has(subnetOf(address, length).address)) return true
    }
    return false
  }
}
