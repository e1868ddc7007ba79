import type { Durations } from '../durations.ts'
import type { Ipv4, MacAddress, Subnet } from '../ip.ts'
import type { Rtnl } from '../netlink/conn.ts'
import type { Notification } from '../netlink/monitor.ts'
import type { Lease } from '../subnet/lease.ts'
import type { EntryState } from './delta.ts'
import type { May, Step, TableKey, TableName } from './operations.ts'

/** What a backend makes of leases and of the kernel; it remembers and plans, and never writes an entry itself. */
export interface Model {
  /** The device, or what else stands for the network in a log line. */
  readonly name: string
  /**
   * Brings the device to what it has to be, if there is one. `moved` tells that entries have to be wanted anew, on
   * another interface. Throws DeviceError or NetlinkError.
   */
  ensureDevice(): DeviceOutcome
  /**
   * Whether the device that the entries are of is there and up, though it is not all that it has to be. For a backend that has
   * one. Throws NetlinkError.
   */
  stands?(): boolean
  /** Reads what the choice of what to want depends on, if anything does, before the tables are read. Throws NetlinkError. */
  peek?(): void
  /**
   * Reads the tables whole and tells of the keys that were not as believed. `justPut` says that all peers were put just now, so
   * that how they are reached need not be looked up again. Throws NetlinkError.
   */
  load(surprised: Surprised, justPut: boolean): void
  /**
   * Takes in what somebody else did to an entry; returns the keys that changed, undefined when only a look at the
   * whole tables can tell.
   */
  observe(notification: Notification): TableKey[] | undefined
  /** What a change of a link or an address puts in doubt. */
  doubt(notification: LinkNotification): Doubt
  /** Throws UnusableLease when this backend can make nothing of it; what stood for the subnet is then withdrawn. */
  put(lease: Lease): void
  remove(subnet: Subnet): void
  /** A complete list of this many leases comes next. */
  expect(count: number): void
  /** Of the peers. */
  subnets(): Iterable<Subnet>
  /** How many peers there are. */
  readonly size: number
  /** The steps from held to wanted, each made from what was acknowledged of the one before. */
  plan(may: May): Iterable<Step>
  /** Who takes the requests for a table, where it is not rtnetlink. */
  connection?(table: TableName): Rtnl
  counts(): Readonly<Partial<Record<TableName, { readonly wanted: number; readonly held: number }>>>
  /** What somebody had changed under this key stands again: for words of the backend's own. */
  repaired?(key: TableKey): void
  /** Made for one walk over all peers: tells how each one's entries stand. For a backend whose peers have entries. */
  inspect?(): (subnet: Subnet) => PeerStatus | undefined
}

/** Told of a key that was not as believed as soon as that is known, whatever comes after. */
export type Surprised = (key: TableKey) => void

export interface DeviceOutcome {
  readonly moved: boolean
  /** What was wrong with the device that had to be made anew. */
  readonly recreated: string | undefined
  readonly changes: readonly string[]
}

/** `entries` includes the device: the kernel drops entries with it. */
export type Doubt = 'nothing' | 'device' | 'entries'

export type LinkNotification = Extract<Notification, { kind: 'link' | 'address' }>

/** The device cannot be had as wanted, and only the operator can decide what gives way. */
export class DeviceError extends Error {
  override readonly name = 'DeviceError'
}

/** A lease that a backend can make nothing of; one line for the log. */
export class UnusableLease extends Error {
  override readonly name = 'UnusableLease'
}

/** What a peer can need: entries of the kernel's tables, or the run of an operator's command. */
export type Need = TableName | 'command'

export interface TableStatus {
  readonly wanted: number
  readonly held: number
  readonly failed: number
}

export interface ReconcilerStatus {
  readonly peers: number
  readonly skipped: number
  readonly tables: Readonly<Partial<Record<Need, TableStatus>>>
  readonly repairs: Readonly<Record<TableName | 'device', number>>
}

/** How we came to know that an entry was not as we left it; with `device`, the kernel dropped it with its device. */
export type RepairCause = 'notification' | 'compare' | 'device'

/** One peer and what stands for it in the kernel. */
export interface PeerStatus {
  readonly subnet: Subnet
  readonly publicIP: Ipv4
  /** The peer's VTEP, where it has one. */
  readonly mac: MacAddress | undefined
  /**
   * How its subnet is reached: by a route of its own, plain or through a nexthop object, around the tunnel, by the one
   * route to the whole network, or as the operator's commands have it; `none` when another peer has its place.
   */
  readonly route: 'plain' | 'nexthop' | 'direct' | 'network' | 'command' | 'none'
  /** Of a command: whether it was run for the peer as it is now, and went well. */
  readonly entries: Readonly<Partial<Record<Need, EntryState>>>
}

/** One run of something, and how much it found to do. */
export interface Round {
  /** Monotonic milliseconds. */
  readonly at: number
  /** Milliseconds. */
  readonly took: number
  /** Of an apply, the entries written or deleted; of a compare, the entries that were not as believed. */
  readonly entries: number
}

/** What a reconciler has done so far, beyond its status; the pace of each kind of work is always kept. */
export interface ReconcilerHistory {
  readonly lastApply: Round | undefined
  readonly lastCompare: Round | undefined
  readonly applies: Durations
  readonly compares: Durations
  readonly repairs: Readonly<Record<TableName | 'device', Readonly<Record<RepairCause, number>>>>
  /** What the kernel refuses at the moment, one line each. */
  readonly refusals: Iterable<string>
  /** Leases that this backend can make nothing of, one line each. */
  readonly skipped: Iterable<string>
  /** What keeps the device or the tables from being looked at, if anything does. */
  readonly trouble: string | undefined
}

export const NO_REPAIRS: ReconcilerStatus['repairs'] = {
  neighbour: 0,
  fdb: 0,
  nexthop: 0,
  route: 0,
  peer: 0,
  device: 0,
}
