import type { Ipv4, Subnet } from '../ip.ts'

/** A node's claim on a subnet, as it stands in etcd under `<prefix>/subnets/<a.b.c.d>-<len>`. */
export interface Lease {
  readonly subnet: Subnet
  readonly attributes: LeaseAttributes
  /** Seconds left when it was read, 0 or more; undefined for a reservation, which never expires. */
  readonly ttl: number | undefined
  /** etcd's modifiedIndex: what a compare-and-swap of this lease names. */
  readonly modifiedIndex: number
}

/** The lease's value. `backendType` is '' when the writer left it out (flannel's udp and alloc do). */
export interface LeaseAttributes {
  readonly publicIP: Ipv4
  readonly backendType: string
  /** Any JSON value, undefined when absent; each backend parses its own. */
  readonly backendData: unknown
}

/** A key under `subnets` that is no lease we can use, and why. */
export interface BadLease {
  readonly key: string
  readonly reason: string
}

/**
 * What watching the leases yields. An empty snapshot and no news are different values: only a complete,
 * successful answer from etcd becomes a snapshot, and only a snapshot or a delete withdraws a lease.
 */
export type LeaseWatchResult =
  | {
      readonly kind: 'snapshot'
      readonly leases: readonly Lease[]
      readonly bad: readonly BadLease[]
      readonly index: number
      /** The store is not the one, or not in the state, that was known before: what it lacks it may have lost. */
      readonly replaced: boolean
    }
  | { readonly kind: 'events'; readonly events: readonly LeaseEvent[]; readonly index: number }

export type LeaseEvent =
  | { readonly kind: 'put'; readonly lease: Lease }
  /** `expired` tells an expiry from a delete. */
  | { readonly kind: 'delete'; readonly subnet: Subnet; readonly expired: boolean }
  | { readonly kind: 'bad'; readonly bad: BadLease }
  /** A key that names no subnet was deleted: what was bad about it is mended. */
  | { readonly kind: 'mended'; readonly key: string }
