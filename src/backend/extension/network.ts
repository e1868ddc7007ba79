import { type Clock, Nap } from '../../clock.ts'
import { formatIpv4, formatSubnet, type Subnet, subnetKey } from '../../ip.ts'
import type { Logger } from '../../log.ts'
import type { Lease } from '../../subnet/lease.ts'
import type { Network, Underlay } from '../backend.ts'
import { Backoff } from '../backoff.ts'
import { NO_REPAIRS, type PeerStatus, type ReconcilerStatus } from '../model.ts'
import { describeFailure, runCommand, say } from './command.ts'

export interface ExtensionOptions {
  readonly log: Logger
  readonly clock: Clock
  readonly underlay: Underlay
  readonly commands: {
    readonly add: string | undefined
    readonly remove: string | undefined
    readonly shutdown: string | undefined
  }
  /** What every command finds in its environment. */
  readonly base: Readonly<Record<string, string>>
  /** What describes this node. */
  readonly own: Readonly<Record<string, string>>
}

/** Milliseconds for one peer, and for the end. */
const PEER_TIMEOUT = 30_000
const SHUTDOWN_TIMEOUT = 10_000

/** What the commands are told of a peer. */
interface Peer {
  readonly subnet: Subnet
  readonly publicIP: number
  readonly data: string
}

/** One run of a command. */
interface Call {
  readonly line: string
  readonly variables: Readonly<Record<string, string>>
  /** For its standard input. */
  readonly data: string
  /** Milliseconds. */
  readonly timeout: number
}

/**
 * Runs one command for each peer that comes, changes or goes, one after another in the order of the events. One that fails
 * is run again with growing pauses, and keeps no other peer waiting.
 */
export class ExtensionNetwork implements Network {
  readonly name = 'extension'
  readonly #options: ExtensionOptions
  #underlay: Underlay
  readonly #wanted = new Map<number, Peer>()
  /** Peers for which the add command has been run, be it in vain. */
  readonly #told = new Map<number, Peer>()
  /** Where wanted and told differ, in the order that it came to be so. */
  readonly #pending = new Set<number>()
  readonly #failures = new Backoff<number>(0)
  readonly #failed = new Set<number>()
  readonly #skipped = new Map<number, string>()
  /** For which a command runs now. */
  #current: number | undefined
  readonly #nap = new Nap()

  constructor(options: ExtensionOptions) {
    this.#options = options
    this.#underlay = options.underlay
  }

  get mtu(): number {
    return this.#underlay.mtu
  }

  get status(): ReconcilerStatus {
    let held = 0
    for (const key of this.#wanted.keys()) if (this.#isDone(key)) held++
    const command = { wanted: this.#wanted.size, held, failed: this.#failed.size }
    return { peers: this.#wanted.size, skipped: this.#skipped.size, tables: { command }, repairs: NO_REPAIRS }
  }

  /** What the commands have made, nobody can know; this is what they were told, and whether they could do it. */
  *peers(): Generator<PeerStatus> {
    for (const [key, wanted] of this.#wanted) {
      const told = this.#told.get(key)
      const command = this.#isDone(key) ? 'ok' : told === undefined || told === wanted ? 'missing' : 'differs'
      const { subnet, publicIP } = wanted
      yield { subnet, publicIP, mac: undefined, route: 'command', entries: { command } }
    }
  }

  setUnderlay(underlay: Underlay): void {
    this.#underlay = underlay
  }

  replaceLeases(leases: Iterable<Lease>): void {
    const all = [...leases]
    const current = new Set(all.map(({ subnet }) => subnetKey(subnet)))
    for (const [key, { subnet }] of this.#wanted) if (!current.has(key)) this.#withdraw(subnet)
    for (const key of this.#skipped.keys()) if (!current.has(key)) this.#skipped.delete(key)
    for (const lease of all) this.putLease(lease)
  }

  putLease(lease: Lease): void {
    const { subnet } = lease
    const { backendType, backendData, publicIP } = lease.attributes
    const key = subnetKey(subnet)
    const problem =
      backendType !== 'extension'
        ? `Ignoring non-extension subnet: type=${backendType} (${formatSubnet(subnet)})`
        : backendData !== undefined && backendData !== null && typeof backendData !== 'string'
          ? `failed to unmarshal backend data of ${formatSubnet(subnet)}: it is no string`
          : undefined
    if (problem !== undefined) {
      this.#withdraw(subnet)
      if (this.#skipped.get(key) !== problem) this.#options.log.warn(problem)
      this.#skipped.set(key, problem)
      return
    }
    this.#skipped.delete(key)
    const peer = { subnet, publicIP, data: typeof backendData === 'string' ? backendData : '' }
    const before = this.#wanted.get(key)
    if (before?.publicIP === peer.publicIP && before.data === peer.data) return
    this.#options.log.info(`Subnet added: ${formatSubnet(subnet)} via ${formatIpv4(publicIP)}`)
    this.#wanted.set(key, peer)
    this.#queue(key)
  }

  /** The peer is as the command was told that ran last, and that went well. */
  #isDone(key: number): boolean {
    return this.#told.get(key) === this.#wanted.get(key) && !this.#pending.has(key) && this.#current !== key
  }

  removeLease(subnet: Subnet): void {
    this.#skipped.delete(subnetKey(subnet))
    this.#withdraw(subnet)
  }

  #withdraw(subnet: Subnet): void {
    const key = subnetKey(subnet)
    if (!this.#wanted.delete(key)) return
    this.#options.log.info(`Subnet removed: ${formatSubnet(subnet)}`)
    if (this.#told.has(key)) this.#queue(key)
    else this.#pending.delete(key)
  }

  // The kernel is the commands' business.
  observe(): void {}
  observeOverrun(): void {}

  apply(): void {
    this.#nap.wake()
  }

  async run(signal: AbortSignal): Promise<void> {
    const { clock, commands, log, own } = this.#options
    while (!signal.aborted) {
      const now = clock.now()
      const key = [...this.#pending].find((k) => this.#failures.wait(k, now) === 0)
      if (key !== undefined) {
        await this.#tell(key, signal)
        continue
      }
      const waits = [...this.#pending].map((k) => this.#failures.wait(k, now))
      await this.#nap.sleep(clock, Math.min(60_000, ...waits), signal)
    }
    const { shutdown } = commands
    if (shutdown === undefined) return
    const outcome = await this.#run(
      { line: shutdown, variables: own, data: '', timeout: SHUTDOWN_TIMEOUT },
      new AbortController().signal,
    )
    if (outcome !== undefined) log.error(outcome)
  }

  /** What came later than this counts from its own place. */
  #queue(key: number): void {
    this.#failures.clear(key)
    this.#pending.delete(key)
    this.#pending.add(key)
    this.#nap.wake()
  }

  /** Runs the one command that a peer's change calls for. */
  async #tell(key: number, signal: AbortSignal): Promise<void> {
    const { commands, clock, log } = this.#options
    const wanted = this.#wanted.get(key)
    const peer = wanted ?? this.#told.get(key)
    const line = wanted === undefined ? commands.remove : commands.add
    this.#pending.delete(key)
    if (peer === undefined) return
    if (wanted !== undefined) this.#told.set(key, wanted)
    const variables = { SUBNET: formatSubnet(peer.subnet), PUBLIC_IP: formatIpv4(peer.publicIP) }
    this.#current = key
    const call = line && { line, variables, data: peer.data, timeout: PEER_TIMEOUT }
    const problem = call && (await this.#run(call, signal))
    this.#current = undefined
    if (signal.aborted) return
    if (!problem) {
      this.#failures.clear(key)
      this.#failed.delete(key)
      if (wanted === undefined) this.#told.delete(key)
      return
    }
    if (!this.#failed.has(key)) log.error(`${problem}; trying again`)
    this.#failed.add(key)
    this.#failures.note(key, clock.now())
    // Unless it has changed meanwhile, and waits for its turn anyway.
    this.#pending.add(key)
  }

  /** Resolves to what went wrong, undefined when all is well. */
  async #run({ line, variables, data, timeout }: Call, signal: AbortSignal): Promise<string | undefined> {
    const { base, log } = this.#options
    const command = { line, env: { ...base, ...variables }, input: `${data}\n`, timeout }
    const outcome = await runCommand(command, signal)
    if (outcome.kind === 'failed') {
      const about = Object.entries(variables).map(([name, value]) => `${name}=${value}`)
      return `${describeFailure(line, outcome)} (${about.join(' ')})`
    }
    log.info(`Ran command: ${say(line)} Output: ${say(outcome.output)}`)
    return undefined
  }
}
