import { type Facts, isInstalled } from './facts.ts'
import { type Finding, fault, ok } from './finding.ts'

/** What the kernel can do, and whether it forwards. */
export function kernelChecks(facts: Facts): Finding[] {
  return [...features(facts), ...forwarding(facts), ...reversePath(facts), ...bridgeNetfilter(facts)]
}

/** Kind of a device: how people call it. */
const NAMES: Readonly<Record<string, string>> = {
  vxlan: 'VXLAN',
  ipip: 'IPIP',
  wireguard: 'WireGuard',
  tun: 'TUN',
}

function features({ system }: Facts): Finding[] {
  const findings: Finding[] = []
  const { release, device } = system
  const name = NAMES[device?.kind ?? ''] ?? device?.kind
  if (device?.made === true) findings.push(ok('kernel', `Linux ${release} makes ${name} devices`))
  if (typeof device?.made === 'string') {
    findings.push(
      fault('kernel', 'fail', {
        what: `Linux ${release} makes no ${name} device: ${device.made}`,
        why: 'without one there is no tunnel to the other nodes',
        mend: `modprobe ${device.kind}, or install the package with the other modules of this kernel`,
      }),
    )
  }
  findings.push(
    system.nexthops
      ? ok('nexthop objects', 'the kernel has them')
      : ok('nexthop objects', 'the kernel has none (Linux 5.3 does): plain routes are used instead'),
  )
  return findings
}

function forwarding({ system }: Facts): Finding[] {
  const value = system.sysctl['ipv4/ip_forward']
  if (value === undefined) return []
  if (value !== '0') return [ok('ip_forward', 'this node forwards')]
  return [
    fault('ip_forward', 'fail', {
      what: 'net.ipv4.ip_forward is 0',
      why: 'the kernel drops every packet between pods and the tunnel',
      fix: ['sysctl', '-w', 'net.ipv4.ip_forward=1'],
    }),
  ]
}

/**
 * The kernel takes the larger of `all` and the device's own value (ip-sysctl.rst). Strict (1) drops what comes in by another way
 * than it would go out by, which direct routing and several interfaces make happen.
 */
function reversePath(facts: Facts): Finding[] {
  const { sysctl } = facts.system
  const all = Number(sysctl['ipv4/conf/all/rp_filter'] ?? 0)
  const { underlay, device } = facts.network
  const names = [typeof underlay === 'string' ? undefined : underlay.name, device?.name].filter(
    (name) => name !== undefined,
  )
  const strict = names.filter(
    (name) => Math.max(all, Number(sysctl[`ipv4/conf/${name}/rp_filter`] ?? 0)) === 1,
  )
  if (names.length === 0) return []
  if (strict.length === 0) return [ok('rp_filter', `not strict on ${names.join(' and ')}`)]
  return strict.map((name) =>
    fault('rp_filter', 'warn', {
      what: `rp_filter is strict (1) on ${name}`,
      why: 'packets that come in by another way than they would go out by are dropped without a word',
      // A slash, for the name has a dot in it (sysctl(8)).
      fix: ['sysctl', '-w', `net/ipv4/conf/${name}/rp_filter=2`],
    }),
  )
}

function bridgeNetfilter(facts: Facts): Finding[] {
  const bridges = facts.network.links.filter(
    ({ kind, name }) => kind === 'bridge' && /^(docker|cni)\d/.test(name),
  )
  if (bridges.length === 0 || !isInstalled(facts)) return []
  switch (facts.system.sysctl['bridge/bridge-nf-call-iptables']) {
    case undefined:
      return [
        fault('br_netfilter', 'warn', {
          what: `br_netfilter is not loaded, and there is a bridge ${bridges[0]?.name}`,
          why: 'service addresses do not work between two containers of this node',
          fix: ['modprobe', 'br_netfilter'],
        }),
      ]
    case '0':
      return [
        fault('br_netfilter', 'warn', {
          what: 'net.bridge.bridge-nf-call-iptables is 0',
          why: 'service addresses do not work between two containers of this node',
          fix: ['sysctl', '-w', 'net.bridge.bridge-nf-call-iptables=1'],
        }),
      ]
    default:
      return [ok('br_netfilter', 'bridged packets pass iptables')]
  }
}
