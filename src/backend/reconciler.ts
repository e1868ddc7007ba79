import { type Clock, Nap } from '../clock.ts'
import { Durations } from '../durations.ts'
import { type Subnet, subnetKey } from '../ip.ts'
import type { Logger } from '../log.ts'
import type { Rtnl } from '../netlink/conn.ts'
import { NetlinkError } from '../netlink/errors.ts'
import type { Notification } from '../netlink/monitor.ts'
import type { NetlinkRequest } from '../netlink/request.ts'
import type { Lease } from '../subnet/lease.ts'
import type { NetworkHooks } from './backend.ts'
import { Disturbances } from './disturbances.ts'
import {
  DeviceError,
  type Model,
  type PeerStatus,
  type ReconcilerHistory,
  type ReconcilerStatus,
  type RepairCause,
  type Round,
  type TableStatus,
  UnusableLease,
} from './model.ts'
import type { May, Operation, Step, TableKey, TableName } from './operations.ts'
import { Refusals } from './refusals.ts'

export interface ReconcilerOptions extends NetworkHooks {
  readonly rtnl: Rtnl
  readonly log: Logger
  readonly clock: Clock
  /** Milliseconds between full compares. */
  readonly resyncPeriod: number
}

/** Applies in a row that find gone what entries lead through, before refusals count: one or two are a race with who took it. */
const PATIENT_APPLIES = 3
/** Milliseconds in which notifications are gathered before they are answered. */
const GATHER = 2
/** A device or a table that can't be had is tried again after this many milliseconds at first. */
const RETRY = 1000

/**
 * The loop that keeps the kernel at what the leases say, whatever the backend.
 *
 * Handlers remember: leases, notifications and changes of the underlay only change memory and mark what is in doubt.
 * `apply` alone writes, and it is synchronous, so that one runs at a time. What is in doubt is read whole before
 * anything is written: the device after a link event, the tables at start, after lost notifications, after a
 * device change (the kernel drops entries with it without a word), and on a timer.
 */
export class Reconciler {
  readonly #model: Model
  readonly #options: ReconcilerOptions
  readonly #refusals = new Refusals()
  readonly #disturbed = new Disturbances()
  readonly #skipped = new Map<number, string>()
  readonly #applies = new Durations()
  readonly #compares = new Durations()
  #lastApply: Round | undefined
  #lastCompare: Round | undefined
  #started = false
  #deviceInDoubt = true
  /** What the device has to be is new: to bring it there takes part in no fight, and waits for none. */
  #deviceRedefined = false
  #tablesInDoubt = true
  #snapshotSeen = false
  /** All peers were put, and nothing else has happened since. */
  #justPut = false
  #lastLoad = 0
  /** What is missing went with the device, by the kernel's own doing: no fight, and worth one line together. */
  #lostWithDevice = false
  /** What the compare after that found not as believed. Of this, what is there too much did not go with the device. */
  #surprising: readonly TableKey[] = []
  /** Whether this apply has found the device gone or down, or a nexthop object gone, only when an entry was written. */
  #foundGone = false
  /** Applies in a row that have. */
  #races = 0
  #troubles = 0
  #trouble: string | undefined
  #retryAt = Number.POSITIVE_INFINITY
  readonly #nap = new Nap()
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
    try {
      if (this.#tablesInDoubt) this.#model.peek?.()
    } catch (error) {
      // It is a help, no more; `apply` reads all of it, and tells.
      if (!(error instanceof NetlinkError)) throw error
    }
    this.#model.expect(all.length)
    const before = [...this.#model.subnets()]
    if (before.length > 0) {
      const current = new Set(all.map((lease) => subnetKey(lease.subnet)))
      for (const subnet of before) if (!current.has(subnetKey(subnet))) this.removeLease(subnet)
    }
    for (const lease of all) this.putLease(lease)
    this.#justPut = true
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

  /**
   * What others did to the kernel. Our own echoes are known by their port id, and are no news but for a deleted route, which
   * the kernel finds by less than all that makes it: if it was not the one that was meant, it has to be put back.
   */
  observe(notifications: readonly Notification[]): void {
    let news = false
    for (const notification of notifications) {
      const own = notification.portId === this.#options.rtnl.portId
      if (own && !(notification.kind === 'route' && notification.deleted)) continue
      if (notification.kind === 'link' || notification.kind === 'address') {
        const doubt = this.#model.doubt(notification)
        if (doubt === 'nothing') continue
        this.#deviceInDoubt = true
        if (doubt === 'entries') {
          this.#tablesInDoubt = true
          // What was refused for want of a carrier or an address need not wait once there is one.
          this.#refusals.retry()
        }
        this.#disturbed.note('device', notification.portId)
        news = true
      } else if (!this.#tablesInDoubt) {
        const changed = this.#model.observe(notification)
        if (changed === undefined) this.#tablesInDoubt = true
        for (const key of changed ?? []) this.#disturbed.note(idOf(key), own ? 0 : notification.portId)
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
    this.#deviceRedefined = true
    this.wake()
  }

  /** Brings the kernel to what is wanted, as far as it lets us. Never throws: what fails is tried again. */
  apply(): void {
    this.#applyOnce()
    // `run` sleeps for as long as was right before.
    if (this.#retryAt < this.#sleepsUntil) this.#nap.wake()
  }

  #applyOnce(): void {
    const { clock, log } = this.#options
    const begin = clock.now()
    this.#retryAt = Number.POSITIVE_INFINITY
    try {
      this.#options.drain()
      const trouble = this.#tryDevice()
      this.#loadIfInDoubt()
      if (trouble !== undefined) this.#troubled(trouble)
      else if (this.#troubles > 0) {
        log.info(`${this.#model.name} is as it should be again`, { failures: this.#troubles })
        this.#troubles = 0
        this.#trouble = undefined
      }
    } catch (error) {
      if (!isTrouble(error)) throw error
      this.#troubled(error)
      return
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
    this.#nap.wake()
  }

  get status(): ReconcilerStatus {
    const refused = [...this.#refusals.ids()]
    const { repairs } = this.#disturbed
    const tables: Partial<Record<TableName, TableStatus>> = {}
    for (const [name, { wanted, held }] of Object.entries(this.#model.counts())) {
      const failed = refused.filter((id) => id.startsWith(`${name} `)).length
      // The names are those of `counts`, which Object.entries widens to text.
      tables[name as TableName] = { wanted, held, failed }
    }
    return {
      peers: this.#model.size,
      skipped: this.#skipped.size,
      tables,
      repairs: {
        neighbour: total(repairs.neighbour),
        fdb: total(repairs.fdb),
        nexthop: total(repairs.nexthop),
        route: total(repairs.route),
        peer: total(repairs.peer),
        device: total(repairs.device),
      },
    }
  }

  get history(): ReconcilerHistory {
    return {
      lastApply: this.#lastApply,
      lastCompare: this.#lastCompare,
      applies: this.#applies,
      compares: this.#compares,
      repairs: this.#disturbed.repairs,
      refusals: this.#refusals.messages,
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

  #troubled({ message }: Trouble): void {
    const { clock, log } = this.#options
    this.#troubles++
    if (message !== this.#trouble) log.error(`${message}; trying again until it works`)
    this.#trouble = message
    this.#retryAt = clock.now() + Math.min(60_000, RETRY * 2 ** Math.min(this.#troubles - 1, 6))
  }

  /** Returns what keeps the device from being all that it has to be while it can have entries: they are kept all the same. */
  #tryDevice(): Trouble | undefined {
    try {
      this.#ensureDevice()
      return undefined
    } catch (error) {
      if (isTrouble(error) && this.#started && this.#model.stands?.()) return error
      throw error
    }
  }

  #ensureDevice(): void {
    if (!this.#deviceInDoubt) return
    const { log, clock, drain } = this.#options
    const { name } = this.#model
    const redefined = this.#deviceRedefined
    const wait = this.#started && !redefined ? this.#disturbed.wait('device', clock.now()) : 0
    if (wait > 0) {
      this.#retryAt = Math.min(this.#retryAt, clock.now() + wait)
      return
    }
    this.#justPut = false
    const { moved, recreated, changes } = this.#model.ensureDevice()
    if (recreated !== undefined) {
      log.warn(`"${name}" already exists with incompatable configuration: ${recreated}; recreating device`)
    }
    if (this.#started && changes.length > 0)
      log.warn(`${name}: ${changes.join(', ')}`, this.#disturbed.who('device'))
    else for (const change of changes) log.info(`${name}: ${change}`)
    if (this.#started && changes.length > 0) {
      this.#disturbed.count('device', 'device')
      if (!redefined && this.#disturbed.slowDown('device', clock.now())) {
        log.warn(
          `somebody keeps changing ${name}; repairing it more slowly from now on`,
          this.#disturbed.who('device'),
        )
      }
    }
    if (moved || changes.length > 0) {
      this.#tablesInDoubt = true
      this.#lostWithDevice = this.#started
      // Entries that the kernel dropped by itself, as it does with all neighbours of a device whose MAC changes.
      this.#disturbed.forgetTheKernels()
      // Nor need that wait which was refused for want of the device.
      this.#refusals.retry()
    }
    this.#disturbed.forget('device')
    this.#deviceInDoubt = false
    this.#deviceRedefined = false
    this.#started = true
    // What our own changes made the kernel say is read here; if somebody else's are among them, the device is in doubt again.
    drain()
  }

  #loadIfInDoubt(): void {
    const justPut = this.#justPut
    this.#justPut = false
    if (!this.#tablesInDoubt) return
    const begin = this.#options.clock.now()
    const surprising: TableKey[] = []
    try {
      this.#model.load((key) => surprising.push(key), justPut)
    } finally {
      this.#surprised(surprising)
      this.#options.rtnl.forget()
    }
    this.#tablesInDoubt = false
    this.#lastLoad = this.#options.clock.now()
    const took = this.#lastLoad - begin
    this.#compares.add(took)
    this.#options.compared?.(Object.values(this.#model.counts()).reduce((sum, { held }) => sum + held, 0))
    this.#lastCompare = { at: begin, took, entries: surprising.length }
  }

  #surprised(keys: readonly TableKey[]): void {
    if (this.#lostWithDevice) this.#surprising = [...this.#surprising, ...keys]
    // What was there before our first apply is nobody's doing.
    else if (this.#lastApply !== undefined) for (const key of keys) this.#disturbed.found(idOf(key))
  }

  /** Returns how many entries were written or deleted. */
  #execute(): number {
    const { rtnl, clock, log, drain } = this.#options
    const now = clock.now()
    const repaired: Operation[] = []
    const fought: Operation[] = []
    const refused: NetlinkError[] = []
    const recovered: string[] = []
    let done = 0
    let deleted = false
    this.#foundGone = false
    const pending = new Set<string>()
    // With nothing to remember about any key, the thousands of a first snapshot need no look-ups by text.
    const calm = this.#refusals.size === 0 && this.#disturbed.size === 0
    const may: May = (table, { key, wanted, held }) => {
      if (calm) return true
      const id = idOf({ table, key })
      pending.add(id)
      return this.#mayTry(id, wanted ?? held, now)
    }
    for (const batch of batches(this.#model.plan(may))) {
      const [{ table }] = batch as [Operation]
      const connection = this.#model.connection?.(table) ?? rtnl
      const errors = connection.batch(batch.map((operation) => operation.request))
      for (let i = 0; i < batch.length; i++) {
        const operation = batch[i] as Operation
        const error = errors[i]
        if (error === undefined || (operation.action === 'delete' && isGone(error, operation.request))) {
          done++
          deleted ||= operation.action === 'delete'
          if (this.#refusals.size > 0 && this.#refusals.forget(idOf(operation)))
            recovered.push(operation.request.operation())
          if (this.#succeeded(operation)) {
            repaired.push(operation)
            this.#model.repaired?.(operation)
            if (this.#disturbed.slowDown(idOf(operation), now)) fought.push(operation)
          }
        } else if (this.#refused(operation, error, now)) {
          refused.push(error)
        }
      }
    }
    // What failed and need not be done any more, as when the peer has left, fails no longer.
    for (const id of this.#refusals.ids()) if (!calm && !pending.has(id)) this.#refusals.forget(id)
    // The kernel reports a deleted neighbour or FDB entry as if it had done it by itself. Read while nothing is wanted
    // there, that is no news; after the peer came back it would look like somebody else's doing.
    if (deleted) drain()
    this.#races = this.#foundGone ? this.#races + 1 : 0
    if (recovered.length > 0) log.info(`${some(recovered)}: works again`)
    const [first] = repaired
    if (first !== undefined) {
      const what = some(repaired.map((operation) => operation.request.operation()))
      log.warn(`repaired what was changed behind our back: ${what}`, this.#disturbed.who(idOf(first)))
    }
    const [fight] = fought
    if (fight !== undefined) {
      const what = some(fought.map((operation) => operation.request.operation()))
      log.warn(
        `somebody keeps changing ${this.#model.name}; repairing more slowly from now on: ${what}`,
        this.#disturbed.who(idOf(fight)),
      )
    }
    this.#disturbed.settle(now)
    if (this.#lostWithDevice && done > 0) {
      log.info(`restored ${done} entries that went with ${this.#model.name}`)
    }
    this.#lostWithDevice = false
    this.#surprising = []
    if (refused.length > 0) log.error(`${some(refused.map((error) => error.message))}; trying again`)
    return done
  }

  /** Returns whether it mended what somebody else had changed. */
  #succeeded(operation: Operation): boolean {
    operation.acknowledged()
    if (this.#disturbed.size === 0 && !this.#lostWithDevice) return false
    const id = idOf(operation)
    if (operation.action === 'delete' && !this.#disturbed.has(id) && this.#isSurprise(operation))
      this.#disturbed.found(id)
    const repair = this.#disturbed.has(id)
    if (repair || this.#lostWithDevice) {
      this.#disturbed.count(operation.table, id, this.#lostWithDevice ? 'device' : undefined)
    }
    return repair
  }

  #isSurprise(operation: Operation): boolean {
    return this.#surprising.some(({ table, key }) => table === operation.table && key === operation.key)
  }

  /** Returns whether it is news that this is refused. */
  #refused(operation: Operation, error: NetlinkError, now: number): boolean {
    const ofDevice = error.code === 'ENODEV' || error.code === 'ENETDOWN'
    if (ofDevice || error.code === operation.request.lacking) {
      // It went away under us: look at it before the next try, which need not wait the first time.
      this.#deviceInDoubt ||= ofDevice
      this.#tablesInDoubt = true
      this.#foundGone = true
      if (this.#races < PATIENT_APPLIES) {
        this.#retryAt = now
        return false
      }
    }
    // The kernel holds what we believed it did not, and not in the first place.
    if (error.code === 'EEXIST') this.#tablesInDoubt = true
    const id = idOf(operation)
    const { entry } = operation
    const news = this.#refusals.note(id, { entry, error }, now)
    this.#retryAt = Math.min(this.#retryAt, now + Math.max(1, this.#refusals.wait(id, entry, now)))
    return news
  }

  #mayTry(id: string, entry: unknown, now: number): boolean {
    const wait = Math.max(this.#refusals.wait(id, entry, now), this.#disturbed.wait(id, now))
    if (wait > 0) this.#retryAt = Math.min(this.#retryAt, now + wait)
    return wait <= 0
  }

  /** Until `ms` are over, the signal fires, or somebody wakes us; then a moment more, to gather what comes together. */
  async #sleep(ms: number, signal: AbortSignal): Promise<void> {
    const { clock } = this.#options
    if (!this.#woken) await this.#nap.sleep(clock, Math.min(ms, 2 ** 31 - 1), signal)
    if (this.#woken) await clock.sleep(GATHER, signal)
    this.#woken = false
  }
}

type Trouble = NetlinkError | DeviceError

function isTrouble(error: unknown): error is Trouble {
  return error instanceof NetlinkError || error instanceof DeviceError
}

/** Operations acknowledged together: few enough that none grows old before it is done and can be forgotten. */
const BATCH = 1024

function* batches(steps: Iterable<Step>): Generator<readonly Operation[]> {
  for (const step of steps) {
    let batch: Operation[] = []
    for (const part of step) {
      for (const operation of part) {
        batch.push(operation)
        if (batch.length < BATCH) continue
        yield batch
        batch = []
      }
    }
    if (batch.length > 0) yield batch
  }
}

/** The first few of many, for one line. */
function some(texts: readonly string[]): string {
  return texts.slice(0, 3).join('; ') + (texts.length > 3 ? `; and ${texts.length - 3} more` : '')
}

function total(by: Readonly<Record<RepairCause, number>>): number {
  return by.notification + by.compare + by.device
}

function idOf({ table, key }: TableKey): string {
  return `${table} ${key}`
}

/** Deleting what is already gone is success. A device that is gone took its entries with it. */
function isGone({ code }: NetlinkError, { gone }: NetlinkRequest): boolean {
  return (
    code === gone || code === 'ENOENT' || code === 'ESRCH' || code === 'ENODEV' || code === 'EADDRNOTAVAIL'
  )
}
