import { formatIpv4, formatSubnet } from '../ip.ts'
import type { Facts } from './facts.ts'
import { type Finding, fault, ok, some } from './finding.ts'
import { groupBy } from './group.ts'
import type { PeerProbe } from './ping.ts'

/** What the pings say: which peers cannot be reached, and where on the way it fails. */
export function peerChecks(facts: Facts): Finding[] {
  const { probes } = facts
  if (typeof probes === 'string') {
    return [
      fault('peers', 'warn', {
        what: probes,
        why: 'whether packets reach the other nodes is not known',
        mend: 'run this as root, or with CAP_NET_RAW',
      }),
    ]
  }
  return probes.length === 0 ? [] : verdicts(probes, facts.etcd.vxlan?.port ?? 8472)
}

function verdicts(probes: readonly PeerProbe[], port: number): Finding[] {
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
  report('node away', 'fail', {
    what: `${count(of('node away'))}, not even on the underlay`,
    why: 'the node is off, or its address in the lease is not reachable from here',
    mend: 'start the node, or set its -public-ip; the lease of a node that is gone for good ends by itself',
  })
  report('tunnel away', 'fail', {
    what: `${count(of('tunnel away'))} through the tunnel, but the node does on the underlay`,
    why: `UDP port ${port} is blocked on the way there or back, or flanneld does not run there`,
    mend: `on both nodes: iptables -I INPUT -p udp --dport ${port} -j ACCEPT; a cloud's security group needs it too`,
  })
  report('large lost', 'fail', {
    what: `${of('large lost').length} of ${probes.length} peers get no packets of full size`,
    why: 'a link on the way has a smaller MTU than this interface: connections open and then hang',
    mend: 'raise the MTU of that link, or set "MTU" in the Backend of the network config to what it takes, and restart flanneld on all nodes',
  })
  report('some lost', 'warn', {
    what: `${of('some lost').length} of ${probes.length} peers lose some packets`,
    why: 'the network drops packets, or a machine is too busy',
    mend: 'look at the drops of the interfaces: ip -s link',
  })
  const answered = probes.length - of('node away').length - of('tunnel away').length
  if (answered > 0) {
    const words = `${answered} of ${probes.length} answer through the tunnel, ${times(probes)}`
    findings.push(ok('peers', words))
    if (of('large lost').length === 0)
      findings.push(ok('path MTU', 'full-size packets get to every peer that answers'))
  }
  return findings

  function count(found: readonly PeerProbe[]): string {
    return `${found.length} of ${probes.length} peers ${found.length === 1 ? 'does' : 'do'} not answer`
  }
}

type Verdict = 'well' | 'some lost' | 'large lost' | 'tunnel away' | 'node away'

/** Small packets that get through tell loss from a black hole; the underlay tells a blocked port from a node that is off. */
export function verdict({ large, small, underlay }: PeerProbe): Verdict {
  if (large.received === large.sent) return 'well'
  if (large.received > 0) return 'some lost'
  if (small !== undefined && small.received > 0) return 'large lost'
  return underlay !== undefined && underlay.received > 0 ? 'tunnel away' : 'node away'
}

function nameOf({ subnet, publicIP, large }: PeerProbe): string {
  const loss = large.received > 0 ? ` ${Math.round(100 - (100 * large.received) / large.sent)} %` : ''
  return `${formatSubnet(subnet)} (${formatIpv4(publicIP)})${loss}`
}

function times(probes: readonly PeerProbe[]): string {
  const rtts = probes.flatMap(({ large, small }) => large.rtt ?? small?.rtt ?? []).sort((a, b) => a - b)
  const at = (share: number): string => (rtts[Math.floor(share * (rtts.length - 1))] ?? 0).toFixed(2)
  return `round trip ${at(0)}/${at(0.5)}/${at(1)} ms (least, median, most)`
}
