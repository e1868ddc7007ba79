import type { Subnet } from '../ip.ts'
import type { BadLease, Lease, LeaseAttributes, LeaseEvent } from './lease.ts'

/** Seconds a lease lives without renewal; a fixed part of what flannel nodes agree on. */
export const LEASE_TTL_SECONDS = 86_400

/**
 * The store of config and leases, cut to what this folder needs. Every call rejects with an EtcdError. A write whose answer is
 * lost may be sent anew: what refuses it then (`resent`) may be that it was carried out, so whoever is refused looks again.
 */
export interface Registry {
  getConfig(signal: AbortSignal): Promise<ConfigText>
  /** All leases by a consistent read; a missing directory is an empty list. */
  listLeases(signal: AbortSignal): Promise<LeaseList>
  readLease(subnet: Subnet, signal: AbortSignal): Promise<LeaseRecord>
  /** Rejects with error 105 when the key exists. */
  createLease(subnet: Subnet, attributes: LeaseAttributes, signal: AbortSignal): Promise<Lease>
  /** Writes if the lease stands at `prevIndex` still; rejects with error 101 or 100 when not. */
  updateLease(update: LeaseUpdate, signal: AbortSignal): Promise<Lease>
  /** Deletes if the lease stands at `prevIndex` still; a lease that is gone already is success. */
  deleteLease(subnet: Subnet, prevIndex: number, signal: AbortSignal): Promise<void>
  /** Waits for the first write to the config from `waitIndex` on. */
  watchConfig(wait: WatchWait, signal: AbortSignal): Promise<ConfigStep>
  /** Waits for the first change of a lease from `waitIndex` on. */
  watch(wait: WatchWait, signal: AbortSignal): Promise<WatchStep>
}

/** The config as it was written, and the store that it was read from, which a watch goes on from. */
export interface ConfigText {
  readonly text: string
  readonly index: number
  readonly clusterId: string
}

/** `changed`: the key was written or removed, or the store is another or an older one. */
export type ConfigStep = { readonly kind: 'changed' } | Extract<WatchStep, { kind: 'idle' }>

export interface LeaseList {
  readonly leases: readonly Lease[]
  readonly bad: readonly BadLease[]
  /** The store's index: a watch goes on from the next one. */
  readonly index: number
  readonly clusterId: string
}

/** One lease key as it stands; a bad one has an index too, so that its owner can write over it. */
export type LeaseRecord =
  | { readonly kind: 'absent' }
  | { readonly kind: 'lease'; readonly lease: Lease }
  | { readonly kind: 'bad'; readonly bad: BadLease; readonly modifiedIndex: number }

export interface LeaseUpdate {
  readonly subnet: Subnet
  readonly attributes: LeaseAttributes
  readonly prevIndex: number
  /** Seconds; undefined writes a reservation, which has no TTL. */
  readonly ttl: number | undefined
}

export interface WatchWait {
  readonly waitIndex: number
  /** What the store was called at the last answer; another name means another store. */
  readonly clusterId: string
}

/**
 * `event`: a change at `index`, undefined when it concerns no lease. `idle`: nothing happened up to `index`; `waited` for
 * the whole time of a poll, or else the other side or the network ended it.
 * `resync`: what is known can no longer be carried forward by events (another or an older store, or the whole
 * directory removed). `storeIndex` tells how far the store is ahead of the event.
 */
export type WatchStep =
  | {
      readonly kind: 'event'
      readonly event: LeaseEvent | undefined
      readonly index: number
      readonly storeIndex: number
      readonly clusterId: string
    }
  | { readonly kind: 'idle'; readonly index: number; readonly clusterId: string; readonly waited: boolean }
  | { readonly kind: 'resync'; readonly reason: string }
