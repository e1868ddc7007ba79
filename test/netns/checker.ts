/**
 * Says how a node differs from what the leases call for, in words. It reads `ip` and `bridge` and shares no code with
 * the daemon, so that a misunderstanding in one does not hide in the other.
 *
 * For every lease of another node, with subnet S, its first address S0, public address P and MAC M:
 *
 *     ip route    S via S0 dev flannel.1 onlink        (or through a nexthop object: nhid N via S0 ...)
 *     ip neigh    S0 lladdr M PERMANENT
 *     bridge fdb  M dst P self permanent
 *
 * and nothing else on the device; the device itself a VXLAN with the node's address, and S0/32 of its own lease on it.
 */
import type { EtcdNode } from './etcd.ts'
import type { Namespace } from './namespace.ts'

/** What can be asked for its devices, addresses, routes, neighbours and FDB entries. */
export type Host = Pick<Namespace, 'ipJson' | 'bridgeJson'>

export interface Expected {
  readonly leases: readonly Pick<EtcdNode, 'key' | 'value'>[]
  /** The node's own lease, `a.b.c.d-len`. */
  readonly own: string
  /** The node's underlay address. */
  readonly local: string
  readonly vni?: number
  readonly port?: number
  readonly mtu?: number
}

interface LinkJson {
  readonly ifname: string
  readonly mtu: number
  readonly address: string
  readonly flags: readonly string[]
  readonly linkinfo?: {
    readonly info_kind?: string
    readonly info_data?: {
      readonly id?: number
      readonly local?: string
      readonly port?: number
      readonly learning?: boolean
      readonly l2miss?: boolean
      readonly l3miss?: boolean
    }
  }
  readonly addr_info?: readonly {
    readonly family: string
    readonly local: string
    readonly prefixlen: number
  }[]
}

interface RouteJson {
  readonly type?: string
  readonly dst: string
  readonly gateway?: string
  readonly dev?: string
  readonly protocol?: string
  readonly metric?: number
  readonly flags?: readonly string[]
}

interface NeighbourJson {
  readonly dst: string
  readonly lladdr?: string
  readonly state: readonly string[]
}

interface FdbJson {
  readonly mac: string
  readonly dst?: string
  readonly viaIf?: string
  readonly flags?: readonly string[]
  readonly state?: string
}

/** The differences, one line each, empty when the node is exactly right: `missing route: ...`, `stale fdb: ...`. */
export async function differences(node: Host, expected: Expected): Promise<readonly string[]> {
  const device = `flannel.${expected.vni ?? 1}`
  const links = await node.ipJson<LinkJson>('address show')
  const link = links.find(({ ifname }) => ifname === device)
  if (!link) return [`missing device: ${device}`]
  const want = wanted(expected)
  const [routes, neighbours, fdb] = await Promise.all([
    node.ipJson<RouteJson>(`-4 route show dev ${device}`),
    node.ipJson<NeighbourJson>(`-4 neigh show dev ${device}`),
    node.bridgeJson<FdbJson>(`fdb show dev ${device}`),
  ])
  return [
    ...deviceDifferences(link, expected),
    ...compare('route', want.routes, routes.map(routeText)),
    ...compare('neigh', want.neighbours, neighbours.map(neighbourText)),
    ...compare('fdb', want.fdb, fdb.map(fdbText)),
  ]
}

function wanted({ leases, own }: Expected): { routes: string[]; neighbours: string[]; fdb: string[] } {
  const routes: string[] = []
  const neighbours: string[] = []
  const fdb: string[] = []
  for (const { key, value } of leases) {
    const name = key.slice(key.lastIndexOf('/') + 1)
    if (name === own) continue
    const [first, length] = name.split('-')
    const lease = JSON.parse(value ?? '{}')
    const mac = String(lease.BackendData?.VtepMAC).toLowerCase()
    routes.push(`${first}/${length} via ${first} proto boot onlink`)
    neighbours.push(`${first} lladdr ${mac} PERMANENT`)
    fdb.push(`${mac} dst ${lease.PublicIP} self permanent`)
  }
  return { routes, neighbours, fdb }
}

function routeText({ type, dst, gateway, protocol, metric, flags = [] }: RouteJson): string {
  const kind = type === undefined || type === 'unicast' ? '' : `${type} `
  const destination = dst.includes('/') ? dst : `${dst}/32`
  const rest = [
    ...(metric === undefined ? [] : [`metric ${metric}`]),
    ...flags.filter((flag) => flag !== 'linkdown'),
  ]
  return [`${kind}${destination} via ${gateway} proto ${protocol ?? 'boot'}`, ...rest].join(' ')
}

function neighbourText({ dst, lladdr, state }: NeighbourJson): string {
  return `${dst} lladdr ${lladdr} ${state.join(',')}`
}

function fdbText({ mac, dst, viaIf, flags = [], state }: FdbJson): string {
  return [mac, 'dst', dst, ...(viaIf === undefined ? [] : ['via', viaIf]), ...flags, state].join(' ')
}

function deviceDifferences(link: LinkJson, expected: Expected): readonly string[] {
  const data = link.linkinfo?.info_data ?? {}
  const [own = '', length] = expected.own.split('-')
  const facts: readonly (readonly [string, unknown, unknown])[] = [
    ['kind', link.linkinfo?.info_kind, 'vxlan'],
    ['vni', data.id, expected.vni ?? 1],
    ['local', data.local, expected.local],
    ['port', data.port, expected.port ?? 8472],
    ['learning', data.learning ?? false, false],
    ['l2miss', data.l2miss ?? false, false],
    ['l3miss', data.l3miss ?? false, false],
    ['up', link.flags.includes('UP'), true],
    ['mtu', link.mtu, expected.mtu ?? 1450],
    ['addresses', ipv4Addresses(link).join(' '), `${own}/32`],
    ['VtepMAC in the lease', ownMac(expected, `${own}-${length}`), link.address],
  ]
  return facts
    .filter(([, found, right]) => found !== right)
    .map(([what, found, right]) => `device ${link.ifname}: ${what} is ${found}, should be ${right}`)
}

function ipv4Addresses(link: LinkJson): readonly string[] {
  const found = (link.addr_info ?? []).filter(({ family }) => family === 'inet')
  return found.map(({ local, prefixlen }) => `${local}/${prefixlen}`)
}

function ownMac({ leases }: Expected, own: string): unknown {
  const lease = leases.find(({ key }) => key.endsWith(`/${own}`))
  return JSON.parse(lease?.value ?? '{}').BackendData?.VtepMAC
}

/** Compares as multisets: an entry twice is a difference too. */
function compare(what: string, want: readonly string[], have: readonly string[]): readonly string[] {
  const pending = new Map<string, number>()
  for (const entry of want) pending.set(entry, (pending.get(entry) ?? 0) + 1)
  const stale: string[] = []
  for (const entry of have) {
    const left = pending.get(entry) ?? 0
    if (left > 0) pending.set(entry, left - 1)
    else stale.push(`stale ${what}: ${entry}`)
  }
  const missing = [...pending].filter(([, left]) => left > 0).map(([entry]) => `missing ${what}: ${entry}`)
  return [...missing, ...stale]
}
