import { vtepMac } from '../backend/vxlan/vtep.ts'
import { contains, formatIpv4, formatSubnet, overlaps, parseCidr, sameSubnet, subnetOf } from '../ip.ts'
import type { Lease } from '../subnet/lease.ts'
import { leaseKey } from '../subnet/leasecodec.ts'
import { type Facts, ownLease } from './facts.ts'
import { type Finding, fault, ok, some } from './finding.ts'
import { groupBy } from './group.ts'

/** What etcd holds, and whether this node and its routes go with it. */
export function leaseChecks(facts: Facts): Finding[] {
  const { etcd } = facts
  if (etcd.error !== undefined) {
    return [
      fault('etcd', 'fail', {
        what: etcd.error,
        why: away(facts),
        mend: 'start etcd, or name it with -etcd-endpoints; -etcd-cafile, -etcd-certfile and -etcd-keyfile for TLS',
      }),
      ...subnetFileCheck(facts),
    ]
  }
  return [
    ...config(facts),
    ...duplicates(facts),
    ...badLeases(facts),
    ...own(facts),
    ...subnetFileCheck(facts),
    ...overlappingRoutes(facts),
  ]
}

/** What it means to be without etcd: a running node goes on. */
function away({ daemon }: Facts): string {
  if (typeof daemon === 'string' || daemon.lease === null) return 'flanneld gets no config and no leases'
  const { secondsLeft } = daemon.lease
  const end = secondsLeft === null ? 'has no end' : `lasts ${Math.floor(secondsLeft / 360) / 10} h more`
  return `what there is stays as it is, and the lease of this node ${end}; changes of other nodes are not seen`
}

function config({ etcd, daemon }: Facts): Finding[] {
  if (etcd.configError !== undefined) {
    return [
      fault('network config', 'fail', {
        what: etcd.configError,
        why:
          typeof daemon === 'string' || daemon.network === null
            ? 'flanneld waits until there is a config that it can use'
            : 'flanneld goes on with the one that it started with; its next start would wait',
        mend: `curl -X PUT ${etcd.endpoint}/v2/keys${etcd.prefix}/config -d value='{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}'`,
      }),
    ]
  }
  if (etcd.config === undefined) return []
  const { network, subnetLen, backendType } = etcd.config
  const used = typeof daemon === 'string' ? null : daemon.network
  const differs =
    used !== null &&
    (used.cidr !== formatSubnet(network) || used.subnetLen !== subnetLen || used.backend !== backendType)
  if (differs) {
    return [
      fault('network config', 'warn', {
        what: `it says ${formatSubnet(network)}, a /${subnetLen} each, ${backendType}; flanneld runs with ${used.cidr}, a /${used.subnetLen} each, ${used.backend}`,
        why: 'nodes that start from now on do not reach those that run',
        mend: 'restart flanneld on every node, one after another; or write the old config again',
      }),
    ]
  }
  return [ok('network config', `${formatSubnet(network)}, a /${subnetLen} each, ${backendType}`)]
}

function duplicates({ etcd }: Facts): Finding[] {
  const leases = etcd.leases ?? []
  const findings: Finding[] = []
  const report = (what: string, why: string, pair: readonly Lease[]): void => {
    const paths = pair.map(({ subnet }) => `${etcd.prefix}/subnets/${leaseKey(subnet)}`)
    findings.push(
      fault('duplicates in etcd', 'fail', {
        what: `${what}: ${some(pair.map(name))}`,
        why,
        mend: `stop flanneld on the node that should not have it, then remove its lease: curl -X DELETE ${etcd.endpoint}/v2/keys${paths.at(-1)}`,
      }),
    )
  }
  for (const pair of groups(leases, ({ attributes }) => formatIpv4(attributes.publicIP)))
    report(
      `${pair.length} leases have public IP ${formatIpv4(pair[0]?.attributes.publicIP ?? 0)}`,
      'packets for all of these subnets go to one node, which has only one of them',
      pair,
    )
  for (const pair of groups(leases, ({ attributes }) => vtepMac(attributes.backendData)))
    report(
      `${pair.length} leases have VTEP MAC ${vtepMac(pair[0]?.attributes.backendData)}`,
      "a MAC has one place in the kernel's table: packets for one node go to the other (cloned machines?)",
      pair,
    )
  for (const pair of groups(leases, publicKeyOf))
    report(
      `${pair.length} leases have one WireGuard key`,
      'a key has one place in the kernel: packets for one node go to the other (cloned machines?)',
      pair,
    )
  const sorted = leases.toSorted(
    (a, b) => a.subnet.address - b.subnet.address || a.subnet.length - b.subnet.length,
  )
  for (let i = 1; i < sorted.length; i++) {
    const pair = sorted.slice(i - 1, i + 1)
    const [a, b] = pair
    if (a !== undefined && b !== undefined && overlaps(a.subnet, b.subnet))
      report('two leases overlap', 'part of one node’s pods gets the other’s packets', pair)
  }
  if (findings.length > 0) return findings
  return etcd.leases === undefined ? [] : [ok('duplicates in etcd', `none among ${leases.length} leases`)]
}

/** Of a lease of the wireguard backend. */
function publicKeyOf({ attributes: { backendData } }: Lease): string | undefined {
  if (typeof backendData !== 'object' || backendData === null || !('PublicKey' in backendData))
    return undefined
  return typeof backendData.PublicKey === 'string' ? backendData.PublicKey : undefined
}

/** Those with a key that another one has too. */
function groups(leases: readonly Lease[], key: (lease: Lease) => string | undefined): Lease[][] {
  const by = groupBy(leases, key)
  by.delete(undefined)
  return [...by.values()].filter((group) => group.length > 1)
}

function name({ subnet, attributes }: Lease): string {
  return `${formatSubnet(subnet)} of ${formatIpv4(attributes.publicIP)}`
}

function badLeases({ etcd }: Facts): Finding[] {
  if (etcd.bad.length === 0) return []
  const [first] = etcd.bad
  return [
    fault('leases', 'warn', {
      what: `${etcd.bad.length} keys under subnets are no leases that can be used: ${some(
        etcd.bad.map(({ key, reason }) => `${key}: ${reason}`),
        2,
      )}`,
      why: 'they are skipped; if one is of a node, its pods cannot be reached',
      mend: `restart flanneld on that node, or remove the key: curl -X DELETE ${etcd.endpoint}/v2/keys${etcd.prefix}/subnets/${first?.key.split('/').at(-1)}`,
    }),
  ]
}

/** Half an hour before the end: unless -subnet-lease-renew-margin is less, the daemon should have renewed it half an hour ago. */
const SHORT_SECONDS = 1800

function own(facts: Facts): Finding[] {
  const lease = ownLease(facts)
  const { daemon, etcd } = facts
  const running = typeof daemon !== 'string'
  if (etcd.leases === undefined) return []
  if (lease === undefined) {
    if (!running || daemon.daemon.phase !== 'running') return []
    return [
      fault('own lease', 'fail', {
        what: 'flanneld runs, but etcd has no lease with the public IP of this node',
        why: 'no other node sends anything to the pods of this one',
        mend: 'systemctl restart flanneld; when it is to run with -public-ip, give that to doctor too',
      }),
    ]
  }
  if (lease.ttl !== undefined && lease.ttl < SHORT_SECONDS) {
    return [
      fault('own lease', 'warn', {
        what: `the lease of ${formatSubnet(lease.subnet)} ends in ${lease.ttl} s`,
        why: 'another node may then get this subnet, while containers here still use it',
        mend: running ? 'look for "renew" in the log: journalctl -u flanneld' : 'systemctl start flanneld',
      }),
    ]
  }
  const left = lease.ttl === undefined ? 'which never expires' : `${Math.round(lease.ttl / 360) / 10} h left`
  return [ok('own lease', `${formatSubnet(lease.subnet)}, ${left}`)]
}

/** subnet.env against lease and config: flanneld asks for the subnet in it again, and Docker may still be using it. */
function subnetFileCheck(facts: Facts): Finding[] {
  const { subnetFile: file, options, etcd } = facts
  const path = options.subnetFile
  if (file === undefined) return []
  const problem = (what: string): Finding =>
    fault('subnet file', 'warn', {
      what: `${path}: ${what}`,
      why: 'Docker and CNI plugins give out the addresses that stand there',
      mend: 'systemctl restart flanneld, then docker',
    })
  if (typeof file === 'string') return [problem(file)]
  const text = file.get('FLANNEL_SUBNET') ?? ''
  const cidr = parseCidr(text)
  if (cidr === undefined) return [problem(`FLANNEL_SUBNET=${text} is no subnet`)]
  const subnet = subnetOf(cidr.address, cidr.length)
  if (etcd.config !== undefined && !contains(etcd.config.network, subnet.address))
    return [problem(`${formatSubnet(subnet)} is not in the network ${formatSubnet(etcd.config.network)}`)]
  const lease = ownLease(facts)
  if (lease !== undefined && !sameSubnet(lease.subnet, subnet))
    return [problem(`it says ${formatSubnet(subnet)}, the lease is ${formatSubnet(lease.subnet)}`)]
  const holder = etcd.leases?.find((each) => sameSubnet(each.subnet, subnet))
  if (lease === undefined && holder !== undefined && typeof facts.network.underlay !== 'string')
    return [
      problem(`its ${formatSubnet(subnet)} is now the lease of ${formatIpv4(holder.attributes.publicIP)}`),
    ]
  return [ok('subnet file', `${path} says ${formatSubnet(subnet)}`)]
}

/** Kernel constants of rtnetlink(7): RTN_UNICAST. */
const UNICAST = 1

function overlappingRoutes(facts: Facts): Finding[] {
  const { etcd, network } = facts
  if (etcd.config === undefined) return []
  const overlay = etcd.config.network
  const mine = ownLease(facts)?.subnet
  const link = (oif: number | undefined): string =>
    network.links.find(({ index }) => index === oif)?.name ?? '?'
  const strange = network.routes.filter(({ destination, oif, type, gateway }) => {
    if (destination.length === 0 || type !== UNICAST || !overlaps(destination, overlay)) return false
    // Each backend has a device of its own: flannel.1, flannel0, flannel.ipip, flannel-wg.
    if (/^flannel/.test(link(oif))) return false
    // This node's pods, and peers that are reached directly.
    if (mine !== undefined && contains(mine, destination.address) && destination.length >= mine.length)
      return false
    return !etcd.leases?.some(
      ({ subnet, attributes }) => sameSubnet(subnet, destination) && attributes.publicIP === gateway,
    )
  })
  if (strange.length === 0) return [ok('overlapping routes', `none in ${formatSubnet(overlay)}`)]
  const words = strange.map(({ destination, oif }) => `${formatSubnet(destination)} dev ${link(oif)}`)
  const [first] = strange
  return [
    fault('overlapping routes', 'fail', {
      what: `the network ${formatSubnet(overlay)} overlaps with ${some(words)}`,
      why: 'packets for pods go there, or packets for that network go into the tunnel',
      mend: `ip route del ${formatSubnet(first?.destination ?? overlay)} dev ${link(first?.oif)}, if nothing needs it; else choose another Network`,
    }),
  ]
}
