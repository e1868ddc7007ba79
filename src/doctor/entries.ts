/**
 * Kernel tables against the leases in etcd: a compare of its own, that shares nothing with the daemon's. What the daemon believes
 * does not come into it, but for WireGuard's peers.
 */

import { UnusableLease } from '../backend/model.ts'
import { vtepOf } from '../backend/vxlan/vtep.ts'
import { formatIpv4, formatSubnet, sameSubnet } from '../ip.ts'
import { NUD_PERMANENT } from '../netlink/constants.ts'
import type { Lease } from '../subnet/lease.ts'
import { type Facts, isInstalled, othersOf, ownLease, peersOf } from './facts.ts'
import { type Finding, fault, ok, some } from './finding.ts'
import { groupBy } from './group.ts'
import { isPeer, type Tunnel } from './tunnel.ts'

export function entryChecks(facts: Facts): Finding[] {
  const { tunnel, network, etcd, daemon } = facts
  if (tunnel === undefined || etcd.leases === undefined) return []
  // Which lease is this node's own would be a guess.
  if (typeof network.underlay === 'string' && ownLease(facts) === undefined) return []
  const strangers = otherBackends(facts, tunnel)
  if (tunnel.device !== undefined && network.device === undefined) return strangers
  const peers = tunnel.vxlan === undefined ? peersOf(facts) : peersOf(facts).filter(isUsable)
  const mend =
    typeof daemon === 'string'
      ? 'systemctl start flanneld'
      : 'see what the kernel refuses: flanneld status; then: systemctl restart flanneld'
  const name = network.device?.name ?? 'the kernel'
  const compared = tablesOf(facts, tunnel, peers).map(({ check, found, why }) => {
    if (found.length === 0) return ok(check, `${name} has what ${peers.length} peers need`)
    const stale = found.every((line) => line.includes('has no lease'))
    return fault(check, stale ? 'warn' : 'fail', { what: `${found.length} amiss: ${some(found)}`, why, mend })
  })
  return [...strangers, ...compared]
}

interface Compared {
  readonly check: string
  readonly found: readonly string[]
  readonly why: string
}

function tablesOf(facts: Facts, tunnel: Tunnel, peers: readonly Lease[]): Compared[] {
  const why = 'packets for these pods go elsewhere or nowhere'
  switch (tunnel.routes) {
    case 'onlink':
      return [
        { check: 'routes', found: routes(facts, peers), why },
        {
          check: 'ARP entries',
          found: neighbours(facts, peers),
          why: 'packets for these nodes have no inner MAC',
        },
        {
          check: 'FDB entries',
          found: fdb(facts, peers),
          why: 'packets for these nodes are not wrapped, or sent elsewhere',
        },
      ]
    case 'gateway':
      // A node that has not been started here yet has no routes, and nobody to miss them.
      return !isInstalled(facts) ? [] : [{ check: 'routes', found: routes(facts, peers), why }]
    case 'network':
      return [
        { check: 'routes', found: networkRoute(facts), why },
        ...(facts.unsound === undefined || tunnel.backend !== 'wireguard'
          ? []
          : [
              {
                check: 'WireGuard peers',
                found: facts.unsound.map(({ subnet, publicIP }) => `${subnet} (${publicIP})`),
                why: 'packets for these nodes are not encrypted, or not taken',
              },
            ]),
      ]
    default:
      return []
  }
}

/** Leases of nodes that run another backend, which this one skips. */
function otherBackends(facts: Facts, tunnel: Tunnel): Finding[] {
  const strangers = othersOf(facts).filter((lease) => !isPeer(tunnel, lease))
  if (strangers.length === 0) return []
  const names = strangers.map(
    ({ subnet, attributes: { publicIP, backendType } }) =>
      `${formatSubnet(subnet)} of ${formatIpv4(publicIP)} (${backendType || 'no type'})`,
  )
  return [
    fault('backends', 'warn', {
      what: `${strangers.length} leases are not of ${tunnel.backend}: ${some(names)}`,
      why: 'these nodes and this one do not reach each other',
      mend: 'restart flanneld on them, so that they take the backend of the network config',
    }),
  ]
}

function isUsable(lease: Lease): boolean {
  try {
    vtepOf(lease)
    return true
  } catch (error) {
    if (error instanceof UnusableLease) return false
    throw error
  }
}

/** Peers that have a plain route on the underlay instead of the tunnel, as DirectRouting makes them. */
function direct(facts: Facts, { subnet, attributes }: Lease): boolean {
  const { routes, underlay } = facts.network
  return (
    facts.tunnel?.directRouting === true &&
    typeof underlay !== 'string' &&
    routes.some(
      ({ destination, gateway, oif }) =>
        sameSubnet(destination, subnet) && gateway === attributes.publicIP && oif === underlay.index,
    )
  )
}

/** One to each peer: through the tunnel's far end, or the peer itself. */
function routes(facts: Facts, peers: readonly Lease[]): string[] {
  const { network, tunnel } = facts
  const { underlay } = network
  const device = network.device?.index ?? (typeof underlay === 'string' ? undefined : underlay.index)
  const key = formatSubnet
  const bySubnet = groupBy(network.routes, ({ destination }) => key(destination))
  const missing = peers.flatMap((lease) => {
    const { subnet, attributes } = lease
    const through = tunnel?.routes === 'onlink' ? subnet.address : attributes.publicIP
    const there = bySubnet.get(key(subnet)) ?? []
    if (there.some(({ oif, gateway }) => oif === device && gateway === through) || direct(facts, lease))
      return []
    return [`${key(subnet)} ${there.length > 0 ? 'goes elsewhere' : 'is missing'}`]
  })
  const known = new Set(peers.map(({ subnet }) => key(subnet)))
  const own = ownLease(facts)
  const stale = network.routes.filter(
    ({ oif, destination }) =>
      oif === network.device?.index &&
      !known.has(key(destination)) &&
      !(own !== undefined && sameSubnet(own.subnet, destination)),
  )
  return [...missing, ...stale.map(({ destination }) => `${key(destination)} has no lease`)]
}

/** One for all peers: the whole network leads into the device. */
function networkRoute({ network, etcd }: Facts): string[] {
  const wanted = etcd.config?.network
  if (wanted === undefined) return []
  const there = network.routes.filter(({ destination }) => sameSubnet(destination, wanted))
  if (there.some(({ oif }) => oif === network.device?.index)) return []
  return [`${formatSubnet(wanted)} ${there.length > 0 ? 'goes elsewhere' : 'is missing'}`]
}

function neighbours(facts: Facts, peers: readonly Lease[]): string[] {
  const there = new Map(facts.network.neighbours.map((entry) => [entry.address, entry]))
  const wrong = peers.flatMap((lease) => {
    if (direct(facts, lease)) return []
    const { mac, subnet } = vtepOf(lease)
    const entry = there.get(subnet.address)
    const words = `${formatIpv4(subnet.address)} -> ${mac}`
    if (entry === undefined) return [`${words} is missing`]
    if (entry.mac !== mac) return [`${words} is ${entry.mac ?? 'unresolved'}`]
    return (entry.state & NUD_PERMANENT) === 0 ? [`${words} is not permanent`] : []
  })
  const known = new Set(peers.map(({ subnet }) => subnet.address))
  const stale = facts.network.neighbours.flatMap(({ address, state }) =>
    typeof address === 'number' && (state & NUD_PERMANENT) !== 0 && !known.has(address)
      ? [`${formatIpv4(address)} has no lease`]
      : [],
  )
  return [...wrong, ...stale]
}

function fdb(facts: Facts, peers: readonly Lease[]): string[] {
  const there = groupBy(facts.network.fdb, ({ mac }) => mac)
  const vteps = peers.map((lease) => ({ ...vtepOf(lease), direct: direct(facts, lease) }))
  const wrong = vteps.flatMap((vtep) => {
    if (vtep.direct) return []
    const entries = there.get(vtep.mac) ?? []
    const words = `${vtep.mac} dst ${formatIpv4(vtep.underlay)}`
    if (entries.length === 0) return [`${words} is missing`]
    const others = entries.filter(({ destination }) => destination !== vtep.underlay)
    const to = some(
      others.map(({ destination }) => (destination === undefined ? 'nowhere' : formatIpv4(destination))),
    )
    return others.length > 0 ? [`${words} goes to ${to}`] : []
  })
  const known = new Set<string>(vteps.map(({ mac }) => mac))
  const stale = [...there.keys()].filter((mac) => !known.has(mac))
  return [...wrong, ...stale.map((mac) => `${mac} has no lease`)]
}
