import { formatIpv4, formatSubnet } from '../ip.ts'
import { deviceChecks } from './device.ts'
import { entryChecks } from './entries.ts'
import type { Facts } from './facts.ts'
import { type Finding, fault, ok, some } from './finding.ts'
import { tableOf } from './firewall.ts'
import { groupBy } from './group.ts'
import type { PeerProbe } from './ping.ts'
import type { Tunnel } from './tunnel.ts'

/** What the pings say: which peers cannot be reached, and where on the way it fails. */
export function peerChecks(facts: Facts): Finding[] {
  const { probes, tunnel } = facts
  if (typeof probes === 'string') {
    return [
      fault('peers', 'warn', {
        what: probes,
        why: 'whether packets reach the other nodes is not known',
        mend: 'run this as root, or with CAP_NET_RAW',
      }),
    ]
  }
  return probes.length === 0 || tunnel === undefined ? [] : verdicts(facts, tunnel, probes)
}

function verdicts(facts: Facts, tunnel: Tunnel, probes: readonly PeerProbe[]): Finding[] {
  const kinds = groupBy(probes, verdict)
  const of = (kind: Verdict): readonly PeerProbe[] => kinds.get(kind) ?? []
  const findings: Finding[] = []
  const report = (kind: Verdict, level: 'warn' | 'fail', words: Parameters<typeof fault>[2]): void => {
    const found = of(kind)
    if (found.length > 0) {
      const check = kind === 'large lost' ? 'path MTU' : 'peers'
      findings.push(fault(check, level, { ...words, what: `${words.what}: ${some(found.map(nameOf), 8)}` }))
    }
  }
  const through = tunnel.device === undefined ? '' : ' through the tunnel'
  report('node away', 'fail', {
    what: `${count(of('node away'))}${tunnel.device === undefined ? '' : ', not even on the underlay'}`,
    ...absence(facts, of('node away').length === probes.length && probes.length > 1),
  })
  report('tunnel away', 'fail', {
    what: `${count(of('tunnel away'))} through the tunnel, but the node does on the underlay`,
    ...blame(facts, tunnel),
  })
  report('large lost', 'fail', {
    what: `${of('large lost').length} of ${probes.length} peers get no packets of full size`,
    why: 'a link on the way has a smaller MTU than this interface: connections open and then hang',
    mend: shrink(facts, tunnel, of('large lost')),
  })
  report('some lost', 'warn', {
    what: `${of('some lost').length} of ${probes.length} peers lose some packets`,
    why: 'the network drops packets, or a machine is too busy',
    mend: 'look at the drops of the interfaces: ip -s link',
  })
  const answered = probes.length - of('node away').length - of('tunnel away').length
  if (answered > 0) {
    findings.push(ok('peers', `${answered} of ${probes.length} answer${through}, ${times(probes)}`))
    if (of('large lost').length === 0)
      findings.push(ok('path MTU', 'full-size packets get to every peer that answers'))
  }
  return findings

  function count(found: readonly PeerProbe[]): string {
    return `${found.length} of ${probes.length} peers ${found.length === 1 ? 'does' : 'do'} not answer`
  }
}

/** Why nodes do not answer at all. That of several none does is more likely to be this one's fault than that of all. */
function absence(facts: Facts, all: boolean): { readonly why: string; readonly mend: string } {
  const [cut] = deviceChecks(facts).filter(({ check, level }) => check === 'interface' && level === 'fail')
  if (cut !== undefined) return { why: `no wonder: ${cut.what}`, mend: cut.mend }
  return {
    why: `${all ? 'this node, its switch or its firewall is cut off from all of them; or' : ''} the node is off, or its address in the lease is not reachable from here`.trim(),
    mend: 'start the node, or set its -public-ip; the lease of a node that is gone for good ends by itself',
  }
}

/** Where the tunnel's packets are lost: here, as far as can be seen from here, else somewhere on the way. */
function blame(facts: Facts, { udp, backend }: Tunnel): { readonly why: string; readonly mend: string } {
  if ([...deviceChecks(facts), ...entryChecks(facts)].some(({ level }) => level === 'fail')) {
    return {
      why: 'something is amiss on this node, which may be all there is to it',
      mend: 'mend that first: it is named above',
    }
  }
  const what = udp === undefined ? 'IP protocol 4' : `UDP port ${udp.port}`
  const rule = udp === undefined ? '-p 4' : `-p udp --dport ${udp.port}`
  const accept = `iptables -I INPUT ${rule} -j ACCEPT`
  const own = udp === undefined ? undefined : ownFirewall(facts, udp.port)
  if (own !== undefined)
    return { why: `this node's own firewall may drop ${what}: ${own}`, mend: `here: ${accept}` }
  const keys = backend === 'wireguard' ? ', or the nodes have different keys or PSK' : ''
  return {
    why: `${what} is blocked on the way there or back, or flanneld does not run there${keys}`,
    mend: `run flanneld doctor there too; on both nodes: ${accept}; a cloud's security group needs it as well`,
  }
}

/** What in the INPUT chain, or a chain that it leads to, drops the tunnel's packets. */
function ownFirewall({ firewall }: Facts, port: number): string | undefined {
  for (const text of [firewall.save, firewall.legacy, firewall.nft]) {
    const lines = tableOf(text ?? '', 'filter')
    const chains = new Set(['INPUT'])
    const rules: string[] = []
    // A set is walked to its end, whatever is added meanwhile.
    for (const chain of chains) {
      for (const line of lines.filter((each) => each.startsWith(`-A ${chain} `))) {
        rules.push(line)
        const target = / -[jg] (\S+)/.exec(line)?.[1] ?? ''
        if (lines.some((each) => each.startsWith(`:${target} `))) chains.add(target)
      }
    }
    const named = rules.filter((line) => new RegExp(` --dports? (\\S+,)?${port}(,|\\s)`).test(line))
    const drops = named.find((line) => / -j (DROP|REJECT)/.test(line))
    if (drops !== undefined) return drops
    const isClosed =
      lines.some((line) => line.startsWith(':INPUT DROP')) ||
      rules.some((line) => /^-A \S+ -j (DROP|REJECT)/.test(line))
    if (isClosed && !named.some((line) => line.includes('-j ACCEPT')))
      return `INPUT drops what no rule accepts, and none names port ${port}`
  }
  return undefined
}

/** What to set so that packets fit the narrowest link. */
function shrink(facts: Facts, tunnel: Tunnel, found: readonly PeerProbe[]): string {
  const { underlay } = facts.network
  const name = typeof underlay === 'string' ? 'the interface' : underlay.name
  const sizes = found.flatMap(({ largest }) => largest ?? [])
  const size = sizes.length === 0 ? 'what it takes' : String(Math.min(...sizes) + tunnel.overhead)
  const raise = 'raise the MTU of that link, or'
  return tunnel.canLimit
    ? `${raise} set "MTU": ${size} in the Backend of the network config, and restart flanneld on all nodes, then docker`
    : `${raise} set that of ${name} on all nodes: ip link set ${name} mtu ${size}`
}

type Verdict = 'well' | 'some lost' | 'large lost' | 'tunnel away' | 'node away'

/** Small packets that get through tell loss from a black hole; the underlay tells a blocked port from a node that is off. */
export function verdict({ large, small, underlay }: PeerProbe): Verdict {
  if (large.received === large.sent) return 'well'
  if (large.received > 0) return 'some lost'
  if (small !== undefined && small.received > 0) return 'large lost'
  return underlay !== undefined && underlay.received > 0 ? 'tunnel away' : 'node away'
}

function nameOf({ subnet, publicIP, large, largest }: PeerProbe): string {
  const loss = large.received > 0 ? ` ${Math.round(100 - (100 * large.received) / large.sent)} %` : ''
  const most = largest === undefined ? '' : ` takes ${largest} bytes`
  return `${formatSubnet(subnet)} (${formatIpv4(publicIP)})${loss}${most}`
}

function times(probes: readonly PeerProbe[]): string {
  const rtts = probes.flatMap(({ large, small }) => large.rtt ?? small?.rtt ?? []).sort((a, b) => a - b)
  const at = (share: number): string => (rtts[Math.floor(share * (rtts.length - 1))] ?? 0).toFixed(2)
  return `round trip ${at(0)}/${at(0.5)}/${at(1)} ms (least, median, most)`
}
