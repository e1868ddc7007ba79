import { CommandError, parseCapabilities, type Runner } from '../../masq/exec.ts'
import { formatRule, parseChain } from '../../masq/iptables.ts'
import { type ChainPlan, plan, renderRestore } from '../../masq/plan.ts'
import { ChainReader, LOCK_WAIT_SECONDS } from '../../masq/reader.ts'
import { type Addresses, type RuleGroup, withdrawal } from '../../masq/rules.ts'
import type { Step } from './step.ts'

/**
 * Our rules, in one transaction; then the chains and tables that nobody else has a rule in. iptables-nft makes those when
 * it first needs them, and an empty one does nothing. Rejects with CommandError or TruncatedDump.
 */
export async function firewallSteps(
  runner: Runner,
  addresses: Addresses,
  wrote: { readonly masquerade: boolean; readonly forward: boolean },
): Promise<Step[]> {
  const version = await versionOf(runner)
  if (version === undefined) return []
  const capabilities = parseCapabilities(version)
  const groups = withdrawal(addresses, { ...wrote, randomFully: capabilities.randomFully })
  const states = await new ChainReader(runner, capabilities).read(groups)
  const plans: ChainPlan[] = []
  const empty: RuleGroup[] = []
  for (const [i, group] of groups.entries()) {
    const state = states[i] ?? { lines: [], ordered: false }
    if (state instanceof CommandError) throw state
    const { lines, ordered } = state
    const change = plan(lines, { ...group, rules: [] })
    if (change === undefined) continue
    plans.push(change)
    if (capabilities.nft && ordered && change.deletes.length === lines.length) empty.push(group)
  }
  if (plans.length === 0) return []
  const wait = capabilities.restoreWait ? ['-w', String(LOCK_WAIT_SECONDS)] : []
  const rules: Step = {
    removes: plans.flatMap(({ group, deletes }) =>
      deletes.map((rule) => `rule ${group.table} ${group.chain} ${formatRule(rule)}`),
    ),
    commands: plans.flatMap(({ group, deletes }) =>
      deletes.map((rule) => `iptables -w -t ${group.table} -D ${group.chain} ${formatRule(rule)}`),
    ),
    run: async () => {
      await runner('iptables-restore', ['--noflush', ...wait], { input: renderRestore(plans) })
    },
  }
  const steps = [rules]
  for (const group of empty) steps.push(...(await chainSteps(runner, group)))
  return steps
}

/** Undefined without iptables: then nobody can have written rules by it. */
async function versionOf(runner: Runner): Promise<string | undefined> {
  try {
    return (await runner('iptables', ['--version'])).stdout
  } catch (error) {
    if (error instanceof CommandError && error.kind === 'missing') return undefined
    throw error
  }
}

/** For a chain that our rules were all there was in: the chain, unless it drops; its table, if the chain was alone in it. */
async function chainSteps(runner: Runner, { table, chain }: RuleGroup): Promise<Step[]> {
  const listed = async (): Promise<string[]> =>
    (await runner('nft', ['list', 'table', 'ip', table])).stdout
      .split('\n')
      .filter((line) => /^\t\S/.test(line))
  let chains: string[]
  let policy: string
  try {
    policy = (await runner('iptables', ['-w', '-t', table, '-S', chain])).stdout
    chains = (await listed()).filter((line) => line !== '\t}')
  } catch (error) {
    // Without nft, or with a table that iptables does not understand, the empty chain stays.
    if (error instanceof CommandError) return []
    throw error
  }
  if (!policy.startsWith(`-P ${chain} ACCEPT\n`)) return []
  const steps: Step[] = [
    {
      removes: [`empty chain ${table} ${chain}`],
      commands: [`iptables -w -t ${table} -X ${chain}`],
      run: async () => {
        // Somebody may have put a rule there meanwhile.
        const { stdout } = await runner('iptables', ['-w', '-t', table, '-S', chain])
        if (parseChain(stdout.split('\n'), chain).length === 0)
          await runner('iptables', ['-w', '-t', table, '-X', chain])
      },
    },
  ]
  if (chains.length === 1 && chains[0] === `\tchain ${chain} {`) {
    steps.push({
      removes: [`empty table ip ${table}`],
      commands: [`nft delete table ip ${table}`],
      run: async () => {
        if ((await listed()).length === 0) await runner('nft', ['delete', 'table', 'ip', table])
      },
    })
  }
  return steps
}
