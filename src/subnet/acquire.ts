import type { Clock } from '../clock.ts'
import {
  formatIpv4,
  formatSubnet,
  type Ipv4,
  type MacAddress,
  overlaps,
  type Subnet,
  sameSubnet,
} from '../ip.ts'
import type { Logger } from '../log.ts'
import { chooseSubnet } from './allocate.ts'
import { type NetworkConfig, parseNetworkConfig } from './config.ts'
import { EcodeKeyNotFound, EcodeNodeExist, EcodeTestFailed, isEtcdCode } from './etcd/error.ts'
import { Handover } from './handover.ts'
import type { Lease, LeaseAttributes } from './lease.ts'
import { claimedSubnet, leaseKey } from './leasecodec.ts'
import { Outage, reasonOf } from './outage.ts'
import { type ConfigText, LEASE_TTL_SECONDS, type LeaseList, type Registry } from './registry.ts'
import { sameAttributes } from './table.ts'
import { type InterfaceAddress, underlayObjection } from './validate.ts'

export interface AcquireOptions {
  readonly registry: Registry
  readonly config: NetworkConfig
  readonly publicIP: Ipv4
  /** What the lease is to say; `own` is the lease that is written over, from which data such as a MAC can be kept. */
  readonly attributes: (own: Lease | undefined) => LeaseAttributes
  /** What an earlier run of this node had, from the subnet file. */
  readonly previousSubnet: Subnet | undefined
  readonly underlay: readonly InterfaceAddress[]
  /** Looks for another machine that has our public IP; resolves to its MAC address, or undefined. */
  readonly findRival: () => Promise<MacAddress | undefined>
  readonly signal: AbortSignal
  readonly clock: Clock
  readonly log: Logger
  /** A list that was asked for a moment ago; it saves the first attempt the wait for one. */
  readonly list?: Handover<Promise<LeaseList>> | undefined
}

export interface AcquiredLease {
  readonly lease: Lease
  /** The list the choice was made from: what a watch may go on from. */
  readonly list: Handover<LeaseList>
  /** Backend type of the lease that was written over; undefined when there was none. */
  readonly before: string | undefined
  /** It was there under this node's public IP, and neither the subnet file nor the device tells that it was ours. */
  readonly takenOver: boolean
}

const WRITE_CONFIG =
  'write it to that key, for example {"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}; waiting for it'
const CONFIG_RETRY_MS = 1_000
const CONFLICT_PAUSE_MS = 20
const FIRST_PAUSE_MS = 100
const LONGEST_PAUSE_MS = 1_000
const FULL_PAUSE_MS = 10_000

export interface FoundConfig {
  readonly config: NetworkConfig
  /** What it was read from. */
  readonly source: ConfigText
  /** The leases, asked for together with it, if it was there at the first look. */
  readonly list: Handover<Promise<LeaseList>> | undefined
}

/**
 * Reads the network config, asking once a second until there is a valid one. The leases are asked for with the first question: each
 * read waits for the cluster's word, and thousands of leases are long in making. Rejects only when aborted.
 */
export async function waitForConfig(
  options: Pick<AcquireOptions, 'registry' | 'signal' | 'clock' | 'log'>,
): Promise<FoundConfig> {
  const { registry, signal, clock, log } = options
  const outage = new Outage(log, clock)
  let list = askForLeases(registry, signal)
  for (;;) {
    try {
      const source = await registry.getConfig(signal)
      const config = parseNetworkConfig(source.text)
      outage.recover('Fetched the network config')
      log.info(`Found network config - Backend type: ${config.backendType}`)
      return { config, source, list }
    } catch (error) {
      signal.throwIfAborted()
      list = undefined
      const remedy = isEtcdCode(error, EcodeKeyNotFound) ? `; ${WRITE_CONFIG}` : ''
      outage.fail(`Couldn't fetch network config: ${reasonOf(error)}${remedy}`)
      await clock.sleep(CONFIG_RETRY_MS, signal)
      signal.throwIfAborted()
    }
  }
}

function askForLeases(registry: Registry, signal: AbortSignal): FoundConfig['list'] {
  const list = registry.listLeases(signal)
  // Whoever takes it is told. If nobody does, no harm is done.
  list.catch(() => undefined)
  return new Handover(list)
}

/**
 * Gets a lease for this node: the one that its public IP has already, or that it had under another, else the previous subnet if
 * that is free, else a free subnet. It goes on trying while etcd fails or no subnet is free, logging the reason once and then
 * counting, and rejects only when aborted, or with an AddressTakenError. Only leases of this node's public IP, or that say what its
 * own device says, are ever written over or deleted.
 */
export async function acquireLease(options: AcquireOptions): Promise<AcquiredLease> {
  const { registry, signal, clock, log } = options
  const outage = new Outage(log, clock)
  const attempts = new Attempt(options)
  let { list } = options
  for (;;) {
    let pause: number
    try {
      const asked = list
      list = undefined
      const current = await (asked?.take() ?? registry.listLeases(signal))
      const lease = await attempts.run(current)
      if (lease !== undefined) {
        outage.recover('Acquired a lease')
        return { lease, list: new Handover(current), before: attempts.before, takenOver: attempts.takenOver }
      }
      pause = CONFLICT_PAUSE_MS * Math.min(50, ++attempts.conflicts)
    } catch (error) {
      signal.throwIfAborted()
      if (error instanceof AddressTakenError) throw error
      outage.fail(`Couldn't acquire a lease, trying again: ${reasonOf(error)}`)
      pause =
        error instanceof OutOfSubnets
          ? FULL_PAUSE_MS
          : Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * outage.failures)
    }
    // Half of the pause is a matter of chance: a fleet that starts at once should not meet again and again.
    await clock.sleep(pause * (0.5 + Math.random() / 2), signal)
    signal.throwIfAborted()
  }
}

/** Two machines have one public IP, and the lease of it is perhaps the other's. One line that names both. */
export class AddressTakenError extends Error {
  override readonly name = 'AddressTakenError'

  constructor(publicIP: Ipv4, rival: MacAddress, subnet: Subnet) {
    super(
      `Public IP ${formatIpv4(publicIP)} is in use by another machine, ${rival}, and nothing tells that its lease ` +
        `${leaseKey(subnet)} is this node's: give every node its own address or -public-ip; if no flanneld runs on that ` +
        'machine, delete the key and start again',
    )
  }
}

/** No subnet is free; the message begins with flannel's words for it. */
class OutOfSubnets extends Error {
  override readonly name = 'OutOfSubnets'

  constructor({ network, subnetMin, subnetMax, subnetLen }: NetworkConfig) {
    super(
      `out of subnets: every /${subnetLen} from ${formatIpv4(subnetMin)} to ${formatIpv4(subnetMax)} is leased; ` +
        `delete stale leases or widen Network ${formatSubnet(network)} and restart`,
    )
  }
}

class Attempt {
  readonly #options: AcquireOptions
  readonly #publicIP: Ipv4
  readonly #said = new Set<string>()
  /** A lease that was asked for without an answer: if it is there, it is ours. */
  #unanswered: Pick<Lease, 'subnet' | 'attributes'> | undefined
  conflicts = 0
  before: string | undefined
  takenOver = false

  constructor(options: AcquireOptions) {
    this.#options = options
    this.#publicIP = options.publicIP
  }

  /** Undefined when somebody else was faster. */
  async run(list: LeaseList): Promise<Lease | undefined> {
    const own = list.leases.filter(
      (lease) => lease.attributes.publicIP === this.#publicIP || this.#hasMoved(lease),
    )
    const [first] = own
    if (first !== undefined && !own.some((lease) => this.#isKnown(lease))) {
      const rival = await this.#options.findRival()
      if (rival !== undefined) throw new AddressTakenError(this.#publicIP, rival, first.subnet)
    }
    const fit = own.filter(({ subnet }) => this.#fits(subnet)).sort((a, b) => this.#rank(a) - this.#rank(b))
    const [best] = fit
    if (best !== undefined) return await this.#reuse(best, fit.slice(1))
    for (const lease of own) {
      const { subnet, modifiedIndex } = lease
      this.#say(
        'info',
        `Found lease (${formatSubnet(subnet)}) for current IP (${formatIpv4(this.#publicIP)}) but not compatible ` +
          'with current config, deleting',
      )
      await this.#ifUnchanged(this.#options.registry.deleteLease(subnet, modifiedIndex, this.#options.signal))
    }
    const taken = claims(list, own, this.#options.config.network)
    const subnet = this.#previous(list, taken) ?? this.#pick(taken)
    this.before = undefined
    this.takenOver = false
    return await this.#create(subnet)
  }

  #reuse(lease: Lease, others: readonly Lease[]): Promise<Lease | undefined> {
    const { registry, signal } = this.#options
    const { subnet, ttl, modifiedIndex: prevIndex } = lease
    // Once it is written over, it says what this node says.
    this.before ??= lease.attributes.backendType
    this.takenOver ||= !this.#isKnown(lease)
    const attributes = this.#options.attributes(lease)
    const [earlier, ip] = [lease.attributes.publicIP, this.#publicIP].map(formatIpv4)
    const why =
      earlier === ip
        ? `for current IP (${ip}), reusing`
        : `matching previously leased subnet, reusing; its IP was ${earlier}, now ${ip}`
    this.#say('info', `Found lease (${formatSubnet(subnet)}) ${why}`)
    if (others.length > 0) {
      const rest = others.map((other) => formatSubnet(other.subnet)).join(', ')
      this.#say(
        'warn',
        `Other leases have this node's public IP ${ip} too: ${rest}; delete them if no other node uses them`,
      )
    }
    // A reservation stays one.
    const renewed = ttl === undefined ? undefined : LEASE_TTL_SECONDS
    return this.#ifUnchanged(registry.updateLease({ subnet, attributes, prevIndex, ttl: renewed }, signal))
  }

  /**
   * This node's own, under an address that it had before: the subnet file names it, and it says what this node's device says. Pods
   * have its addresses, and to leave it behind would leave a second lease with our MAC.
   */
  #hasMoved({ subnet, attributes }: Lease): boolean {
    return this.#isPrevious(subnet) && this.#isOfOurDevice(attributes)
  }

  #isKnown({ subnet, attributes }: Lease): boolean {
    if (this.#isPrevious(subnet)) return true
    const asked = this.#unanswered
    if (asked !== undefined && sameSubnet(subnet, asked.subnet)) {
      return sameAttributes(attributes, asked.attributes)
    }
    return this.#isOfOurDevice(attributes)
  }

  #isPrevious(subnet: Subnet): boolean {
    const { previousSubnet } = this.#options
    return previousSubnet !== undefined && sameSubnet(subnet, previousSubnet)
  }

  /** Only data of a device or a key are a node's own; without any, all leases look the same but for their public IP. */
  #isOfOurDevice(attributes: LeaseAttributes): boolean {
    const { backendData, publicIP } = attributes
    return (
      backendData !== undefined &&
      sameAttributes(attributes, { ...this.#options.attributes(undefined), publicIP })
    )
  }

  /** Of several leases that are ours, the one used last, then a reservation, then the lowest. */
  #rank({ subnet, ttl }: Lease): number {
    return (this.#isPrevious(subnet) ? 0 : ttl === undefined ? 1 : 2) * 2 ** 32 + subnet.address
  }

  #previous(list: LeaseList, taken: readonly Subnet[]): Subnet | undefined {
    const { previousSubnet: subnet } = this.#options
    if (subnet === undefined) return undefined
    const text = formatSubnet(subnet)
    if (!this.#fits(subnet)) {
      this.#say(
        'error',
        `Found previously leased subnet (${text}) that is not compatible with the Etcd network config, ignoring`,
      )
      return undefined
    }
    if (taken.some((other) => overlaps(other, subnet))) {
      const holder = list.leases.find((lease) => overlaps(lease.subnet, subnet))
      const who = holder === undefined ? '' : ` to ${formatIpv4(holder.attributes.publicIP)}`
      this.#say('warn', `Previously leased subnet (${text}) is leased${who} meanwhile, taking another`)
      return undefined
    }
    this.#say('info', `Found previously leased subnet (${text}), reusing`)
    return subnet
  }

  #pick(taken: readonly Subnet[]): Subnet {
    const { config } = this.#options
    this.#say(
      'info',
      `Picking subnet in range ${formatIpv4(config.subnetMin)} ... ${formatIpv4(config.subnetMax)}`,
    )
    const { network } = config
    const { underlay } = this.#options
    const usable = (subnet: Subnet): boolean => underlayObjection(subnet, { network, underlay }) === undefined
    const subnet = chooseSubnet({ config, taken, usable, publicIP: this.#publicIP })
    if (subnet === undefined) throw new OutOfSubnets(config)
    return subnet
  }

  async #create(subnet: Subnet): Promise<Lease | undefined> {
    const { registry, signal, log } = this.#options
    const attributes = this.#options.attributes(undefined)
    const created = registry.createLease(subnet, attributes, signal).catch((error: unknown) => {
      const foreign = isEtcdCode(error, EcodeNodeExist) && !error.resent
      this.#unanswered = foreign ? undefined : { subnet, attributes }
      throw error
    })
    const lease = await this.#ifUnchanged(created)
    if (lease === undefined) return undefined
    // The space at the end is flannel's.
    log.info(`Allocated lease (${formatSubnet(subnet)}) to current node (${formatIpv4(this.#publicIP)}) `)
    return lease
  }

  #fits(subnet: Subnet): boolean {
    const { subnetLen, subnetMin, subnetMax, network } = this.#options.config
    return (
      subnet.length === subnetLen &&
      subnetMin <= subnet.address &&
      subnet.address <= subnetMax &&
      underlayObjection(subnet, { network, underlay: this.#options.underlay }) === undefined
    )
  }

  /** Undefined when the key did not stand as it was listed: the next attempt looks again. */
  async #ifUnchanged<T>(write: Promise<T>): Promise<T | undefined> {
    try {
      return await write
    } catch (error) {
      const moved = [EcodeKeyNotFound, EcodeTestFailed, EcodeNodeExist].some((code) =>
        isEtcdCode(error, code),
      )
      if (moved) return undefined
      throw error
    }
  }

  /** Each thing once, however many attempts come to it. */
  #say(level: 'info' | 'warn' | 'error', message: string): void {
    if (this.#said.has(message)) return
    this.#said.add(message)
    this.#options.log[level](message)
  }
}

/**
 * Every range somebody lays claim to, by a lease that can be read or not, except the leases just deleted. Who claims
 * the whole network, or more, claims nothing: one such key would keep every new node out.
 */
function claims(list: LeaseList, deleted: readonly Lease[], network: Subnet): Subnet[] {
  const gone = new Set(deleted)
  const claimed = [
    ...list.leases.filter((lease) => !gone.has(lease)).map(({ subnet }) => subnet),
    ...list.bad.flatMap(({ key }) => claimedSubnet(key) ?? []),
  ]
  return claimed.filter(({ length }) => length > network.length)
}
