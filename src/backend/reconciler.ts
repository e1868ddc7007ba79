import { readFileSync } from 'node:fs'
import type { Clock } from '../clock.ts'
import { Durations } from '../durations.ts'
import { type Ipv4, type MacAddress, type Subnet, subnetKey } from '../ip.ts'
import type { Logger } from '../log.ts'
import type { Rtnl } from '../netlink/conn.ts'
import { NetlinkError } from '../netlink/errors.ts'
import type { Notification } from '../netlink/monitor.ts'
import type { Lease } from '../subnet/lease.ts'
import { Backoff } from './backoff.ts'
import type { EntryState } from './delta.ts'
import type { May, Operation, TableKey, TableName } from './operations.ts'

/**
 * The loop that keeps the kernel at what the leases say, whatever the backend.
 *
 * Handlers remember: leases, notifications and changes of the underlay only change memory and mark what is in doubt.
 * `apply` alone writes, and it is synchronous, so that one runs at a time. What is in doubt is read whole before
 * anything is written: the device after a link event, the tables at start, after lost notifications, after a
 * device change (the kernel drops entries with it without a word), and on a timer.
 */
export interface ReconcilerOptions {
  readonly rtnl: Rtnl
  /** Handles all notifications that are queued now; they arrive through `observe`. */
  readonly drain: () => void
  readonly log: Logger
  readonly clock: Clock
  /** Milliseconds between full compares. */
  readonly resyncPeriod: number
}

/** What a backend makes of leases and of the kernel; it remembers and plans, and never writes an entry itself. */
export interface Model {
  /** The device, or what else stands for the network in a log line. */
  readonly name: string
  /**
   * Brings the device to what it has to be, if there is one. `moved` tells that entries have to be wanted anew, on
   * another interface. Throws DeviceError or NetlinkError.
   */
  ensureDevice(): DeviceOutcome
  /** Reads the tables whole; returns the keys that were not as believed. Throws NetlinkError. */
  load(): TableKey[]
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
  subnets(): Iterable<Subnet>
  /** The steps from held to wanted, every step made from what was acknowledged of the one before. */
  plan(may: May): Iterable<Iterable<Operation>>
  /** Who takes the requests for a table, where it is not rtnetlink; a step is for one connection. */
  connection?(table: TableName): Rtnl
  counts(): Readonly<Partial<Record<TableName, { readonly wanted: number; readonly held: number }>>>
  /** What somebody had changed under this key stands again: for words of the backend's own. */
  repaired?(key: TableKey): void
  /** Made for one walk over all peers: tells how each one's entries stand. For a backend whose peers have entries. */
  inspect?(): (subnet: Subnet) => PeerStatus | undefined
}

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

export interface TableStatus {
  readonly wanted: number
  readonly held: number
  readonly failed: number
}

export interface ReconcilerStatus {
  readonly peers: number
  readonly skipped: number
  readonly tables: Readonly<Partial<Record<TableName, TableStatus>>>
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
  /** How its subnet is reached; `none` when another peer has its place. */
  readonly route: 'plain' | 'nexthop' | 'direct' | 'none'
  readonly entries: Readonly<Partial<Record<TableName, EntryState>>>
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

/** Repairs of one key that are made at once; from then on somebody is fighting us, and we slow down. */
const FREE_REPAIRS = 20
/** In the place of a port id: nobody told us, a complete compare did. */
const FOUND_BY_COMPARE = -1
/** Such applies before their refusals count as failures: one or two are a race with whoever changed the device. */
const PATIENT_APPLIES = 3
/** Milliseconds in which notifications are gathered before they are answered. */
const GATHER = 2
/** A device or a table that can't be had is tried again after this many milliseconds at first. */
const RETRY = 1000

export class Reconciler {
  readonly #model: Model
  readonly #options: ReconcilerOptions
  readonly #failures = new Backoff<string>(0)
  readonly #fights = new Backoff<string>(FREE_REPAIRS)
  readonly #failed = new Map<string, NetlinkError>()
  /** Keys that are not as we left them, and who changed them: a netlink port id, 0 or less when unknown. */
  readonly #disturbed = new Map<string, number>()
  readonly #skipped = new Map<number, string>()
  readonly #repairs = {
    neighbour: noRepairs(),
    fdb: noRepairs(),
    nexthop: noRepairs(),
    route: noRepairs(),
    peer: noRepairs(),
    device: noRepairs(),
  }
  readonly #applies = new Durations()
  readonly #compares = new Durations()
  #lastApply: Round | undefined
  #lastCompare: Round | undefined
  #started = false
  #deviceInDoubt = true
  #tablesInDoubt = true
  #snapshotSeen = false
  #lastLoad = 0
  /** What is missing went with the device, by the kernel's own doing: no fight, and worth one line together. */
  #lostWithDevice = false
  /** Applies in a row in which the device was found gone or down only when it was written to. */
  #deviceRefusals = 0
  #troubles = 0
  #trouble: string | undefined
  #retryAt = Number.POSITIVE_INFINITY
  #wake: (() => void) | undefined
  #woken = false
  #sleepsUntil = Number.NEGATIVE_INFINITY

  constructor(model: Model, options: ReconcilerOptions) {
    this.#model = model
    this.#options = options
  }

  get name(): string {
    return this.#model.name
  }

  /** Makes or adopts the device. Throws DeviceError or NetlinkError: at start the operator must know at once. */
  start(): void {
    this.#ensureDevice()
  }

  /** A complete list of the remote leases. The first one also removes what peers of an earlier run left behind. */
  replaceLeases(leases: Iterable<Lease>): void {
    const all = [...leases]
    const current = new Set(all.map((lease) => subnetKey(lease.subnet)))
    try {
      this.#loadIfInDoubt()
    } catch (error) {
      // What the kernel holds is a help in the choice of what to want, no more; `apply` reads again, and tells.
      if (!(error instanceof NetlinkError)) throw error
    }
    this.#model.expect(all.length)
    for (const subnet of [...this.#model.subnets()]) {
      if (!current.has(subnetKey(subnet))) this.removeLease(subnet)
    }
    for (const lease of all) this.putLease(lease)
    this.#snapshotSeen = true
  }

  putLease(lease: Lease): void {
    const key = subnetKey(lease.subnet)
    try {
      this.#model.put(lease)
      this.#skipped.delete(key)
    } catch (error) {
      if (!(error instanceof UnusableLease)) throw error
      if (this.#skipped.get(key) !== error.message) this.#options.log.warn(error.message)
      this.#skipped.set(key, error.message)
    }
  }

  removeLease(subnet: Subnet): void {
    this.#skipped.delete(subnetKey(subnet))
    this.#model.remove(subnet)
  }

  /** What others did to the kernel. Our own echoes are known by their port id. */
  observe(notifications: readonly Notification[]): void {
    let news = false
    for (const notification of notifications) {
      if (notification.portId === this.#options.rtnl.portId) continue
      if (notification.kind === 'link' || notification.kind === 'address') {
        const doubt = this.#model.doubt(notification)
        if (doubt === 'nothing') continue
        this.#deviceInDoubt = true
        if (doubt === 'entries') this.#tablesInDoubt = true
        this.#disturbed.set('device', notification.portId)
        news = true
      } else if (!this.#tablesInDoubt) {
        const changed = this.#model.observe(notification)
        if (changed === undefined) this.#tablesInDoubt = true
        for (const key of changed ?? []) this.#disturbed.set(idOf(key), notification.portId)
        if (changed?.length !== 0) news = true
      }
    }
    if (news) this.wake()
  }

  /** Notifications were lost, so nothing is known for sure. */
  observeOverrun(): void {
    this.#deviceInDoubt = true
    this.#tablesInDoubt = true
    this.wake()
  }

  /** What the device has to be has changed: take it in with the next apply. */
  deviceChanged(): void {
    this.#deviceInDoubt = true
    this.wake()
  }

  /** Brings the kernel to what is wanted, as far as it lets us. Never throws: what fails is tried again. */
  apply(): void {
    this.#applyOnce()
    // `run` sleeps for as long as was right before.
    if (this.#retryAt < this.#sleepsUntil) this.#wake?.()
  }

  #applyOnce(): void {
    const { clock, log } = this.#options
    const begin = clock.now()
    this.#retryAt = Number.POSITIVE_INFINITY
    try {
      this.#options.drain()
      this.#ensureDevice()
      this.#loadIfInDoubt()
    } catch (error) {
      if (!(error instanceof NetlinkError || error instanceof DeviceError)) throw error
      this.#trouble = error.message
      if (this.#troubles++ === 0) log.error(`${error.message}; trying again until it works`)
      this.#retryAt = clock.now() + Math.min(60_000, RETRY * 2 ** Math.min(this.#troubles - 1, 6))
      return
    }
    if (this.#troubles > 0) {
      log.info(`${this.#model.name} is as it should be again`, { failures: this.#troubles })
      this.#troubles = 0
      this.#trouble = undefined
    }
    if (this.#snapshotSeen) {
      const entries = this.#execute()
      const took = clock.now() - begin
      this.#applies.add(took)
      this.#lastApply = { at: begin, took, entries }
    }
  }

  /** Applies whenever something changed, and compares all on a timer, until `signal` is aborted. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, resyncPeriod } = this.#options
    while (!signal.aborted) {
      const due = Math.min(this.#lastLoad + resyncPeriod, this.#retryAt)
      this.#sleepsUntil = due
      await this.#sleep(Math.max(0, due - clock.now()), signal)
      if (signal.aborted) return
      if (clock.now() >= this.#lastLoad + resyncPeriod) {
        // Counted from the try: one that fails is tried again when `apply` says, and not over and over.
        this.#lastLoad = clock.now()
        this.observeOverrun()
      }
      this.apply()
    }
  }

  /** Makes `run` apply soon. */
  wake(): void {
    this.#woken = true
    this.#wake?.()
  }

  get status(): ReconcilerStatus {
    const failures = [...this.#failed.keys()]
    const tables: Partial<Record<TableName, TableStatus>> = {}
    for (const [name, { wanted, held }] of Object.entries(this.#model.counts())) {
      const failed = failures.filter((id) => id.startsWith(`${name} `)).length
      // The names are those of `counts`, which Object.entries widens to text.
      tables[name as TableName] = { wanted, held, failed }
    }
    return {
      peers: count(this.#model.subnets()),
      skipped: this.#skipped.size,
      tables,
      repairs: {
        neighbour: total(this.#repairs.neighbour),
        fdb: total(this.#repairs.fdb),
        nexthop: total(this.#repairs.nexthop),
        route: total(this.#repairs.route),
        peer: total(this.#repairs.peer),
        device: total(this.#repairs.device),
      },
    }
  }

  get history(): ReconcilerHistory {
    return {
      lastApply: this.#lastApply,
      lastCompare: this.#lastCompare,
      applies: this.#applies,
      compares: this.#compares,
      repairs: this.#repairs,
      refusals: [...this.#failed.values()].map((error) => error.message),
      skipped: this.#skipped.values(),
      trouble: this.#trouble,
    }
  }

  /** All peers, each looked at when it is asked for. */
  *peers(): Generator<PeerStatus> {
    const look = this.#model.inspect?.()
    if (look === undefined) return
    for (const subnet of this.#model.subnets()) {
      const status = look(subnet)
      if (status !== undefined) yield status
    }
  }

  #ensureDevice(): void {
    if (!this.#deviceInDoubt) return
    const { log, clock, drain } = this.#options
    const { name } = this.#model
    const wait = this.#started ? this.#fights.wait('device', clock.now()) : 0
    if (wait > 0) {
      this.#retryAt = Math.min(this.#retryAt, clock.now() + wait)
      return
    }
    const { moved, recreated, changes } = this.#model.ensureDevice()
    if (recreated !== undefined) {
      log.warn(`"${name}" already exists with incompatable configuration: ${recreated}; recreating device`)
    }
    if (this.#started && changes.length > 0) log.warn(`${name}: ${changes.join(', ')}`, this.#who('device'))
    else for (const change of changes) log.info(`${name}: ${change}`)
    if (this.#started && changes.length > 0) {
      this.#repairs.device[this.#causeOf('device')]++
      if (this.#slowDown('device')) {
        log.warn(`somebody keeps changing ${name}; repairing it more slowly from now on`, this.#who('device'))
      }
    }
    if (moved || changes.length > 0) {
      this.#tablesInDoubt = true
      this.#lostWithDevice = this.#started
      // Entries that the kernel dropped by itself, as it does with all neighbours of a device whose MAC changes.
      for (const [id, by] of this.#disturbed) if (by === 0) this.#disturbed.delete(id)
    }
    this.#disturbed.delete('device')
    // What our own changes made the kernel say is read here, before the device counts as certain.
    drain()
    this.#deviceInDoubt = false
    this.#started = true
  }

  #loadIfInDoubt(): void {
    if (!this.#tablesInDoubt) return
    const begin = this.#options.clock.now()
    const surprising = this.#model.load()
    this.#tablesInDoubt = false
    this.#lastLoad = this.#options.clock.now()
    const took = this.#lastLoad - begin
    this.#compares.add(took)
    this.#lastCompare = { at: begin, took, entries: surprising.length }
    if (this.#snapshotSeen && !this.#lostWithDevice) {
      for (const key of surprising) this.#disturbed.set(idOf(key), FOUND_BY_COMPARE)
    }
  }

  /** Returns how many entries were written or deleted. */
  #execute(): number {
    const { rtnl, clock, log, drain } = this.#options
    const now = clock.now()
    const repaired: Operation[] = []
    const fought: Operation[] = []
    const refused: NetlinkError[] = []
    let done = 0
    let deleted = false
    const pending = new Set<string>()
    // With nothing to remember about any key, the thousands of a first snapshot need no look-ups by text.
    const calm = this.#failed.size === 0 && this.#disturbed.size === 0
    const may: May = (key) => {
      if (calm) return true
      const id = idOf(key)
      pending.add(id)
      return this.#mayTry(id, now)
    }
    for (const batch of batches(this.#model.plan(may))) {
      const [{ table }] = batch as [Operation]
      const connection = this.#model.connection?.(table) ?? rtnl
      const errors = connection.batch(batch.map((operation) => operation.request))
      for (const [i, operation] of batch.entries()) {
        const error = errors[i]
        if (error === undefined || (operation.action === 'delete' && isGone(error))) {
          done++
          deleted ||= operation.action === 'delete'
          if (this.#succeeded(operation)) {
            repaired.push(operation)
            this.#model.repaired?.(operation)
            if (this.#slowDown(idOf(operation))) fought.push(operation)
          }
        } else if (this.#refused(operation, error, now)) {
          refused.push(error)
        }
      }
    }
    // What failed and need not be done any more, as when the peer has left, fails no longer.
    for (const id of this.#failed.keys()) {
      if (calm || pending.has(id)) continue
      this.#failed.delete(id)
      this.#failures.clear(id)
    }
    // The kernel reports a deleted neighbour or FDB entry as if it had done it by itself. Read while nothing is wanted
    // there, that is no news; after the peer came back it would look like somebody else's doing.
    if (deleted) drain()
    this.#deviceRefusals = this.#deviceInDoubt ? this.#deviceRefusals + 1 : 0
    const [first] = repaired
    if (first !== undefined) {
      const what = some(repaired.map((operation) => operation.request.operation()))
      log.warn(`repaired what was changed behind our back: ${what}`, this.#who(idOf(first)))
    }
    const [fight] = fought
    if (fight !== undefined) {
      const what = some(fought.map((operation) => operation.request.operation()))
      log.warn(
        `somebody keeps changing ${this.#model.name}; repairing more slowly from now on: ${what}`,
        this.#who(idOf(fight)),
      )
    }
    for (const id of this.#disturbed.keys()) {
      if (this.#fights.wait(id, now) === 0) this.#disturbed.delete(id)
    }
    if (this.#lostWithDevice && done > 0) {
      log.info(`restored ${done} entries that went with ${this.#model.name}`)
    }
    this.#lostWithDevice = false
    if (refused.length > 0) log.error(`${some(refused.map((error) => error.message))}; trying again`)
    return done
  }

  /** Returns whether it mended what somebody else had changed. */
  #succeeded(operation: Operation): boolean {
    operation.acknowledged()
    if (this.#failed.size === 0 && this.#disturbed.size === 0 && !this.#lostWithDevice) return false
    const id = idOf(operation)
    if (this.#failed.delete(id)) {
      this.#failures.clear(id)
      this.#options.log.info(`${operation.request.operation()}: works again`)
    }
    const repair = this.#disturbed.has(id)
    if (repair || this.#lostWithDevice) this.#repairs[operation.table][this.#causeOf(id)]++
    return repair
  }

  #causeOf(id: string): RepairCause {
    if (this.#lostWithDevice && id !== 'device') return 'device'
    const by = this.#disturbed.get(id)
    return by === undefined || by === FOUND_BY_COMPARE ? 'compare' : 'notification'
  }

  /** Returns whether it is news that this is refused. */
  #refused(operation: Operation, error: NetlinkError, now: number): boolean {
    if (error.code === 'ENODEV' || error.code === 'ENETDOWN') {
      // The device went away under us: look at it before the next try, which need not wait the first time.
      this.#deviceInDoubt = true
      this.#tablesInDoubt = true
      if (this.#deviceRefusals < PATIENT_APPLIES) {
        this.#retryAt = now
        return false
      }
    }
    // The kernel holds what we believed it did not, and not in the first place.
    if (error.code === 'EEXIST') this.#tablesInDoubt = true
    const id = idOf(operation)
    const news = !this.#failed.has(id)
    this.#failed.set(id, error)
    this.#failures.note(id, now)
    this.#retryAt = Math.min(this.#retryAt, now + Math.max(1, this.#failures.wait(id, now)))
    return news
  }

  #mayTry(id: string, now: number): boolean {
    const fight = this.#disturbed.has(id) ? this.#fights.wait(id, now) : 0
    const wait = Math.max(this.#failures.wait(id, now), fight)
    if (wait > 0) this.#retryAt = Math.min(this.#retryAt, now + wait)
    return wait <= 0
  }

  /** Counts a repair; returns whether somebody is fighting us over this from now on. */
  #slowDown(id: string): boolean {
    return this.#fights.note(id, this.#options.clock.now()) === FREE_REPAIRS + 1
  }

  /** Who did it, as far as a netlink port id tells: most programs use their pid. */
  #who(id: string): { readonly by?: string } {
    const portId = this.#disturbed.get(id)
    if (portId === undefined || portId <= 0) return {}
    try {
      return { by: `${readFileSync(`/proc/${portId}/comm`, 'utf8').trim()} (pid ${portId})` }
    } catch {
      return { by: `pid ${portId}, gone by now` }
    }
  }

  /** Until `ms` are over, the signal fires, or somebody wakes us; then a moment more, to gather what comes together. */
  async #sleep(ms: number, signal: AbortSignal): Promise<void> {
    if (!this.#woken) {
      const timer = new AbortController()
      const stop = (): void => timer.abort()
      this.#wake = stop
      signal.addEventListener('abort', stop, { once: true })
      await this.#options.clock.sleep(Math.min(ms, 2 ** 31 - 1), timer.signal)
      signal.removeEventListener('abort', stop)
      this.#wake = undefined
    }
    if (this.#woken) await this.#options.clock.sleep(GATHER, signal)
    this.#woken = false
  }
}

/** Operations acknowledged together: few enough that none grows old before it is done and can be forgotten. */
const BATCH = 1024

function* batches(steps: Iterable<Iterable<Operation>>): Generator<readonly Operation[]> {
  for (const step of steps) {
    let batch: Operation[] = []
    for (const operation of step) {
      batch.push(operation)
      if (batch.length < BATCH) continue
      yield batch
      batch = []
    }
    if (batch.length > 0) yield batch
  }
}

/** The first few of many, for one line. */
function some(texts: readonly string[]): string {
  return texts.slice(0, 3).join('; ') + (texts.length > 3 ? `; and ${texts.length - 3} more` : '')
}

function noRepairs(): Record<RepairCause, number> {
  return { notification: 0, compare: 0, device: 0 }
}

function total(by: Readonly<Record<RepairCause, number>>): number {
  return by.notification + by.compare + by.device
}

function count(things: Iterable<unknown>): number {
  let n = 0
  for (const _ of things) n++
  return n
}

function idOf({ table, key }: TableKey): string {
  return `${table} ${key}`
}

/** Deleting what is already gone is success. A device that is gone took its entries with it. */
function isGone({ code }: NetlinkError): boolean {
  return code === 'ENOENT' || code === 'ESRCH' || code === 'ENODEV' || code === 'EADDRNOTAVAIL'
}
