import type { Clock } from '../clock.ts'
import { type Ipv4, type Subnet, sameSubnet, subnetKey, subnetOf } from '../ip.ts'
import type { Logger } from '../log.ts'
import { sameJson } from './gojson.ts'
import type { BadLease, Lease, LeaseAttributes, LeaseEvent } from './lease.ts'
import { leaseKey } from './leasecodec.ts'
import { LEASE_TTL_SECONDS } from './registry.ts'
import { type LeaseRules, leaseObjection } from './validate.ts'

/**
 * Milliseconds that a lease stays in use after its term. Its node may live and only have been kept from renewing: this
 * program claims again within two seconds of etcd's return, flannel tries once a minute.
 */
const GRACE_MS = 180_000

/** A point in time on both clocks: the monotonic one stands still while a machine is suspended, the other can be set. */
interface Moment {
  readonly now: number
  readonly wall: number
}

/** What became of the leases in use: those that are new or not as they were, a renewal included, and those gone. */
export interface LeaseChanges {
  readonly put: readonly Lease[]
  readonly removed: readonly Subnet[]
}

export interface LeaseTableOptions {
  readonly rules: LeaseRules
  /** SubnetLen of the network config: the length a lease should have. */
  readonly subnetLen: number
  readonly clock: Clock
  readonly log: Logger
}

/**
 * The leases of all other nodes that may become routes here.
 *
 * A lease gets in by a snapshot or a put, and out only by a snapshot without it or a delete. A value that
 * cannot be read, written over one that could, leaves the last good one in place: unknown is not absent.
 *
 * A store that lost its data does not say that anybody left. What is missing from another or an older store, or from a
 * list in which nothing stands as it stood, the empty one included, stays in use as an orphan: until its owner claims
 * this or another subnet, somebody deletes it, or its last possible term is over. Nor does a term that ran out: after an
 * outage longer than that, etcd drops the leases of all nodes at once. Such a lease is an orphan for a time of grace.
 *
 * Two leases can overlap only if their lengths differ. Then the one of the configured SubnetLen counts, else the
 * longer one, which is also the one the kernel's routing would prefer. That depends on keys and config alone, so that
 * all nodes agree, after restarts too; indexes would not do, as every renewal by flannel changes both of them.
 */
export class LeaseTable {
  readonly #subnetLen: number
  readonly #clock: Clock
  readonly #log: Logger
  #rules: LeaseRules
  /** What passed every check: nearly all that is known, so that a lease has one place and not one for each question. */
  #inUse = new Map<number, Lease>()
  /**
   * What is known otherwise than it is in use: the own lease, those refused, and what events told that is not judged yet;
   * undefined is gone.
   */
  #aside = new Map<number, Lease | undefined>()
  readonly #unreadable = new Map<string, string>()
  /** Known leases by prefix length: overlaps need two lengths. */
  readonly #lengths = new Uint32Array(32)
  /** Reasons why known leases are not in use, by key. */
  #refused = new Map<string, string>()
  /** When the known leases were read, with the last list or apart from it. No term ends later than its `ttl` after that. */
  #listedAt: Moment
  #readAt = new Map<number, Moment>()
  /** When those of the known leases end that the store does not hold any more, in monotonic milliseconds. */
  readonly #orphans = new Map<number, number>()
  #reported = new Map<string, string>()

  constructor({ rules, subnetLen, clock, log }: LeaseTableOptions) {
    this.#rules = rules
    this.#subnetLen = subnetLen
    this.#clock = clock
    this.#log = log
    this.#listedAt = this.#moment()
  }

  /** Leases of other nodes that passed every check, in no particular order. */
  leases(): Iterable<Lease> {
    return this.#inUse.values()
  }

  get size(): number {
    return this.#inUse.size
  }

  /** What is not in use, and why. */
  *bad(): Iterable<BadLease> {
    for (const [key, reason] of this.#unreadable) yield { key, reason }
    for (const [key, reason] of this.#refused) yield { key, reason }
  }

  get badCount(): number {
    return this.#unreadable.size + this.#refused.size
  }

  /** Leases in use though the store does not hold them any more. */
  get orphanCount(): number {
    return this.#orphans.size
  }

  /**
   * Takes a complete list, of a store that is known to be another or an older one than before when `replaced`; returns
   * what changed among the leases in use.
   */
  replace(leases: readonly Lease[], bad: readonly BadLease[], replaced = false): LeaseChanges {
    const now = this.#moment()
    this.#unreadable.clear()
    for (const { key, reason } of bad) this.#unreadable.set(key, reason)
    const known = new Map<number, Lease>()
    for (const lease of leases) known.set(subnetKey(lease.subnet), lease)
    const readAt = new Map<number, Moment>()
    const keep = ({ lease, at }: Missing): void => {
      const key = subnetKey(lease.subnet)
      known.set(key, lease)
      readAt.set(key, at)
    }
    const missing: Missing[] = []
    let familiar = false
    for (const [key, lease] of this.#allKnown()) {
      const at = this.#readAt.get(key) ?? this.#listedAt
      const listed = known.get(key)
      if (listed !== undefined) {
        familiar ||= listed.modifiedIndex === lease.modifiedIndex
        this.#orphans.delete(key)
      } else if (this.#unreadable.has(leaseKey(lease.subnet))) keep({ lease, at })
      else missing.push({ lease, at })
    }
    const lost = replaced || !familiar
    for (const orphan of this.#adoptOrphans({ missing, known, lost, now })) keep(orphan)
    this.#listedAt = now
    this.#readAt = readAt
    return this.#judgeAll(known)
  }

  /** Drops the orphans whose time is over now; returns as `replace` does. */
  dropOrphans(): LeaseChanges {
    const now = this.#clock.now()
    return this.#judgeAfter(() => {
      const over: Subnet[] = []
      for (const [key, end] of this.#orphans) {
        const lease = end <= now ? this.#known(key) : undefined
        if (lease === undefined) continue
        this.#drop(lease.subnet)
        over.push(lease.subnet)
      }
      return over
    })
  }

  /** Takes changes in order; returns as `replace` does. */
  update(events: readonly LeaseEvent[]): LeaseChanges {
    const now = this.#moment()
    return this.#judgeAfter(() => {
      const touched = events.map((event) => this.#take(event, now))
      for (const event of events) if (event.kind === 'put') touched.push(...this.#retireOrphans(event.lease))
      return touched
    })
  }

  /** Takes other rules (a new own subnet or underlay address) and looks at every lease again. */
  setRules(rules: LeaseRules): LeaseChanges {
    this.#rules = rules
    return this.#judgeAll(new Map(this.#allKnown()))
  }

  #known(key: number): Lease | undefined {
    return this.#aside.has(key) ? this.#aside.get(key) : this.#inUse.get(key)
  }

  *#allKnown(): Generator<[number, Lease]> {
    for (const entry of this.#inUse) if (!this.#aside.has(entry[0])) yield entry
    for (const [key, lease] of this.#aside) if (lease !== undefined) yield [key, lease]
  }

  /**
   * Those of the missing leases that are to be kept: lost with the store, or expired, and their node has no other one by
   * now.
   */
  #adoptOrphans({ missing, known, lost, now }: Loss): Missing[] {
    const holders = new Set<Ipv4>()
    if (missing.length > 0) for (const { attributes } of known.values()) holders.add(attributes.publicIP)
    const kept: Missing[] = []
    let adopted = 0
    for (const orphan of missing) {
      const { lease, at } = orphan
      const { subnet, attributes } = lease
      const key = subnetKey(subnet)
      if (!lost && !this.#orphans.has(key) && !isOver(lease, at, now)) continue
      if (sameSubnet(subnet, this.#rules.own) || holders.has(attributes.publicIP)) {
        this.#orphans.delete(key)
        continue
      }
      kept.push(orphan)
      if (this.#orphans.has(key)) continue
      this.#orphans.set(key, now.now + (lost ? LEASE_TTL_SECONDS * 1000 : GRACE_MS))
      adopted++
    }
    if (adopted > 0 && lost) {
      this.#log.warn(
        `etcd has lost ${adopted} subnet leases that were not deleted; keeping the routes to their nodes until these ` +
          `claim a subnet again, for ${LEASE_TTL_SECONDS / 3600} h at most`,
      )
    } else if (adopted > 0) this.#tellExpired(`${adopted} subnet leases have`)
    return kept
  }

  /** Keeps a lease whose term has run out, unless it is our own. */
  #expire(subnet: Subnet, now: Moment): void {
    const key = subnetKey(subnet)
    if (this.#known(key) === undefined || sameSubnet(subnet, this.#rules.own)) {
      this.#drop(subnet)
      return
    }
    // After an outage there may be thousands of them, an event each; the status counts them.
    if (this.#orphans.size === 0) this.#tellExpired(`The subnet lease ${leaseKey(subnet)} has`)
    this.#orphans.set(key, now.now + GRACE_MS)
  }

  #tellExpired(what: string): void {
    this.#log.info(
      `${what} expired; keeping the routes of leases that expire for ${GRACE_MS / 1000} s, in case their nodes live and ` +
        'claim them again',
    )
  }

  /** Remembers an event; returns the subnet to look at again. */
  #take(event: LeaseEvent, now: Moment): Subnet | undefined {
    switch (event.kind) {
      case 'put':
        this.#keep(event.lease, now)
        this.#orphans.delete(subnetKey(event.lease.subnet))
        this.#unreadable.delete(leaseKey(event.lease.subnet))
        return event.lease.subnet
      case 'delete':
        if (event.expired) this.#expire(event.subnet, now)
        else this.#drop(event.subnet)
        this.#mend(leaseKey(event.subnet))
        return event.subnet
      case 'bad':
        this.#unreadable.set(event.bad.key, event.bad.reason)
        return undefined
      case 'mended':
        this.#mend(event.key)
        return undefined
      default:
        throw new Error(`unknown lease event ${JSON.stringify(event satisfies never)}`)
    }
  }

  /** The key is gone, and all below it if it was a folder. */
  #mend(key: string): void {
    this.#unreadable.delete(key)
    for (const other of this.#unreadable.keys())
      if (other.startsWith(`${key}/`)) this.#unreadable.delete(other)
  }

  /** Drops the orphans of a node that has claimed another subnet. */
  #retireOrphans({ subnet, attributes }: Lease): Subnet[] {
    const retired: Subnet[] = []
    for (const key of this.#orphans.keys()) {
      const orphan = this.#known(key)
      if (orphan === undefined || orphan.attributes.publicIP !== attributes.publicIP) continue
      if (sameSubnet(orphan.subnet, subnet)) continue
      this.#drop(orphan.subnet)
      retired.push(orphan.subnet)
    }
    return retired
  }

  #keep(lease: Lease, readAt: Moment): void {
    const key = subnetKey(lease.subnet)
    if (this.#known(key) === undefined) this.#count(lease.subnet.length, 1)
    this.#aside.set(key, lease)
    this.#readAt.set(key, readAt)
  }

  #drop(subnet: Subnet): void {
    const key = subnetKey(subnet)
    this.#orphans.delete(key)
    this.#readAt.delete(key)
    if (this.#known(key) === undefined) return
    this.#aside.set(key, undefined)
    this.#count(subnet.length, -1)
  }

  #moment(): Moment {
    return { now: this.#clock.now(), wall: this.#clock.wall() }
  }

  #count(length: number, by: 1 | -1): void {
    this.#lengths[length] = (this.#lengths[length] ?? 0) + by
  }

  #mixed(): boolean {
    return this.#lengths.filter((count) => count > 0).length > 1
  }

  /** Judges what `change` says that it has touched, and all if what one lease does may concern others. */
  #judgeAfter(change: () => readonly (Subnet | undefined)[]): LeaseChanges {
    const mixed = this.#mixed()
    const touched = change()
    const changes = { put: [], removed: [] }
    if (touched.length === 0) return changes
    if (mixed || this.#mixed()) return this.#judgeAll(new Map(this.#allKnown()))
    for (const subnet of touched) if (subnet !== undefined) this.#judge(subnet, changes)
    this.#report()
    return changes
  }

  /** One lease, while all are of one length and so cannot overlap. */
  #judge(subnet: Subnet, changes: { put: Lease[]; removed: Subnet[] }): void {
    const key = subnetKey(subnet)
    const before = this.#inUse.get(key)
    const lease = this.#known(key)
    const own = sameSubnet(subnet, this.#rules.own)
    const objection = lease === undefined || own ? undefined : leaseObjection(lease, this.#rules)
    this.#aside.delete(key)
    this.#refused.delete(leaseKey(subnet))
    if (objection !== undefined) this.#refused.set(leaseKey(subnet), objection)
    if (lease !== undefined && !own && objection === undefined) {
      this.#inUse.set(key, lease)
      if (before === undefined || !same(before, lease)) changes.put.push(lease)
      return
    }
    if (lease !== undefined) this.#aside.set(key, lease)
    if (this.#inUse.delete(key)) changes.removed.push(subnet)
  }

  /** Takes these for all that is known; the map is then what is in use. */
  #judgeAll(known: Map<number, Lease>): LeaseChanges {
    const before = this.#inUse
    const aside = new Map<number, Lease>()
    const refused = new Map<string, string>()
    const own = subnetKey(this.#rules.own)
    const putAside = (key: number, lease: Lease, objection: string | undefined): void => {
      if (objection !== undefined) refused.set(leaseKey(lease.subnet), objection)
      aside.set(key, lease)
      known.delete(key)
    }
    this.#lengths.fill(0)
    for (const [key, lease] of known) {
      this.#count(lease.subnet.length, 1)
      const objection = key === own ? undefined : leaseObjection(lease, this.#rules)
      if (key === own || objection !== undefined) putAside(key, lease, objection)
    }
    if (this.#mixed()) {
      const overlap = overlapOf([...known.values()], this.#subnetLen)
      for (const [key, lease] of known) {
        const objection = overlap(lease.subnet)
        if (objection !== undefined) putAside(key, lease, objection)
      }
    }
    this.#inUse = known
    this.#aside = aside
    this.#refused = refused
    this.#report()
    return changesBetween(before, known)
  }

  /** One line for a bad lease, however often it is seen, until it is mended. */
  #report(): void {
    if (this.badCount === 0 && this.#reported.size === 0) return
    const reported = new Map<string, string>()
    for (const { key, reason } of this.bad()) {
      if (this.#reported.get(key) !== reason)
        this.#log.warn(`Ignoring bad subnet node: ${shown(key)}: ${reason}`)
      reported.set(key, reason)
    }
    this.#reported = reported
  }
}

/** A lease that a complete list lacks, and when it was read. */
interface Missing {
  readonly lease: Lease
  readonly at: Moment
}

interface Loss {
  readonly missing: readonly Missing[]
  /** What is known besides. */
  readonly known: ReadonlyMap<number, Lease>
  /** Whether the store lost them, and not only their time was over. */
  readonly lost: boolean
  readonly now: Moment
}

/** Whether the term of a lease, as it was read at `at`, has run out by one of the clocks. */
function isOver({ ttl }: Lease, at: Moment, now: Moment): boolean {
  return ttl !== undefined && Math.max(now.now - at.now, now.wall - at.wall) >= ttl * 1000
}

/** Keys may be as long as a request. */
function shown(key: string): string {
  return key.length > 100 ? `${key.slice(0, 100)}...` : key
}

/** Finds why a lease has to stand back behind one that it overlaps. */
function overlapOf(leases: readonly Lease[], subnetLen: number): (subnet: Subnet) => string | undefined {
  const byLength = new Map<number, Set<Ipv4>>()
  for (const { subnet } of leases) {
    const set = byLength.get(subnet.length)
    if (set === undefined) byLength.set(subnet.length, new Set([subnet.address]))
    else set.add(subnet.address)
  }
  // For each length, the ranges of that length which hold a longer lease, and the first of these: etcd lists in any order.
  const within = new Map<number, Map<Ipv4, Subnet>>()
  for (const length of byLength.keys()) within.set(length, new Map())
  for (const { subnet } of leases) {
    for (const [length, holders] of within) {
      if (length < subnet.length) {
        const { address } = subnetOf(subnet.address, length)
        const held = holders.get(address)
        if (held === undefined || isBefore(subnet, held)) holders.set(address, subnet)
      }
    }
  }
  return (subnet) => {
    const inner = within.get(subnet.length)?.get(subnet.address)
    if (inner !== undefined && subnet.length !== subnetLen) return `overlaps the lease ${leaseKey(inner)}`
    if (subnet.length > subnetLen) {
      const { address } = subnetOf(subnet.address, subnetLen)
      if (byLength.get(subnetLen)?.has(address) === true) {
        return `overlaps the lease ${leaseKey({ address, length: subnetLen })}`
      }
    }
    return undefined
  }
}

function isBefore(a: Subnet, b: Subnet): boolean {
  return a.address === b.address ? a.length < b.length : a.address < b.address
}

function changesBetween(before: ReadonlyMap<number, Lease>, after: ReadonlyMap<number, Lease>): LeaseChanges {
  const put: Lease[] = []
  for (const [key, lease] of after) {
    const other = before.get(key)
    if (other === undefined || !same(other, lease)) put.push(lease)
  }
  const removed: Subnet[] = []
  for (const [key, { subnet }] of before) if (!after.has(key)) removed.push(subnet)
  return { put, removed }
}

function same(a: Lease, b: Lease): boolean {
  return a.modifiedIndex === b.modifiedIndex && sameAttributes(a.attributes, b.attributes)
}

/** Whether two leases say the same; a renewal changes nothing here. */
export function sameAttributes(a: LeaseAttributes, b: LeaseAttributes): boolean {
  return (
    a === b ||
    (a.publicIP === b.publicIP && a.backendType === b.backendType && sameJson(a.backendData, b.backendData))
  )
}
