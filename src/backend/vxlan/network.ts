import { readFileSync } from 'node:fs'
import type { Clock } from '../../clock.ts'
import { formatSubnet, type Ipv4, type MacAddress, type Subnet, subnetKey } from '../../ip.ts'
import type { Logger } from '../../log.ts'
import type { Rtnl } from '../../netlink/conn.ts'
import { NetlinkError } from '../../netlink/errors.ts'
import type { Notification } from '../../netlink/monitor.ts'
import { dumpNexthops } from '../../netlink/nexthop.ts'
import { getRoute } from '../../netlink/route.ts'
import type { Lease } from '../../subnet/lease.ts'
import { Backoff } from '../backoff.ts'
import type { Links } from './desired.ts'
import { DeviceError, type DeviceSpec, ensureDevice } from './device.ts'
import { Peers } from './peers.ts'
import { type Operation, plan } from './plan.ts'
import { type TableKey, type TableName, Tables } from './tables.ts'
import { type Vtep, VtepError } from './vtep.ts'

/**
 * One VXLAN network: the loop that keeps the kernel at what the leases say.
 *
 * Handlers remember: leases, notifications and changes of the underlay only change memory and mark what is in doubt.
 * `apply` alone writes, and it is synchronous, so that one runs at a time. What is in doubt is read whole before
 * anything is written: the device after a link event, the tables at start, after lost notifications, after a
 * device change (the kernel drops entries with it without a word), and on a timer.
 */
export interface NetworkOptions {
  readonly rtnl: Rtnl
  /** Handles all notifications that are queued now; they arrive through `observe`. */
  readonly drain: () => void
  readonly log: Logger
  readonly clock: Clock
  readonly network: Subnet
  readonly subnetLen: number
  readonly directRouting: boolean
  readonly device: DeviceSpec
  /** Milliseconds between full compares. */
  readonly resyncPeriod: number
  /** Called when the underlay may have changed: the parent interface went, came, or has another address or MTU. */
  readonly onUnderlayChange: () => void
}

export interface TableStatus {
  readonly wanted: number
  readonly held: number
  readonly failed: number
}

const TABLES = ['neighbour', 'fdb', 'nexthop', 'route'] as const
/** Repairs of one key that are made at once; from then on somebody is fighting us, and we slow down. */
const FREE_REPAIRS = 20
/** Such applies before their refusals count as failures: one or two are a race with whoever changed the device. */
const PATIENT_APPLIES = 3
/** Milliseconds in which notifications are gathered before they are answered. */
const GATHER = 2
/** A dumped table that can't be had is tried again after this many milliseconds at first. */
const RETRY = 1000

export class VxlanNetwork {
  readonly #options: NetworkOptions
  readonly #tables: Tables
  readonly #peers: Peers
  readonly #failures = new Backoff<string>(0)
  readonly #fights = new Backoff<string>(FREE_REPAIRS)
  readonly #failed = new Map<string, NetlinkError>()
  /** Keys that are not as we left them, and who changed them: a netlink port id, 0 when unknown. */
  readonly #disturbed = new Map<string, number>()
  readonly #skipped = new Map<number, string>()
  readonly #repairs: Record<TableName | 'device', number> = {
    neighbour: 0,
    fdb: 0,
    nexthop: 0,
    route: 0,
    device: 0,
  }
  readonly #nexthops: boolean
  #device: DeviceSpec
  #links: Links
  #deviceInDoubt = true
  #tablesInDoubt = true
  #snapshotSeen = false
  #lastLoad = 0
  /** What is missing went with the device, by the kernel's own doing: no fight, and worth one line together. */
  #lostWithDevice = false
  /** Applies in a row in which the device was found gone or down only when it was written to. */
  #deviceRefusals = 0
  #troubles = 0
  #retryAt = Number.POSITIVE_INFINITY
  #wake: (() => void) | undefined
  #woken = false

  constructor(options: NetworkOptions) {
    this.#options = options
    this.#device = options.device
    this.#links = { device: 0, parent: options.device.parent.index }
    const { network, subnetLen, directRouting } = options
    this.#tables = new Tables({
      network,
      subnetLen,
      directRouting,
      wantsRouteTo: (destination) => this.#peers.entries(destination) !== undefined,
    })
    this.#nexthops = supportsNexthops(options.rtnl)
    this.#peers = new Peers(
      {
        tables: this.#tables,
        network,
        subnetLen,
        ownMac: () => this.#device.mac,
        isDirect: (vtep) => directRouting && this.#isDirect(vtep),
        nexthops: this.#nexthops,
      },
      this.#links,
    )
  }

  /** Makes or adopts the device. Throws DeviceError or NetlinkError: at start the operator must know at once. */
  start(): void {
    this.#ensureDevice()
  }

  /** A complete list of the remote leases. The first one also removes what peers of an earlier run left behind. */
  replaceLeases(leases: Iterable<Lease>): void {
    const all = [...leases]
    const current = new Set(all.map((lease) => subnetKey(lease.subnet)))
    this.#loadIfInDoubt()
    this.#peers.expect(all.length)
    for (const subnet of [...this.#peers.subnets()])
      if (!current.has(subnetKey(subnet))) this.removeLease(subnet)
    for (const lease of all) this.putLease(lease)
    this.#snapshotSeen = true
  }

  putLease(lease: Lease): void {
    const key = subnetKey(lease.subnet)
    try {
      this.#peers.put(lease)
      this.#skipped.delete(key)
    } catch (error) {
      if (!(error instanceof VtepError)) throw error
      if (this.#skipped.get(key) !== error.message) this.#options.log.warn(error.message)
      this.#skipped.set(key, error.message)
    }
  }

  removeLease(subnet: Subnet): void {
    this.#skipped.delete(subnetKey(subnet))
    this.#peers.remove(subnet)
  }

  /** The chosen interface, its MTU or its address changed. Takes effect with the next apply. */
  setUnderlay(underlay: Pick<DeviceSpec, 'parent' | 'local' | 'mtu'>): void {
    this.#device = { ...this.#device, ...underlay }
    this.#deviceInDoubt = true
    this.wake()
  }

  get mac(): MacAddress {
    return this.#device.mac
  }

  /** What others did to the kernel. Our own echoes are known by their port id. */
  observe(notifications: readonly Notification[]): void {
    let news = false
    for (const notification of notifications) {
      if (notification.portId === this.#options.rtnl.portId) continue
      if (notification.kind === 'link') {
        news = this.#observeLink(notification) || news
      } else if (notification.kind === 'address') {
        news = this.#observeAddress(notification.value.index, notification.value.address) || news
      } else if (!this.#tablesInDoubt) {
        for (const key of this.#tables.observe(notification, this.#links)) {
          this.#disturb(key, notification.portId)
          news = true
        }
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

  /** Brings the kernel to what is wanted, as far as it lets us. Never throws: what fails is tried again. */
  apply(): void {
    const { clock, log } = this.#options
    this.#retryAt = Number.POSITIVE_INFINITY
    try {
      this.#options.drain()
      this.#ensureDevice()
      this.#loadIfInDoubt()
    } catch (error) {
      if (!(error instanceof NetlinkError || error instanceof DeviceError)) throw error
      if (this.#troubles++ === 0) log.error(`${error.message}; trying again until it works`)
      this.#retryAt = clock.now() + Math.min(60_000, RETRY * 2 ** Math.min(this.#troubles - 1, 6))
      return
    }
    if (this.#troubles > 0) {
      log.info(`${this.#device.name} is as it should be again`, { failures: this.#troubles })
      this.#troubles = 0
    }
    if (!this.#snapshotSeen) return
    this.#execute()
  }

  /** Applies whenever something changed, and compares all on a timer, until `signal` is aborted. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, resyncPeriod } = this.#options
    while (!signal.aborted) {
      const now = clock.now()
      const due = Math.min(this.#lastLoad + resyncPeriod, this.#retryAt)
      await this.#sleep(Math.max(0, due - now), signal)
      if (signal.aborted) return
      if (clock.now() >= this.#lastLoad + resyncPeriod) this.observeOverrun()
      this.apply()
    }
  }

  /** Makes `run` apply soon. */
  wake(): void {
    this.#woken = true
    this.#wake?.()
  }

  get status(): {
    readonly index: number
    readonly peers: number
    readonly skipped: number
    readonly tables: Readonly<Record<TableName, TableStatus>>
    readonly repairs: Readonly<Record<TableName | 'device', number>>
  } {
    const of = {
      neighbour: this.#tables.neighbours,
      fdb: this.#tables.fdb,
      nexthop: this.#tables.nexthops,
      route: this.#tables.routes,
    }
    const tables = Object.fromEntries(
      TABLES.map((name) => {
        const { wanted, held } = of[name].counts
        const failed = [...this.#failed.keys()].filter((id) => id.startsWith(`${name} `)).length
        return [name, { wanted, held, failed }]
      }),
    ) as Record<TableName, TableStatus>
    return {
      index: this.#links.device,
      peers: this.#peers.size,
      skipped: this.#skipped.size,
      tables,
      repairs: this.#repairs,
    }
  }

  #observeLink(notification: Extract<Notification, { kind: 'link' }>): boolean {
    const { value: link, deleted } = notification
    if (link.index === this.#links.parent || link.name === this.#device.parent.name) {
      this.#options.onUnderlayChange()
    }
    if (link.index !== this.#links.device && link.name !== this.#device.name) return false
    const right =
      !deleted &&
      link.up &&
      link.mtu === this.#device.mtu &&
      link.mac === this.#device.mac &&
      link.name === this.#device.name
    if (right && link.index === this.#links.device) return false
    this.#deviceInDoubt = true
    // The kernel drops the routes and neighbours of a device that went down or away, and does not say so.
    if (deleted || !link.up) this.#tablesInDoubt = true
    this.#disturbed.set('device', notification.portId)
    return true
  }

  #observeAddress(index: number, address: Ipv4 | bigint): boolean {
    if (typeof address !== 'number') return false
    if (index === this.#links.parent) this.#options.onUnderlayChange()
    if (index !== this.#links.device) return false
    this.#deviceInDoubt = true
    this.#tablesInDoubt = true
    return true
  }

  #ensureDevice(): void {
    if (!this.#deviceInDoubt) return
    const { rtnl, log, clock, drain } = this.#options
    const first = this.#links.device === 0
    const wait = first ? 0 : this.#fights.wait('device', clock.now())
    if (wait > 0) {
      this.#retryAt = Math.min(this.#retryAt, clock.now() + wait)
      return
    }
    const { index, recreated, changes } = ensureDevice(
      rtnl,
      this.#device,
      first ? undefined : this.#links.device,
    )
    const { name } = this.#device
    if (recreated !== undefined) {
      log.warn(`"${name}" already exists with incompatable configuration: ${recreated}; recreating device`)
    }
    for (const change of changes) {
      if (first) log.info(`${name}: ${change}`)
      else log.warn(`${name}: ${change}`, this.#who('device'))
    }
    const links = { device: index, parent: this.#device.parent.index }
    const moved = links.device !== this.#links.device || links.parent !== this.#links.parent
    if (changes.length > 0 && !first) {
      this.#repairs.device++
      this.#slowDown('device')
    }
    this.#links = links
    this.#disturbed.delete('device')
    // What our own changes made the kernel say is read here, before the device counts as certain.
    drain()
    this.#deviceInDoubt = false
    if (moved || changes.length > 0) {
      this.#tablesInDoubt = true
      this.#lostWithDevice = !first
    }
    if (moved) this.#peers.rebuild(links)
  }

  #loadIfInDoubt(): void {
    if (!this.#tablesInDoubt) return
    const { rtnl, clock, directRouting } = this.#options
    const first = this.#lastLoad === 0
    const surprising = this.#tables.load(rtnl, this.#links, this.#nexthops)
    this.#tablesInDoubt = false
    this.#lastLoad = clock.now()
    if (directRouting && !first) this.#peers.rebuild(this.#links)
    if (!first && this.#snapshotSeen && !this.#lostWithDevice)
      for (const key of surprising) this.#disturb(key, 0)
  }

  #execute(): void {
    const { rtnl, clock, log } = this.#options
    const now = clock.now()
    const repaired: Operation[] = []
    const refused: NetlinkError[] = []
    let done = 0
    for (const step of plan({
      tables: this.#tables,
      deviceName: this.#device.name,
      peer: (destination) => this.#peers.entries(destination),
      may: (key) => this.#mayTry(idOf(key), now),
    })) {
      if (step.length === 0) continue
      const errors = rtnl.batch(step.map((operation) => operation.request))
      for (const [i, operation] of step.entries()) {
        const error = errors[i]
        if (error === undefined || (operation.action === 'delete' && isGone(error))) {
          done++
          if (this.#succeeded(operation)) repaired.push(operation)
        } else if (this.#refused(operation, error, now)) {
          refused.push(error)
        }
      }
    }
    this.#deviceRefusals = this.#deviceInDoubt ? this.#deviceRefusals + 1 : 0
    const [first] = repaired
    if (first !== undefined) {
      const what = some(repaired.map((operation) => operation.request.operation()))
      log.warn(`repaired what was changed behind our back: ${what}`, this.#who(idOf(first)))
    }
    for (const id of this.#disturbed.keys()) {
      if (this.#fights.wait(id, now) === 0) this.#disturbed.delete(id)
    }
    if (this.#lostWithDevice && done > 0)
      log.info(`restored ${done} entries that went with ${this.#device.name}`)
    this.#lostWithDevice = false
    if (refused.length > 0) log.error(`${some(refused.map((e) => e.message))}; trying again`)
  }

  /** Returns whether it mended what somebody else had changed. */
  #succeeded(operation: Operation): boolean {
    const id = idOf(operation)
    operation.acknowledged()
    if (this.#failed.delete(id)) {
      this.#failures.clear(id)
      this.#options.log.info(`${operation.request.operation()}: works again`)
    }
    const repair = this.#disturbed.has(id)
    if (repair) this.#slowDown(id)
    if (repair || this.#lostWithDevice) this.#repairs[operation.table]++
    return repair
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
    const id = idOf(operation)
    const news = !this.#failed.has(id)
    this.#failed.set(id, error)
    this.#failures.note(id, now)
    this.#retryAt = Math.min(this.#retryAt, now + Math.max(1, this.#failures.wait(id, now)))
    return news
  }

  #mayTry(id: string, now: number): boolean {
    const wait = Math.max(
      this.#failures.wait(id, now),
      this.#disturbed.has(id) ? this.#fights.wait(id, now) : 0,
    )
    if (wait > 0) this.#retryAt = Math.min(this.#retryAt, now + wait)
    return wait <= 0
  }

  #slowDown(id: string): void {
    const { clock, log } = this.#options
    const tries = this.#fights.note(id, clock.now())
    if (tries === FREE_REPAIRS + 1) {
      log.warn(
        `somebody keeps changing ${id} on ${this.#device.name}; repairing it more slowly from now on`,
        this.#who(id),
      )
    }
  }

  #disturb(key: TableKey, portId: number): void {
    this.#disturbed.set(idOf(key), portId)
  }

  /** Who did it, as far as a netlink port id tells: most programs use their pid. */
  #who(id: string): { readonly by?: string } {
    const portId = this.#disturbed.get(id)
    if (portId === undefined || portId === 0) return {}
    try {
      return { by: `${readFileSync(`/proc/${portId}/comm`, 'utf8').trim()} (pid ${portId})` }
    } catch {
      return { by: `pid ${portId}, gone by now` }
    }
  }

  #isDirect(vtep: Vtep): boolean {
    try {
      const route = this.#options.rtnl.get(getRoute(vtep.underlay))
      return route.gateway === undefined && route.oif === this.#device.parent.index
    } catch (error) {
      if (!(error instanceof NetlinkError)) throw error
      this.#options.log.debug(
        `no route to ${formatSubnet({ address: vtep.underlay, length: 32 })}: ${error.message}`,
      )
      return false
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

/** The first few of many, for one line. */
function some(texts: readonly string[]): string {
  return texts.slice(0, 3).join('; ') + (texts.length > 3 ? `; and ${texts.length - 3} more` : '')
}

function idOf({ table, key }: TableKey): string {
  return `${table} ${key}`
}

/** Deleting what is already gone is success. A device that is gone took its entries with it. */
function isGone({ code }: NetlinkError): boolean {
  return code === 'ENOENT' || code === 'ESRCH' || code === 'ENODEV' || code === 'EADDRNOTAVAIL'
}

/** Nexthop objects came with Linux 5.3. */
function supportsNexthops(rtnl: Rtnl): boolean {
  try {
    rtnl.dump(dumpNexthops({}))
    return true
  } catch (error) {
    if (error instanceof NetlinkError) return false
    throw error
  }
}
