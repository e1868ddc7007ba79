/**
 * The routes to peers' subnets, and the nexthop objects that some of them go through.
 *
 *     few peers     10.1.2.0/24 via 192.0.2.2 dev eth0                    the line that flannel's users know
 *     many peers    10.1.2.0/24 nhid 4043309058 via 192.0.2.2 dev eth0    the same, by a nexthop object
 *
 * All of flannel's plain routes share one hash bucket in the kernel's fib_find_info, which makes them quadratic: 1,000
 * take 13 ms, 15,000 take 2.6 s; with nexthop objects 15,000 take 68 ms.
 *
 * Which routes of the main table are ours is decided here, once for all backends:
 * - those to a peer's exact subnet at metric 0, where a second route would shadow ours;
 * - those through a nexthop object with our id prefix;
 * - what the backend says in addition (`owns`): all on a device of its own, or those of a lease's shape.
 * The kernel's own routes (connected ones) are never ours; where one stands in a peer's place, the peer has to wait.
 */
import { contains, formatSubnet, type Ipv4, type Subnet, sameSubnet, smallKey, subnetKey } from '../ip.ts'
import type { Logger } from '../log.ts'
import type { Rtnl } from '../netlink/conn.ts'
import {
  RT_SCOPE_UNIVERSE,
  RT_TABLE_MAIN,
  RTN_UNICAST,
  RTPROT_BOOT,
  RTPROT_KERNEL,
} from '../netlink/constants.ts'
import { NetlinkError } from '../netlink/errors.ts'
import type { Notification } from '../netlink/monitor.ts'
import { deleteNexthop, dumpNexthops, type Nexthop, replaceNexthop } from '../netlink/nexthop.ts'
import { type Begin, passing } from '../netlink/request.ts'
import { deleteRoute, dumpRoutes, getRoute, type Route, replaceRoute } from '../netlink/route.ts'
import { DeltaTracker, type Row, stateOf } from './delta.ts'
import type { PeerStatus, Surprised } from './model.ts'
import { DIRECT_ID_PREFIX, isOurNexthopId, NEXTHOP_ID_PREFIX, nexthopIdOf } from './nexthopids.ts'
import { deletions, type May, type Operation, type Step, type TableKey, writes } from './operations.ts'
import { isOrdinary, type RouteKey, routeKey } from './routekeys.ts'
import { rowWrites, surplus } from './rows.ts'

/** Interface index of `lo` in every network namespace (LOOPBACK_IFINDEX of Linux). */
const LOOPBACK = 1

/** Plain routes up to here, nexthop objects beyond. */
export const PLAIN_ROUTES = 1024
/** How many go back to plain routes with each peer that leaves: all at once would have those that leave next wait 20 ms. */
const PLAIN_AGAIN = 4

const NEXTHOP_DUMP = dumpNexthops({})
const ROUTE_DUMP = dumpRoutes({ table: RT_TABLE_MAIN })
/** What `PeerRoutes.load` reads. */
export const ROUTE_DUMPS = [NEXTHOP_DUMP, ROUTE_DUMP] as const

/** How a peer's subnet is reached. */
export interface Path {
  readonly gateway: Ipv4
  /** Index of the device. */
  readonly oif: number
  /** The gateway is on the link though no route says so, as everything is on a tunnel. */
  readonly onlink: boolean
}

export interface PeerRoutesOptions {
  readonly rtnl: Rtnl
  readonly log: Logger
  readonly network: Subnet
  readonly subnetLen: number
  /** The device that paths leave by. 0 while there is none. */
  readonly device: () => { readonly index: number; readonly name: string }
  /** Index of the interface that paths leave by which need no tunnel, of a backend that has such beside its device. */
  readonly direct?: (() => number) | undefined
  /** Whether a route is ours for another reason than the two above. Not asked about the kernel's own. */
  readonly owns: (route: Route) => boolean
}

/** The kernel entries that lead to one peer's subnet. */
export interface RouteEntries {
  readonly route: Route
  readonly nexthop: (Nexthop & Path) | undefined
}

/** Pure: the route to a subnet as flannel writes it, or the same through a nexthop object. */
export function routeEntries(subnet: Subnet, path: Path, nexthopId: number | undefined): RouteEntries {
  const own = nexthopId === undefined
  const { gateway, oif, onlink } = path
  return {
    route: {
      destination: subnet,
      table: RT_TABLE_MAIN,
      protocol: RTPROT_BOOT,
      scope: RT_SCOPE_UNIVERSE,
      type: RTN_UNICAST,
      tos: 0,
      metric: 0,
      gateway: own ? gateway : undefined,
      nexthopId,
      oif: own ? oif : undefined,
      source: undefined,
      onlink: own && onlink,
      multipath: undefined,
      cloned: false,
    },
    nexthop: own ? undefined : { id: nexthopId, gateway, oif, onlink, protocol: RTPROT_BOOT },
  }
}

/** How the way to one peer's subnet stands. */
interface PeerRoute {
  readonly route: Row<RouteKey, Route>
  readonly nexthop: Row<number, Nexthop, Nexthop & Path> | undefined
  /** Entries of the backend's own that have to stand before the route is written. */
  readonly carriers: readonly Row<unknown, unknown>[]
}

const NONE: PeerRoute['carriers'] = []

export class PeerRoutes {
  readonly #options: PeerRoutesOptions
  readonly #supported: boolean
  readonly #peers = new Map<number, PeerRoute>()
  /** Of a route through a nexthop object the kernel tells what the object says; the key says the object's id, or implies it. */
  readonly #routes = new DeltaTracker<RouteKey, Route>(
    (a, b) => a.nexthopId !== undefined || a.onlink === b.onlink,
  )
  readonly #nexthops = new DeltaTracker<number, Nexthop, Nexthop & Path>(
    (a, b) => a.gateway === b.gateway && a.oif === b.oif && a.onlink === b.onlink,
  )
  /** Connected routes that stand where a lease's would, by subnet, and the device. */
  readonly #connected = new Map<number, number>()
  readonly #warned = new Set<number>()
  /** Somebody else's routes that stand where a peer's would once there is one, by subnet and key. */
  readonly #others = new Map<number, Map<string, Route>>()
  /** Nexthop objects of ours that are there already, by key, until the tables are read. */
  readonly #left = new Set<number>()
  /** How many peers there are, or soon will be while a snapshot is taken in. */
  #expected = 0
  #plain = 0

  constructor(options: PeerRoutesOptions) {
    this.#options = options
    this.#supported = supportsNexthops(options.rtnl)
  }

  /** Announces a snapshot of this many leases, so that the kinds of route are chosen for all and not for the first. */
  expect(count: number): void {
    this.#expected = count
  }

  /** The destination of the wanted route with this key. */
  destinationOf({ table, key }: TableKey): Subnet | undefined {
    return table === 'route' ? this.#routes.wanted(key)?.destination : undefined
  }

  /** A path in the place of the one that was wanted so far; the route to it waits for its carriers. */
  want(subnet: Subnet, path: Path, carriers: PeerRoute['carriers'] = NONE): void {
    this.unwant(subnet)
    const key = subnetKey(subnet)
    const others = this.#others.get(key)
    if (others !== undefined) for (const [other, route] of others) this.#routes.hold(other, route)
    this.#others.delete(key)
    const { route, nexthop } = this.#choose(subnet, path)
    if (nexthop === undefined) this.#plain++
    this.#peers.set(key, {
      route: this.#routes.want(this.#keyOf(route), route),
      nexthop: nexthop && this.#nexthops.want(smallKey(nexthop.id), nexthop),
      carriers,
    })
  }

  unwant(subnet: Subnet): void {
    const key = subnetKey(subnet)
    const peer = this.#peers.get(key)
    if (peer === undefined) return
    this.#peers.delete(key)
    if (peer.nexthop === undefined) this.#plain--
    else this.#nexthops.unwant(peer.nexthop.key)
    this.#routes.unwant(peer.route.key)
  }

  /** A peer has left for good. */
  left(): void {
    this.#expected = this.#peers.size
    this.#goPlain(PLAIN_AGAIN)
  }

  /** Looks which nexthop objects an earlier run has left, before routes are wanted. Throws NetlinkError. */
  peek(): void {
    if (!this.#supported) return
    this.#readNexthops(() => {
      this.#left.clear()
      return ({ id }) => this.#left.add(smallKey(id))
    })
  }

  /** Reads both tables whole and tells of the keys that were not as believed. Throws NetlinkError. */
  load(surprised: Surprised): void {
    if (this.#supported) {
      const nexthops = this.#nexthops.holdExactly(
        (begin) => this.#readNexthops(begin),
        ({ id }) => smallKey(id),
      )
      for (const key of nexthops) surprised({ table: 'nexthop', key })
      this.#left.clear()
    }
    const routes = this.#routes.holdExactly(
      (begin) => this.#readRoutes(begin),
      (route) => this.#keyOf(route),
    )
    for (const key of routes) surprised({ table: 'route', key })
    this.#goPlain(this.#peers.size)
  }

  /** Takes in what somebody else did; returns the keys that changed, undefined when the kernel did not say all of it. */
  observe(notification: Notification): TableKey[] | undefined {
    if (notification.kind === 'nexthop') {
      const { value, deleted } = notification
      if (!isOurNexthopId(value.id)) return []
      // It took the routes through it along, without a word about them.
      const key = smallKey(value.id)
      if (deleted && this.#nexthops.held(key) !== undefined) return undefined
      const gone = deleted || !this.#ownsNexthop(value)
      const news = gone ? this.#nexthops.lose(key) : this.#nexthops.hold(key, value)
      return news ? [{ table: 'nexthop', key }] : []
    }
    if (notification.kind !== 'route') return []
    const { value, deleted, replaced } = notification
    const changed: TableKey[] = []
    const peer = this.#peers.get(subnetKey(value.destination))
    const ours = this.#ownsRoute(value)
    const others = this.#others.get(subnetKey(value.destination))?.size ?? 0
    if (replaced) this.#others.delete(subnetKey(value.destination))
    if (!ours) this.#noteOther(value, deleted)
    if (this.#noteConnected(value, deleted) && peer !== undefined)
      changed.push({ table: 'route', key: peer.route.key })
    // What is replaced outside the network is nothing that we want, and need not be known to be gone.
    if (replaced && contains(this.#options.network, value.destination.address)) {
      // The kernel says what came, not what went: of several in a row it is the first, which we do not know.
      const row: RouteKey[] = []
      for (const [key, held] of this.#routes.heldEntries()) if (inOneRow(held, value)) row.push(key)
      if (row.length + others > 1) return undefined
      for (const key of row) if (this.#routes.lose(key)) changed.push({ table: 'route', key })
    }
    if (ours) {
      const key = this.#keyOf(value)
      const news = deleted ? this.#routes.lose(key) : this.#routes.hold(key, value)
      if (news) changed.push({ table: 'route', key })
    }
    return changed
  }

  /** All steps, for a backend that needs nothing below its routes. */
  *plan(may: May): Generator<Step> {
    yield [this.stale(may)]
    yield [this.nexthopWrites(may)]
    yield [this.writes(may)]
    yield [this.wrong(may)]
    yield [this.nexthopDeletions(may)]
  }

  /** Routes to nowhere, and all but one of those that stand in the way of one: they go first. */
  *stale(may: May): Generator<Operation> {
    const routes = this.#routes
    yield* deletions('route', routes, deleteRoute, may, ({ held }) => this.#peerOf(held) === undefined)
    yield* surplus(routes, may)
  }

  nexthopWrites(may: May): Iterable<Operation> {
    return writes('nexthop', this.#nexthops, (n) => replaceNexthop(n, this.#nameOf(n.oif)), may)
  }

  /** Routes whose nexthop object and carriers stand. */
  writes(may: May): Iterable<Operation> {
    return rowWrites(
      this.#routes,
      (route) => replaceRoute(route, this.#nameOf(route.oif)),
      may,
      ({ wanted }) => {
        const peer = this.#peerOf(wanted)
        if (peer === undefined || peer.nexthop?.differs === true) return false
        return !peer.carriers.some(({ differs }) => differs) && !this.#blocked(wanted.destination)
      },
    )
  }

  /** Wrong routes beside a right one. */
  wrong(may: May): Iterable<Operation> {
    return deletions('route', this.#routes, deleteRoute, may, ({ held }) => {
      const peer = this.#peerOf(held)
      return peer !== undefined && !peer.route.differs
    })
  }

  /** Nexthop objects that nothing uses any more. */
  nexthopDeletions(may: May): Iterable<Operation> {
    return deletions('nexthop', this.#nexthops, (n) => deleteNexthop(n.id), may)
  }

  /**
   * For one walk over all peers: tells how the route to a subnet stands. A wrong route in the place of a missing one has
   * another key, so their destinations are gathered first.
   */
  inspect(): (destination: Subnet) => Pick<PeerStatus, 'route' | 'entries'> | undefined {
    const wrong = new Set<number>()
    for (const { held } of this.#routes.extra()) wrong.add(subnetKey(held.destination))
    return (destination) => {
      const peer = this.#peers.get(subnetKey(destination))
      if (peer === undefined) return undefined
      const { route, nexthop } = peer
      const state = stateOf(route)
      const entries = { route: state === 'missing' && wrong.has(subnetKey(destination)) ? 'differs' : state }
      const isDirect = this.#isDirect((nexthop ?? route).wanted?.oif)
      if (nexthop === undefined) return { route: isDirect ? 'direct' : 'plain', entries }
      const both = { ...entries, nexthop: stateOf(nexthop) }
      return { route: isDirect ? 'direct' : 'nexthop', entries: both }
    }
  }

  counts() {
    return { nexthop: this.#nexthops.counts, route: this.#routes.counts }
  }

  /** Of a lease's shape, as flannel writes host-gw's, ipip's and direct routes. */
  hasLeaseShape(route: Route): boolean {
    const { network, subnetLen } = this.#options
    return isLeaseRoute(route, network, subnetLen)
  }

  /** Keeps the kind of route that the kernel holds already, so that a restart over a right kernel writes nothing. */
  #choose(subnet: Subnet, path: Path): RouteEntries {
    const prefix = this.#isDirect(path.oif) ? DIRECT_ID_PREFIX : NEXTHOP_ID_PREFIX
    const id = this.#supported ? this.#idOf(subnet, prefix) : undefined
    if (id !== undefined && (this.#plain >= PLAIN_ROUTES || !this.#few())) {
      const through = routeEntries(subnet, path, id)
      const key = smallKey(id)
      if (this.#plain >= PLAIN_ROUTES || this.#nexthops.held(key) !== undefined || this.#left.has(key))
        return through
    }
    return routeEntries(subnet, path, undefined)
  }

  #readNexthops(begin: Begin<Nexthop>): void {
    const ours = (nexthop: Nexthop): boolean => this.#ownsNexthop(nexthop)
    this.#options.rtnl.each(NEXTHOP_DUMP, () => passing(ours, begin()))
  }

  #readRoutes(begin: Begin<Route>): void {
    this.#options.rtnl.each(ROUTE_DUMP, () => {
      this.#connected.clear()
      this.#others.clear()
      const take = begin()
      return (route) => {
        if (this.#ownsRoute(route)) take(route)
        else if (!this.#noteConnected(route, false)) this.#noteOther(route, false)
      }
    })
  }

  #idOf(subnet: Subnet, prefix: number): number | undefined {
    const { network, subnetLen } = this.#options
    return nexthopIdOf(subnet, network, subnetLen, prefix)
  }

  /** Of the thousands that are as we write them through the object of their own subnet, the subnet alone says all. */
  #keyOf(route: Route): RouteKey {
    const { nexthopId, destination } = route
    if (nexthopId === undefined || !isOrdinary(route)) return routeKey(route)
    return nexthopId === this.#idOf(destination, NEXTHOP_ID_PREFIX) ? subnetKey(destination) : routeKey(route)
  }

  #peerOf({ destination }: Route): PeerRoute | undefined {
    return this.#peers.get(subnetKey(destination))
  }

  /** Few enough peers are left for plain routes: that many more of them get one. */
  #goPlain(count: number): void {
    if (this.#peers.size === this.#plain || !this.#few()) return
    let left = count
    for (const { route, nexthop, carriers } of this.#peers.values()) {
      if (left === 0) return
      if (nexthop?.wanted === undefined || route.wanted === undefined) continue
      this.want(route.wanted.destination, nexthop.wanted, carriers)
      left--
    }
  }

  /** Far enough below the limit that going back to plain routes will not soon be undone. */
  #few(): boolean {
    return Math.max(this.#peers.size, this.#expected) < PLAIN_ROUTES * 0.75
  }

  #isDirect(oif: number | undefined): boolean {
    return oif !== undefined && oif !== this.#options.device().index
  }

  #nameOf(oif: number | undefined): string {
    return this.#isDirect(oif) ? `interface ${oif}` : this.#options.device().name
  }

  #ownsNexthop({ id, oif }: Nexthop): boolean {
    const { device, direct } = this.#options
    return isOurNexthopId(id) && (oif === device().index || oif === direct?.())
  }

  #ownsRoute(route: Route): boolean {
    if (route.table !== RT_TABLE_MAIN || route.protocol === RTPROT_KERNEL) return false
    if (route.nexthopId !== undefined && isOurNexthopId(route.nexthopId)) return true
    if (route.metric === 0 && route.tos === 0 && this.#peerOf(route) !== undefined) return true
    return this.#options.owns(route)
  }

  /** Remembers somebody else's route that could be in a peer's way. */
  #noteOther(route: Route, deleted: boolean): void {
    const { table, protocol, metric, tos, destination } = route
    if (table !== RT_TABLE_MAIN || protocol === RTPROT_KERNEL || metric !== 0 || tos !== 0) return
    if (!contains(this.#options.network, destination.address)) return
    const key = subnetKey(destination)
    const row = this.#others.get(key) ?? new Map<string, Route>()
    this.#others.set(key, row)
    if (deleted) row.delete(routeKey(route))
    else row.set(routeKey(route), route)
  }

  /** Remembers a connected route of a lease's size; returns whether it is one. */
  #noteConnected({ table, protocol, metric, tos, oif, destination }: Route, deleted: boolean): boolean {
    const { network } = this.#options
    if (table !== RT_TABLE_MAIN || protocol !== RTPROT_KERNEL || metric !== 0 || tos !== 0) return false
    if (!contains(network, destination.address) || destination.length <= network.length) return false
    if (deleted) this.#connected.delete(subnetKey(destination))
    else this.#connected.set(subnetKey(destination), oif ?? 0)
    return true
  }

  /** A route would take the place of this machine's own, such as that to a docker bridge with an earlier subnet. */
  #blocked(destination: Subnet): boolean {
    const key = subnetKey(destination)
    const index = this.#connected.get(key)
    if (index === undefined) {
      this.#warned.delete(key)
      return false
    }
    if (!this.#warned.has(key)) {
      this.#options.log.warn(
        `${formatSubnet(destination)} is leased by another node, but interface ${index} of this machine stands in it: ` +
          'leaving its route alone; give that interface (docker0?) an address of FLANNEL_SUBNET, or remove it',
      )
    }
    this.#warned.add(key)
    return true
  }
}

function inOneRow(a: Route, b: Route): boolean {
  return a.metric === b.metric && a.tos === b.tos && sameSubnet(a.destination, b.destination)
}

/** A route as flannel writes it for a lease: through a gateway, to a subnet of SubnetLen inside the network. */
export function isLeaseRoute(route: Route, network: Subnet, subnetLen: number): boolean {
  return (
    route.protocol === RTPROT_BOOT &&
    route.type === RTN_UNICAST &&
    route.gateway !== undefined &&
    route.metric === 0 &&
    route.tos === 0 &&
    route.destination.length === subnetLen &&
    contains(network, route.destination.address)
  )
}

/** Whether the kernel reaches an address by this interface without a router between. False when it can't tell. */
export function isOnLink(rtnl: Rtnl, index: number, address: Ipv4): boolean {
  try {
    const route = rtnl.get(getRoute(address))
    return route.gateway === undefined && route.oif === index
  } catch (error) {
    if (!(error instanceof NetlinkError)) throw error
    return false
  }
}

/** Nexthop objects came with Linux 5.3. Those on the loopback device are asked for: there are none to read. */
function supportsNexthops(rtnl: Rtnl): boolean {
  try {
    rtnl.dump(dumpNexthops({ oif: LOOPBACK }))
    return true
  } catch (error) {
    if (error instanceof NetlinkError) return false
    throw error
  }
}
