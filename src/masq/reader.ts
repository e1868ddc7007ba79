/**
 * Reading what is in the chains, as cheaply as the installed iptables allows. Measured (iptables 1.8.9, ms of CPU
 * for one check of both chains; the large table holds 10,000 rules in 2,500 chains, as kube-proxy makes them):
 *
 *                              nft small   nft large   legacy small   legacy large
 *   iptables-save                    1.6         166            1.5             44
 *   iptables -S CHAIN, twice         2.7          34            2.9             29
 *   iptables -C RULE, six times      7.8         125            9.0            112   (what flannel does)
 *
 * So it is one `iptables-save`, and chain by chain where the variant is nf_tables and the dump is long, or ends at a rule of somebody
 * else's. The legacy one always dumps: `iptables-save` takes no lock there, while `-S` does and holds up others.
 */
import { type Capabilities, CommandError, type Runner } from './exec.ts'
import { type ChainLine, formatRule, parseChain, parseSave } from './iptables.ts'
import type { RuleGroup } from './rules.ts'

/** From this many characters of dump on, iptables-nft is asked for single chains. */
const LONG_DUMP = 100_000

/** Seconds that iptables may wait for the lock of the legacy variant. */
export const LOCK_WAIT_SECONDS = 5

/** The rules in one group's chain. `ordered` is false when only presence is known, not place or order. */
export interface ChainState {
  readonly lines: readonly ChainLine[]
  readonly ordered: boolean
}

/** Reads chains with the programs of one iptables version; remembers how long the last dump was. */
export class ChainReader {
  readonly #run: Runner
  readonly #capabilities: Capabilities
  #long = false

  constructor(run: Runner, capabilities: Capabilities) {
    this.#run = run
    this.#capabilities = capabilities
  }

  /**
   * The chain of each group, in the order of `groups`, or why iptables cannot read that one. Rejects with `CommandError` or
   * `TruncatedDump`.
   */
  async read(groups: readonly RuleGroup[], signal?: AbortSignal): Promise<(ChainState | CommandError)[]> {
    if (this.#capabilities.nft && this.#long) {
      return inTurn(groups, (group) => orUnreadable(this.#list(group, signal)))
    }
    const dump = await this.#save(signal)
    if (dump === undefined) return inTurn(groups, (group) => orUnreadable(this.#list(group, signal)))
    this.#long = dump.length >= LONG_DUMP
    return inTurn(groups, async (group) => {
      const lines = parseSave(dump, group.table, group.chain)
      return lines === 'hidden' ? orUnreadable(this.#probe(group, signal)) : { lines, ordered: true }
    })
  }

  /** All tables; undefined when one of them holds a rule of nft's that iptables cannot read, on which it gives up the dump. */
  async #save(signal: AbortSignal | undefined): Promise<string | undefined> {
    try {
      return (await this.#run('iptables-save', [], signal && { signal })).stdout
    } catch (error) {
      if (isUnreadable(error)) return undefined
      throw error
    }
  }

  async #list(group: RuleGroup, signal: AbortSignal | undefined): Promise<ChainState> {
    try {
      const { stdout } = await this.#iptables(group, ['-S', group.chain], signal)
      return { lines: parseChain(stdout.split('\n'), group.chain), ordered: true }
    } catch (error) {
      if (error instanceof CommandError && error.message.includes('is incompatible')) {
        return this.#probe(group, signal)
      }
      throw error
    }
  }

  /** Asks for each wanted rule by itself, which iptables-nft answers even where it cannot list the table. */
  async #probe(group: RuleGroup, signal: AbortSignal | undefined): Promise<ChainState> {
    const lines: ChainLine[] = []
    for (const rule of group.rules) {
      const text = formatRule(rule)
      try {
        await this.#iptables(group, ['-C', group.chain, ...text.split(' ')], signal)
        lines.push({ text, rule })
      } catch (error) {
        if (!(error instanceof CommandError && error.status === 1)) throw error
      }
    }
    return { lines, ordered: false }
  }

  #iptables(group: RuleGroup, args: readonly string[], signal: AbortSignal | undefined) {
    return this.#run(
      'iptables',
      ['-w', String(LOCK_WAIT_SECONDS), '-t', group.table, ...args],
      signal && { signal },
    )
  }
}

/** A rule that nft made, and iptables knows no words for: whatever it is asked about the chain, it gives up. */
function isUnreadable(error: unknown): error is CommandError {
  return error instanceof CommandError && error.message.includes('Parsing nftables rule failed')
}

async function orUnreadable(read: Promise<ChainState>): Promise<ChainState | CommandError> {
  try {
    return await read
  } catch (error) {
    if (isUnreadable(error)) return error
    throw error
  }
}

async function inTurn<T, R>(items: readonly T[], each: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = []
  for (const item of items) results.push(await each(item))
  return results
}
