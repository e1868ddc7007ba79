/**
 * Keeping the lease: renewal in time, and what to do when the key is not as we left it.
 *
 * The keeper hears of its own key from the one watch over all leases (`observe`) and never trusts that alone: whatever
 * looks strange makes it read the key and decide by what stands there. All its writes are compare-and-swap (or
 * create-if-absent), so that a lease which meanwhile went to another node is never overwritten.
 *
 *   absent                       claim it again; if another node was faster, the lease is lost
 *   another public IP            lost: LeaseLostError
 *   ours, as written             a renewal whose answer we missed, or a changed TTL: adopt it
 *   ours, but other data,        somebody with our public IP wrote it: put it right once, and if it happens again
 *   or unreadable, or with       within 10 minutes, say so loudly and leave it be until the next renewal; but if we
 *   a full term, or again with   have only just taken this lease over, it belongs to a node that lives: lost
 *   none, not of our making
 *
 * Two nodes with one public IP would otherwise share a lease in silence, since the second finds "its" lease at its start
 * and takes it over. The first one sees that, writes again, and thereby tells the second.
 */
import type { Clock } from '../clock.ts'
import { formatIpv4, formatSubnet, overlaps, type Subnet, sameSubnet } from '../ip.ts'
import type { Logger } from '../log.ts'
import { EcodeKeyNotFound, EcodeNodeExist, EcodeTestFailed, isEtcdCode } from './etcd/error.ts'
import type { Lease, LeaseAttributes, LeaseWatchResult } from './lease.ts'
import { leaseKey } from './leasecodec.ts'
import { Outage, reasonOf } from './outage.ts'
import { LEASE_TTL_SECONDS, type LeaseRecord, type Registry } from './registry.ts'
import { sameAttributes } from './table.ts'

export interface LeaseKeeperOptions {
  readonly registry: Registry
  readonly lease: Lease
  /** The lease was found under our public IP, and nothing else tells that it was ours before. */
  readonly takenOver?: boolean
  /** All that may be leased: a lease of the whole of it, or more, is nobody's. */
  readonly network: Subnet
  /** Minutes before expiry at which the lease is renewed, 1..1439. */
  readonly marginMinutes: number
  readonly clock: Clock
  readonly log: Logger
}

/** The subnet belongs to another node now; the daemon has to start over. One line that names the other node. */
export class LeaseLostError extends Error {
  override readonly name = 'LeaseLostError'
  readonly subnet: Subnet

  constructor(subnet: Subnet, holder: string, remedy = 'the next start takes another one') {
    // flannel's words first: scripts look for them
    super(
      `Lease has been revoked. Shutting down daemon. Its subnet was ${formatSubnet(subnet)}, and ${holder}; ${remedy}`,
    )
    this.subnet = subnet
  }
}

/** Failed renewals are tried again after this, twice that, and so on. */
const FIRST_RETRY_MS = 1_000
const LONGEST_RETRY_MS = 30_000
/** A second foreign write within this time is not answered any more. */
const QUARREL_MS = 10 * 60_000
/** For so long after a take-over the other node may be heard of: it need only see our write. */
const TAKE_OVER_MS = 60_000
/** A full term, as it is read soon after it was written, in seconds. */
const FRESH_TTL = LEASE_TTL_SECONDS - 60
/** Milliseconds between two looks at the clocks. */
const LOOK_MS = 30_000
/** By so much the wall clock must have moved against the monotonic one. */
const JUMP_MS = 10_000

export class LeaseKeeper {
  readonly #options: LeaseKeeperOptions
  readonly #outage: Outage
  #lease: Lease
  /** Monotonic time at which `#lease.ttl` was true. */
  #readAt: number
  /** What the lease should say. */
  #attributes: LeaseAttributes
  #suspicious = false
  /** Whether etcd was seen to have no lease of this node. */
  #absent = false
  #lastForeign = Number.NEGATIVE_INFINITY
  #quarrelling = false
  /** Writes of ours that had no answer, each of which may have been carried out. */
  #unanswered: readonly LeaseAttributes[] = []
  readonly #startedAt: number
  /** Wall clock minus monotonic clock, which only a suspended machine and people change. */
  #skew: number
  #retryAt = Number.NEGATIVE_INFINITY
  #triedAt = Number.NEGATIVE_INFINITY
  #wake = new AbortController()
  renewals = 0

  constructor(options: LeaseKeeperOptions) {
    this.#options = options
    this.#lease = options.lease
    this.#readAt = options.clock.now()
    this.#attributes = options.lease.attributes
    this.#startedAt = this.#readAt
    this.#skew = options.clock.wall() - this.#readAt
    this.#outage = new Outage(options.log, options.clock)
  }

  /** The lease as last seen in etcd. */
  get lease(): Lease {
    return this.#lease
  }

  /** What the lease is meant to say, whoever wrote over it. */
  get attributes(): LeaseAttributes {
    return this.#attributes
  }

  /** Seconds until etcd drops the lease if nothing is done; Infinity for a reservation, negative when overdue, 0 when it is gone. */
  get secondsLeft(): number {
    const { ttl } = this.#lease
    if (this.#absent) return 0
    if (ttl === undefined) return Number.POSITIVE_INFINITY
    return ttl - (this.#options.clock.now() - this.#readAt) / 1000
  }

  /** Renews until the signal fires, then resolves. Rejects with a LeaseLostError when another node has the subnet. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, log } = this.#options
    let announced: number | undefined
    while (!signal.aborted) {
      this.#lookAtClocks()
      const wait = this.#wait()
      if (wait > 0) {
        if (this.#outage.failures === 0 && announced !== this.#lease.modifiedIndex) {
          announced = this.#lease.modifiedIndex
          log.info(
            wait === Number.POSITIVE_INFINITY
              ? `Lease (${formatSubnet(this.#lease.subnet)}) is a reservation and is not renewed`
              : `Waiting for ${goDuration(wait)} to renew lease`,
          )
        }
        this.#wake = new AbortController()
        await clock.sleep(Math.min(wait, LOOK_MS), AbortSignal.any([signal, this.#wake.signal]))
        continue
      }
      this.#triedAt = clock.now()
      try {
        await this.#act(signal)
        this.#outage.recover('Renewed the lease')
        this.#retryAt = Number.NEGATIVE_INFINITY
      } catch (error) {
        if (error instanceof LeaseLostError) throw error
        if (signal.aborted) return
        const pause = Math.min(LONGEST_RETRY_MS, FIRST_RETRY_MS * 2 ** Math.min(10, this.#outage.failures))
        this.#outage.fail(
          `Error renewing lease (trying again in at most ${LONGEST_RETRY_MS / 1000} s): ${reasonOf(error)}`,
        )
        this.#retryAt = clock.now() + pause
      }
    }
  }

  /** Hears from the watch; only remembers, the work is done by `run`. */
  observe(result: LeaseWatchResult): void {
    const { subnet } = this.#lease
    if (result.kind === 'snapshot') {
      const lease = result.leases.find((other) => sameSubnet(other.subnet, subnet))
      if (lease === undefined || this.#isOfAnotherStore(lease)) this.#suspect()
      else this.#see(lease)
    } else {
      for (const event of result.events) {
        if (event.kind === 'put' && sameSubnet(event.lease.subnet, subnet)) this.#see(event.lease)
        else if (event.kind === 'delete' && sameSubnet(event.subnet, subnet)) this.#suspect()
        else if (event.kind === 'bad' && event.bad.key === leaseKey(subnet)) this.#suspect()
      }
    }
    // News from etcd: it is there, so a renewal that waits for it need not wait longer.
    if (this.#retryAt <= this.#triedAt + FIRST_RETRY_MS) return
    this.#retryAt = this.#triedAt + FIRST_RETRY_MS
    this.#wake.abort()
  }

  /** Has the lease say something else from now on, for instance a new public address. */
  updateAttributes(attributes: LeaseAttributes): void {
    this.#attributes = attributes
    this.#quarrelling = false
    this.#hurry()
  }

  /** A store that was lost and filled again counts from the beginning, and may come to the same index. */
  #isOfAnotherStore(lease: Lease): boolean {
    const known = this.#lease
    if (lease.modifiedIndex !== known.modifiedIndex) return lease.modifiedIndex < known.modifiedIndex
    return !sameAttributes(lease.attributes, known.attributes)
  }

  #see(lease: Lease): void {
    // An event's TTL is that of its time, which after a broken connection may be hours ago; what is not newer than
    // our own last write was answered by that.
    if (lease.modifiedIndex > this.#lease.modifiedIndex) this.#suspect()
  }

  /** The monotonic clock stands still while a machine is suspended, and etcd's does not: then only etcd knows the term. */
  #lookAtClocks(): void {
    const { clock, log } = this.#options
    const skew = clock.wall() - clock.now()
    const jump = skew - this.#skew
    this.#skew = skew
    if (Math.abs(jump) < JUMP_MS || this.#lease.ttl === undefined) return
    log.info(
      `The clock jumped by ${Math.round(jump / 1000)} s (this machine was suspended, or its clock was set): reading the lease again`,
    )
    this.#suspicious = true
  }

  #adopt(lease: Lease): void {
    this.#unanswered = []
    this.#absent = false
    this.#lease = lease
    this.#readAt = this.#options.clock.now()
    this.#wake.abort()
  }

  #suspect(): void {
    this.#suspicious = true
    this.#hurry()
  }

  #hurry(): void {
    this.#retryAt = Number.NEGATIVE_INFINITY
    this.#wake.abort()
  }

  /** Milliseconds until something has to be done, 0 or less for now. */
  #wait(): number {
    const untilRetry = this.#retryAt - this.#options.clock.now()
    if (untilRetry > 0) return untilRetry
    if (this.#suspicious || this.#outdated()) return 0
    return this.secondsLeft * 1000 - this.#options.marginMinutes * 60_000
  }

  #outdated(): boolean {
    return !this.#quarrelling && !sameAttributes(this.#lease.attributes, this.#attributes)
  }

  async #act(signal: AbortSignal): Promise<void> {
    if (this.#suspicious) {
      this.#suspicious = false
      await this.#inspect(signal).catch((error: unknown) => {
        this.#suspicious = true
        throw error
      })
      return
    }
    await this.#write(this.#lease, signal)
  }

  /** Writes our attributes and a full TTL over what stands there; a reservation stays one, whoever made it. */
  async #write({ subnet, ttl, modifiedIndex: prevIndex }: Lease, signal: AbortSignal): Promise<void> {
    const { registry, clock, log } = this.#options
    const attributes = this.#attributes
    const renewed = ttl === undefined ? undefined : LEASE_TTL_SECONDS
    try {
      const lease = await registry.updateLease({ subnet, attributes, prevIndex, ttl: renewed }, signal)
      this.#adopt(lease)
      this.#quarrelling = false
      this.renewals++
      const until = new Date(clock.wall() + (lease.ttl ?? 0) * 1000).toISOString()
      log.info(`Lease renewed, new expiration: ${lease.ttl === undefined ? 'never' : until}`)
    } catch (error) {
      this.#noteUnanswered(attributes)
      if (!isEtcdCode(error, EcodeTestFailed) && !isEtcdCode(error, EcodeKeyNotFound)) throw error
      this.#suspicious = true
    }
  }

  /** Reads the key and decides. */
  async #inspect(signal: AbortSignal): Promise<void> {
    const { subnet } = this.#lease
    const record = await this.#options.registry.readLease(subnet, signal)
    switch (record.kind) {
      case 'absent':
        this.#absent = true
        return await this.#claimAgain(signal)
      case 'bad':
        return await this.#putRight(record, `its value cannot be read: ${record.bad.reason}`, signal)
      case 'lease': {
        const { attributes } = record.lease
        if (sameAttributes(attributes, this.#attributes)) {
          if (!this.#isTakenOver(record.lease)) return this.#adopt(record.lease)
          const twin = `a node with the same public IP ${formatIpv4(attributes.publicIP)} has taken it over`
          return await this.#meetTwin(record, twin, signal)
        }
        // Our own earlier word, from before `updateAttributes`, is no foreign write.
        const ours = [this.#lease.attributes, ...this.#unanswered]
        if (ours.some((own) => sameAttributes(attributes, own))) return this.#adopt(record.lease)
        if (
          attributes.publicIP !== this.#attributes.publicIP &&
          attributes.publicIP !== this.#lease.attributes.publicIP
        ) {
          throw new LeaseLostError(subnet, `${formatIpv4(attributes.publicIP)} holds it now`)
        }
        const [there, here] = [attributes, this.#attributes].map(describeData)
        return await this.#meetTwin(
          record,
          `a node with the same public IP ${formatIpv4(attributes.publicIP)} wrote ${there}, this node has ${here}`,
          signal,
        )
      }
      default:
        throw new Error(`unknown lease record ${JSON.stringify(record satisfies never)}`)
    }
  }

  /** Whether another daemon, which thinks that this is its lease, has begun a new term, or wrote a reservation again. */
  #isTakenOver({ modifiedIndex, ttl }: Lease): boolean {
    const begun = ttl === undefined ? this.#lease.ttl === undefined : ttl >= FRESH_TTL
    return begun && modifiedIndex > this.#lease.modifiedIndex && this.#unanswered.length === 0
  }

  /** Refused or not: an endpoint that gave no answer may have carried it out before another one was asked. */
  #noteUnanswered(attributes: LeaseAttributes): void {
    if (this.#unanswered.some((other) => sameAttributes(attributes, other))) return
    this.#unanswered = [...this.#unanswered, attributes]
  }

  async #claimAgain(signal: AbortSignal): Promise<void> {
    const { registry, log, network } = this.#options
    const { subnet } = this.#lease
    const { leases } = await registry.listLeases(signal)
    const rival = leases.find(
      (other) => other.subnet.length > network.length && overlaps(other.subnet, subnet),
    )
    if (rival !== undefined && !sameSubnet(rival.subnet, subnet)) {
      const { publicIP } = rival.attributes
      throw new LeaseLostError(subnet, `${formatIpv4(publicIP)} holds ${formatSubnet(rival.subnet)} now`)
    }
    const attributes = this.#attributes
    try {
      const lease = await registry.createLease(subnet, attributes, signal)
      log.warn(`Lease (${formatSubnet(subnet)}) was deleted or had expired; claimed it again`)
      this.#adopt(lease)
    } catch (error) {
      this.#noteUnanswered(attributes)
      if (!isEtcdCode(error, EcodeNodeExist)) throw error
      this.#suspicious = true
    }
  }

  /** Another node that has our public IP wrote the lease. The one that came last gives way. */
  async #meetTwin(record: TakenLease, what: string, signal: AbortSignal): Promise<void> {
    const { clock, takenOver = false } = this.#options
    if (takenOver && clock.now() - this.#startedAt < TAKE_OVER_MS) {
      const ip = formatIpv4(this.#attributes.publicIP)
      throw new LeaseLostError(
        this.#lease.subnet,
        `a running node holds it that has the public IP ${ip} too`,
        'give every node its own -public-ip',
      )
    }
    await this.#putRight(record, what, signal)
  }

  async #putRight(record: TakenLease, what: string, signal: AbortSignal): Promise<void> {
    const { clock, log } = this.#options
    const { subnet } = this.#lease
    const there =
      record.kind === 'lease' ? record.lease : { ...this.#lease, modifiedIndex: record.modifiedIndex }
    const again = clock.now() - this.#lastForeign < QUARREL_MS
    this.#lastForeign = clock.now()
    if (!again) {
      log.warn(`Lease (${formatSubnet(subnet)}) was overwritten, putting it right: ${what}`)
      return await this.#write(there, signal)
    }
    if (!this.#quarrelling) {
      log.error(
        `Lease (${formatSubnet(subnet)}) was overwritten again, leaving it as it is until the next renewal: ${what}. ` +
          'Give every node its own -public-ip',
      )
    }
    this.#quarrelling = true
    this.#adopt(there)
  }
}

type TakenLease = Exclude<LeaseRecord, { kind: 'absent' }>

function describeData({ backendType, backendData }: LeaseAttributes): string {
  return `${backendType || 'no backend type'} ${JSON.stringify(backendData ?? null).slice(0, 200)}`
}

/** A duration as Go prints it, to the millisecond: `22h59m59.998s`. */
export function goDuration(ms: number): string {
  const seconds = Math.round(ms) / 1000
  if (seconds < 1) return `${Math.round(ms)}ms`
  const h = Math.floor(seconds / 3600)
  const m = Math.floor(seconds / 60) % 60
  const s = Number((seconds % 60).toFixed(3))
  return `${h > 0 ? `${h}h` : ''}${h > 0 || m > 0 ? `${m}m` : ''}${s}s`
}
