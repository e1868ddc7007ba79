import { formatSubnet } from '../ip.ts'
import { type Facts, isInstalled } from './facts.ts'
import { type Finding, fault, ok } from './finding.ts'

/** Which iptables writes where, and whether what it holds lets the overlay through. */
export function firewallChecks(facts: Facts): Finding[] {
  return [...backEnd(facts), ...mixture(facts), ...forwardPolicy(facts), ...masquerade(facts)]
}

function backEnd({ firewall, options }: Facts): Finding[] {
  const { version } = firewall
  if (version !== undefined) return [ok('iptables', version)]
  const needed = options.ipMasq || options.forwardRules
  if (!needed) return []
  return [
    fault('iptables', 'fail', {
      what: 'iptables does not run',
      why: 'flanneld writes its masquerade and FORWARD rules with it',
      mend: 'install the package iptables, or start flanneld with -iptables-forward-rules=false and without -ip-masq',
    }),
  ]
}

/** Both back ends see every packet: what one accepts, the other still drops. */
function mixture({ firewall }: Facts): Finding[] {
  if (firewall.legacy === undefined || firewall.nft === undefined) return []
  const legacy = hasRules(firewall.legacy)
  const nft = hasRules(firewall.nft)
  if (!legacy || !nft) return [ok('iptables back ends', 'one of legacy and nf_tables holds rules, or none')]
  const used = firewall.version?.includes('nf_tables') ? 'nft' : 'legacy'
  const other = used === 'nft' ? 'legacy' : 'nft'
  return [
    fault('iptables back ends', 'warn', {
      what: 'both legacy iptables and nf_tables hold rules',
      why: `iptables here writes ${used} rules, but packets pass the ${other} ones too, which may drop or masquerade them`,
      mend: `look at iptables-${other}-save; let all programs use one (update-alternatives --config iptables) and reboot`,
    }),
  ]
}

/** A rule, or a policy that is not ACCEPT. */
function hasRules(save: string): boolean {
  return /^-A /m.test(save) || /^:\S+ DROP /m.test(save)
}

interface Chain {
  readonly policy: string
  readonly rules: readonly string[]
}

/** The lines of a table, out of iptables-save's text; counters of rules are left out. */
export function tableOf(save: string, table: string): string[] {
  const section = save.split(/^\*/m).find((part) => part.startsWith(`${table}\n`)) ?? ''
  return section.split('\n').map((line) => line.replace(/^\[\d+:\d+\] /, ''))
}

/** A built-in chain of a table. */
export function chainOf(save: string, table: string, chain: string): Chain {
  const lines = tableOf(save, table)
  const head = lines.find((line) => line.startsWith(`:${chain} `))
  const rules = lines.filter((line) => line.startsWith(`-A ${chain} `))
  return { policy: head?.split(' ')[1] ?? 'ACCEPT', rules }
}

function forwardPolicy(facts: Facts): Finding[] {
  const { firewall, etcd, options } = facts
  if (etcd.config === undefined) return []
  // flanneld adds the rules at its first start.
  if (options.forwardRules && !isInstalled(facts)) return []
  const isNft = firewall.version?.includes('nf_tables') === true
  const texts = [
    { name: 'iptables', text: firewall.save },
    // Plain iptables is one of the two.
    isNft ? { name: 'iptables-legacy', text: firewall.legacy } : { name: 'iptables-nft', text: firewall.nft },
  ]
  const network = formatSubnet(etcd.config.network)
  const findings: Finding[] = []
  for (const { name, text } of texts) {
    if (text === undefined) continue
    const { policy, rules } = chainOf(text, 'filter', 'FORWARD')
    const accepts = (way: '-s' | '-d'): boolean =>
      rules.some(
        (rule) =>
          rule === '-A FORWARD -j ACCEPT' ||
          (rule.includes(`${way} ${network} `) && rule.endsWith('-j ACCEPT')),
      )
    if (policy !== 'DROP' || (accepts('-s') && accepts('-d'))) continue
    const accept = (way: '-s' | '-d'): string => `${name} -I FORWARD ${way} ${network} -j ACCEPT`
    findings.push(
      fault('FORWARD policy', 'fail', {
        what: `the policy of FORWARD is DROP (${name}), and no rules accept ${network}`,
        why: 'packets between pods of different nodes are dropped; Docker sets this policy',
        mend: `run flanneld with -iptables-forward-rules, or: ${accept('-s')}; ${accept('-d')}`,
      }),
    )
  }
  return findings.length > 0 || firewall.save === undefined
    ? findings
    : [ok('FORWARD policy', 'the overlay may be forwarded')]
}

function masquerade({ firewall, options, etcd, daemon }: Facts): Finding[] {
  if (!options.ipMasq || typeof daemon === 'string' || etcd.config === undefined) return []
  if (firewall.save === undefined || daemon.daemon.phase !== 'running') return []
  const network = formatSubnet(etcd.config.network)
  const { rules } = chainOf(firewall.save, 'nat', 'POSTROUTING')
  if (rules.some((rule) => rule.includes(`-s ${network} `) && rule.includes('-j MASQUERADE')))
    return [ok('masquerade', `what leaves ${network} is masqueraded`)]
  return [
    fault('masquerade', 'fail', {
      what: `-ip-masq is set, but no rule masquerades ${network}`,
      why: 'pods reach nothing outside of the overlay',
      mend: 'flanneld writes it within seconds; when it does not, look for iptables in its log',
    }),
  ]
}
