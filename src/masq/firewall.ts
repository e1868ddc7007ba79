/**
 * Keeps our firewall rules right for as long as the daemon runs: read, compare, and write one transaction when,
 * and only when, something differs. Rules stay when the daemon stops.
 */
import { type Clock, Nap } from '../clock.ts'
import type { Logger } from '../log.ts'
import { type Capabilities, CommandError, parseCapabilities, type Runner } from './exec.ts'
import { formatRule } from './iptables.ts'
import { Pace } from './pace.ts'
import { type ChainPlan, foreignBehind, plan, renderRestore } from './plan.ts'
import { ChainReader, type ChainState, LOCK_WAIT_SECONDS } from './reader.ts'
import { type Addresses, type Policy, ruleset } from './rules.ts'

/** Totals since start. */
export interface FirewallCounters {
  /** Looks that went well, also those that needed no more than the ruleset's generation. */
  checks: number
  /** Rounds that wrote something, the first included. */
  repairs: number
  /** Looks or writes that failed. */
  failures: number
}

interface Prepared {
  readonly reader: ChainReader
  readonly capabilities: Capabilities
}

/**
 * The firewall of this node. `start` does the first synchronisation, `run` keeps at it. Neither rejects: what goes
 * wrong is logged, counted and tried again.
 */
export class Firewall {
  readonly counters: FirewallCounters = { checks: 0, repairs: 0, failures: 0 }
  readonly #runner: Runner
  readonly #clock: Clock
  readonly #log: Logger
  readonly #pace: Pace
  readonly #resyncSeconds: number
  readonly #generation: () => number | undefined

  /** The ruleset's generation when a look found nothing to do. */
  #right: number | undefined
  #prepared: Prepared | undefined
  #policy: Policy | undefined
  /** Addresses whose rules are still to be cleared away; forgotten once that is done. */
  #previous: readonly Addresses[] = []
  readonly #behind = new Map<string, ReadonlySet<string>>()

  #current: Promise<void> | undefined
  #kicked = false
  readonly #nap = new Nap()
  #lastError: string | undefined
  #unordered = false

  constructor(parts: {
    readonly runner: Runner
    readonly clock: Clock
    readonly log: Logger
    /** Seconds between looks, 1..2,147,483: a timer of Node's holds no more. */
    readonly resyncSeconds: number
    /** What changes whenever nf_tables' rules do; undefined when nobody can tell. */
    readonly generation?: () => number | undefined
  }) {
    this.#runner = parts.runner
    this.#clock = parts.clock
    this.#log = parts.log
    this.#generation = parts.generation ?? (() => undefined)
    this.#resyncSeconds = parts.resyncSeconds
    this.#pace = new Pace(parts.resyncSeconds * 1000)
  }

  /** What went wrong at the last look, or undefined when it went well. */
  get lastError(): string | undefined {
    return this.#lastError
  }

  /**
   * First synchronisation. `previous` are the addresses in the subnet file of an earlier run, undefined when there
   * was none: then nothing is taken away but duplicates of what is wanted.
   */
  async start(policy: Policy, previous: Addresses | undefined, signal?: AbortSignal): Promise<void> {
    this.#policy = policy
    if (previous) this.#previous = [previous]
    await this.check(signal)
  }

  /** Something changed in the kernel's rules: look soon, not only after the period. */
  kick(): void {
    this.#kicked = true
    this.#nap.wake()
  }

  /** Looks every period, sooner after a kick or a failure, until the signal fires. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      if (!this.#kicked) await this.#nap.sleep(this.#clock, this.#pace.untilNext(), signal)
      if (this.#kicked) await this.#clock.sleep(this.#pace.holdOff(this.#clock.now()), signal)
      if (signal.aborted) return
      this.#kicked = false
      await this.check(signal)
    }
  }

  /** One look now, with a repair when one is due. A look under way is joined. */
  check(signal?: AbortSignal): Promise<void> {
    this.#current ??= this.#check(signal).finally(() => {
      this.#current = undefined
    })
    return this.#current
  }

  async #check(signal: AbortSignal | undefined): Promise<void> {
    const policy = this.#policy
    if (!policy) return
    const begin = this.#clock.now()
    try {
      await this.#synchronise(policy, signal)
      this.counters.checks++
      this.#saySucceeded()
      this.#pace.succeeded(begin, this.#clock.now())
    } catch (error) {
      if (signal?.aborted) return
      this.counters.failures++
      this.#sayFailed(error)
      this.#pace.failed(begin, this.#clock.now())
    }
  }

  async #synchronise(policy: Policy, signal: AbortSignal | undefined): Promise<void> {
    if (!policy.masquerade && !policy.forward && !this.#previous.length) return
    const prepared = await this.#prepare(signal)
    // Read first: what changes during the look has to be looked at again. To ask takes 50 us, and to look a program.
    const generation = prepared.capabilities.nft ? this.#generation() : undefined
    if (generation !== undefined && generation === this.#right) return
    const { randomFully } = prepared.capabilities
    const groups = ruleset(policy, { randomFully, previous: this.#previous })
    const found = await prepared.reader.read(groups, signal)
    const states: ChainState[] = []
    const plans: ChainPlan[] = []
    let unreadable: CommandError | undefined
    for (const [i, group] of groups.entries()) {
      const state = found[i]
      if (state instanceof CommandError) unreadable ??= state
      if (state === undefined || state instanceof CommandError) continue
      states.push(state)
      const { lines } = state
      const change = plan(lines, group, this.#behind.get(group.chain))
      if (change) plans.push(change)
      else if (group.rules.length) this.#behind.set(group.chain, foreignBehind(lines, group))
    }
    this.#sayWhetherOrdered(states)
    if (plans.length) await this.#repair(plans, prepared.capabilities, signal)
    // The other chain has got what it needs.
    if (unreadable) throw unreadable
    this.#previous = []
    this.#right = plans.length === 0 ? generation : undefined
  }

  async #prepare(signal: AbortSignal | undefined): Promise<Prepared> {
    if (!this.#prepared) {
      const { stdout } = await this.#runner('iptables', ['--version'], signal && { signal })
      const capabilities = parseCapabilities(stdout)
      this.#log.debug('Found iptables', { version: stdout.trim(), ...capabilities })
      this.#prepared = { capabilities, reader: new ChainReader(this.#runner, capabilities) }
    }
    return this.#prepared
  }

  /**
   * All in one program run. Its transactions are one for each table, and the first that fails ends it; so after a
   * failure each table gets a run of its own, and none waits for the other.
   */
  async #repair(
    plans: readonly ChainPlan[],
    capabilities: Capabilities,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const wait = capabilities.restoreWait ? ['-w', String(LOCK_WAIT_SECONDS)] : []
    const errors: unknown[] = []
    for (const run of this.#pace.failures ? plans.map((p) => [p]) : [plans]) {
      try {
        const input = renderRestore(run)
        await this.#runner('iptables-restore', ['--noflush', ...wait], { input, ...(signal && { signal }) })
        for (const change of run) this.#sayRepaired(change)
      } catch (error) {
        errors.push(error)
      }
    }
    if (errors.length) throw errors[0]
    this.counters.repairs++
    if (this.#pace.repaired(this.#clock.now())) {
      const where = plans.map(({ group }) => `${group.table} ${group.chain}`).join(', ')
      this.#log.warn(
        'Something keeps changing our iptables rules; repairing them less often until it stops. Look for other ' +
          `software that rewrites ${where}`,
      )
    }
  }

  #sayRepaired({ group, deletes, adds }: ChainPlan): void {
    const where = { table: group.table, chain: group.chain }
    if (adds.length) this.#log.info('Some iptables rules are missing; deleting and recreating rules', where)
    for (const rule of deletes) this.#log.info(`Deleting iptables rule: ${formatRule(rule)}`, where)
    for (const rule of adds) this.#log.info(`Adding iptables rule: ${formatRule(rule)}`, where)
  }

  #sayWhetherOrdered(states: readonly ChainState[]): void {
    const unordered = states.some((s) => !s.ordered)
    if (unordered && !this.#unordered) {
      this.#log.warn(
        'iptables cannot list a table because it holds rules that only nft can express; checking that our rules ' +
          'are there, but not their order',
      )
    }
    this.#unordered = unordered
  }

  #saySucceeded(): void {
    const { failures } = this.#pace
    if (failures) this.#log.info('iptables rules are in place again', { failures })
    this.#lastError = undefined
  }

  #sayFailed(error: unknown): void {
    const message = error instanceof Error ? error.message : String(error)
    const missing = error instanceof CommandError && error.kind === 'missing'
    // Some messages count microseconds.
    const told = this.#lastError?.replace(/\d+/g, '') === message.replace(/\d+/g, '')
    this.#lastError = message
    if (told) return
    this.#log.error(
      missing
        ? `Failed to setup IPTables. iptables binary was not found: ${message}; install iptables, it is looked for again every ${this.#resyncSeconds} s`
        : `Failed to ensure iptables rules: ${message}; trying again`,
    )
  }
}
