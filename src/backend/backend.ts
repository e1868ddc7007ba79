import type { Clock } from '../clock.ts'
import type { Ipv4, Subnet } from '../ip.ts'
import type { Logger } from '../log.ts'
import type { Rtnl } from '../netlink/conn.ts'
import type { Notification } from '../netlink/monitor.ts'
import type { DumpRequest } from '../netlink/request.ts'
import type { Lease, LeaseAttributes } from '../subnet/lease.ts'
import type { PeerStatus, ReconcilerHistory, ReconcilerStatus } from './model.ts'

/** The interface that carries the traffic between nodes. */
export interface Underlay {
  readonly index: number
  readonly name: string
  readonly mtu: number
  /** Local end of the tunnels. */
  readonly address: Ipv4
  /** What the lease publishes. */
  readonly publicIP: Ipv4
}

export interface BackendContext {
  readonly rtnl: Rtnl
  /** Opens a connection to generic netlink, which is closed with the daemon. */
  readonly generic: () => Rtnl
  readonly log: Logger
  readonly clock: Clock
  readonly network: Subnet
  readonly subnetLen: number
  /** The `Backend` object of the network config, as JSON has it. */
  readonly options: Readonly<Record<string, unknown>>
  readonly underlay: Underlay
  /** Milliseconds between full compares with the kernel. */
  readonly resyncPeriod: number
  /** The daemon's environment. */
  readonly env: Readonly<Record<string, string | undefined>>
  /** Ends what the opening and the start of a backend wait for. */
  readonly signal: AbortSignal
}

/** A backend that has read its options and is about to join; each `src/backend/<type>/backend.ts` opens one. */
export interface Backend {
  /** The name of the device that it makes, if it makes one. */
  readonly device?: string
  /** What the first compare will read if nothing changes until then, of the device of an earlier run. */
  readonly left?: Leftover | undefined
  /** What this node's lease says; `own` is the lease that is written over, from which data can be kept. */
  attributes(own: Lease | undefined): LeaseAttributes
  /** Makes what the node itself needs. Rejects with a BackendError, DeviceError or NetlinkError. */
  start(lease: Lease, hooks: NetworkHooks): Promise<Network>
}

/** Tables that an earlier run has filled. */
export interface Leftover {
  /** Index of the device. */
  readonly device: number
  readonly tables: readonly DumpRequest<unknown>[]
}

export interface NetworkHooks {
  /** Handles all notifications that are queued now; they arrive through `Network.observe`. */
  readonly drain: () => void
  /** So many entries were read from the kernel and compared. */
  readonly compared?: (entries: number) => void
}

/** A node's end of the overlay, as the daemon drives it. */
export interface Network {
  /** What people see: the device, or the kind of routes. */
  readonly name: string
  /** Bytes a pod's packet may have. */
  readonly mtu: number
  readonly status: ReconcilerStatus
  /** What was done to the kernel so far, of a backend that writes to it. */
  readonly history?: ReconcilerHistory
  /** What else there is to say of the device. */
  readonly details?: Readonly<Record<string, string | number | boolean>>
  /**
   * What of a peer answers pings over this network: its device, which has the subnet's first address, or the node itself.
   * undefined: nothing that is known of.
   */
  readonly answers?: 'device' | 'node'
  /** How every peer's entries stand; each is looked at when it is asked for. */
  peers?(): Iterable<PeerStatus>
  /** A complete list of the remote leases. */
  replaceLeases(leases: Iterable<Lease>): void
  putLease(lease: Lease): void
  removeLease(subnet: Subnet): void
  setUnderlay(underlay: Underlay): void
  observe(notifications: readonly Notification[]): void
  observeOverrun(): void
  /** Makes it so, as far as it goes at once. */
  apply(): void
  /** Keeps it so until the signal fires. */
  run(signal: AbortSignal): Promise<void>
}

/** The backend cannot work here as configured. The message is the operator's whole line. */
export class BackendError extends Error {
  override readonly name = 'BackendError'
}
