import { contains, type Ipv4, type MacAddress, type Subnet, sameSubnet } from '../../ip.ts'
import type { Rtnl } from '../../netlink/conn.ts'
import {
  NUD_NOARP,
  NUD_PERMANENT,
  RT_TABLE_MAIN,
  RTN_UNICAST,
  RTPROT_BOOT,
  RTPROT_KERNEL,
} from '../../netlink/constants.ts'
import { dumpFdb, type FdbEntry } from '../../netlink/fdb.ts'
import type { Notification } from '../../netlink/monitor.ts'
import { dumpNeighbours, type Neighbour } from '../../netlink/neighbour.ts'
import { dumpNexthops, type Nexthop } from '../../netlink/nexthop.ts'
import { dumpRoutes, type Route } from '../../netlink/route.ts'
import { DeltaTracker } from '../delta.ts'
import type { TableKey, TableName } from '../operations.ts'
import { isOurNexthopId, type Links, type WantedFdbEntry, type WantedNeighbour } from './desired.ts'

export interface TablesOptions {
  readonly network: Subnet
  readonly subnetLen: number
  readonly directRouting: boolean
  /** Whether a peer's route to this destination is wanted; such a destination in the main table is ours. */
  readonly wantsRouteTo: (destination: Subnet) => boolean
}

/**
 * The kernel's four tables of one VXLAN network, each as a DeltaTracker that holds only what is ours:
 * - neighbours and FDB entries: all on `flannel.<VNI>` that are permanent, since the device is ours alone;
 * - nexthop objects: those with our id prefix that leave by the device;
 * - routes: all in the main table that leave by the device; those to a peer's exact subnet at metric 0, where a
 *   second route would shadow ours; and, with DirectRouting, lease-shaped ones inside the network through the
 *   parent, as flannel makes them. Routes of the kernel itself (connected ones) are never ours.
 */
export class Tables {
  readonly neighbours = new DeltaTracker<Ipv4, Neighbour, WantedNeighbour>(
    (a, b) => a.mac === b.mac && a.state === b.state,
  )
  readonly fdb = new DeltaTracker<string, FdbEntry, WantedFdbEntry>((a, b) => a.state === b.state)
  readonly nexthops = new DeltaTracker<number, Nexthop>(
    (a, b) => a.gateway === b.gateway && a.oif === b.oif && a.onlink === b.onlink,
  )
  /** Of a route through a nexthop object the kernel tells what the object says; the key has the object's id. */
  readonly routes = new DeltaTracker<string, Route>(
    (a, b) => a.nexthopId !== undefined || a.onlink === b.onlink,
  )
  readonly #options: TablesOptions

  constructor(options: TablesOptions) {
    this.#options = options
  }

  /** Reads all four tables whole and returns the keys that were not as believed. Throws NetlinkError. */
  load(rtnl: Rtnl, links: Links, nexthops: boolean): TableKey[] {
    const surprising: TableKey[] = []
    const note = (table: TableName, keys: readonly (number | string)[]): void => {
      for (const key of keys) surprising.push({ table, key })
    }
    const neighbours = rtnl.dump(dumpNeighbours({ family: 4, index: links.device }))
    note(
      'neighbour',
      this.neighbours.holdExactly(this.#ours(neighbours, neighbourKey, (n) => this.#ownsNeighbour(n, links))),
    )
    const fdb = rtnl.dump(dumpFdb({ index: links.device }))
    note('fdb', this.fdb.holdExactly(this.#ours(fdb, fdbKey, (f) => this.#ownsFdbEntry(f, links))))
    if (nexthops) {
      const objects = rtnl.dump(dumpNexthops({ oif: links.device }))
      note(
        'nexthop',
        this.nexthops.holdExactly(
          this.#ours(
            objects,
            (n) => n.id,
            (n) => ownsNexthop(n, links),
          ),
        ),
      )
    }
    const routes = rtnl.dump(dumpRoutes({ table: RT_TABLE_MAIN }))
    note('route', this.routes.holdExactly(this.#ours(routes, routeKey, (r) => this.#ownsRoute(r, links))))
    return surprising
  }

  /** The device is gone, and with it every entry on it. */
  loseAll(): void {
    this.neighbours.holdExactly([])
    this.fdb.holdExactly([])
    this.nexthops.holdExactly([])
    this.routes.holdExactly([])
  }

  /** Takes in what somebody else did. Returns the keys that changed; undefined when the kernel did not say all of it. */
  observe(notification: Notification, links: Links): TableKey[] | undefined {
    const { deleted } = notification
    switch (notification.kind) {
      case 'neighbour': {
        const { value } = notification
        const key = neighbourKey(value)
        if (typeof value.address !== 'number' || value.index !== links.device) return []
        const gone = deleted || !this.#ownsNeighbour(value, links)
        return this.#take('neighbour', this.neighbours, key, gone ? undefined : value)
      }
      case 'fdb': {
        const { value } = notification
        if (!this.#ownsFdbEntry(value, links)) return []
        const key = fdbKey(value)
        const changed: TableKey[] = []
        if (!deleted && this.fdb.wanted(key) === undefined && !isGroup(value.mac)) {
          // A unicast MAC has one destination, so that another one took the place of what was there.
          for (const [other, held] of this.fdb.heldEntries()) {
            if (held.mac === value.mac && other !== key) {
              changed.push(...this.#take('fdb', this.fdb, other, undefined))
            }
          }
        }
        return [...changed, ...this.#take('fdb', this.fdb, key, deleted ? undefined : value)]
      }
      case 'nexthop': {
        const { value } = notification
        if (!isOurNexthopId(value.id)) return []
        // It took the routes through it along, without a word about them.
        if (deleted && this.nexthops.held(value.id) !== undefined) return undefined
        const gone = deleted || !ownsNexthop(value, links)
        return this.#take('nexthop', this.nexthops, value.id, gone ? undefined : value)
      }
      case 'route': {
        const { value } = notification
        const changed: TableKey[] = []
        // What is replaced outside the network is nothing that we want, and need not be known to be gone.
        if (notification.replaced && contains(this.#options.network, value.destination.address)) {
          // The kernel says what came, not what went: of several in a row it is the first, which we do not know.
          const row: string[] = []
          for (const [key, { destination, metric, tos }] of this.routes.heldEntries()) {
            if (metric === value.metric && tos === value.tos && sameSubnet(destination, value.destination))
              row.push(key)
          }
          if (row.length > 1) return undefined
          for (const key of row) changed.push(...this.#take('route', this.routes, key, undefined))
        }
        if (this.#ownsRoute(value, links)) {
          changed.push(...this.#take('route', this.routes, routeKey(value), deleted ? undefined : value))
        }
        return changed
      }
      default:
        return []
    }
  }

  #take<K extends number | string, E, W extends E>(
    table: TableName,
    tracker: DeltaTracker<K, E, W>,
    key: K,
    entry: E | undefined,
  ): TableKey[] {
    const news = entry === undefined ? tracker.lose(key) : tracker.hold(key, entry)
    return news ? [{ table, key }] : []
  }

  *#ours<K, E>(entries: readonly E[], keyOf: (e: E) => K, owns: (e: E) => boolean): Generator<[K, E]> {
    for (const entry of entries) if (owns(entry)) yield [keyOf(entry), entry]
  }

  /** The kernel's own entries (multicast, failed look-ups) are left alone unless they stand where a peer's belongs. */
  #ownsNeighbour(n: Neighbour, links: Links): boolean {
    if (n.index !== links.device || typeof n.address !== 'number') return false
    return (
      this.neighbours.wanted(n.address) !== undefined ||
      ((n.state & NUD_PERMANENT) !== 0 && (n.state & NUD_NOARP) === 0)
    )
  }

  #ownsFdbEntry(f: FdbEntry, links: Links): boolean {
    return f.index === links.device && f.destination !== undefined
  }

  #ownsRoute(r: Route, links: Links): boolean {
    if (r.table !== RT_TABLE_MAIN || r.protocol === RTPROT_KERNEL) return false
    if (r.oif === links.device || (r.nexthopId !== undefined && isOurNexthopId(r.nexthopId))) return true
    if (r.metric === 0 && r.tos === 0 && this.#options.wantsRouteTo(r.destination)) return true
    return (
      this.#options.directRouting &&
      r.oif === links.parent &&
      r.protocol === RTPROT_BOOT &&
      r.type === RTN_UNICAST &&
      r.gateway !== undefined &&
      r.metric === 0 &&
      r.destination.length === this.#options.subnetLen &&
      contains(this.#options.network, r.destination.address)
    )
  }
}

/** A multicast or the all-zero MAC, the only ones to which the kernel gives several destinations. */
function isGroup(mac: MacAddress): boolean {
  return (Number.parseInt(mac.slice(0, 2), 16) & 1) === 1 || mac === '00:00:00:00:00:00'
}

function ownsNexthop(n: Nexthop, links: Links): boolean {
  return isOurNexthopId(n.id) && n.oif === links.device
}

export function neighbourKey(n: Neighbour): Ipv4 {
  return Number(n.address)
}

/** What RTM_DELNEIGH finds an FDB entry by: one MAC may have several destinations. */
export function fdbKey(f: FdbEntry): string {
  return `${f.mac} ${f.destination ?? ''} ${f.port ?? ''} ${f.vni ?? ''}`
}

/** What RTM_DELROUTE finds a route by, so that deleting a wrong one never takes the right one beside it. */
export function routeKey(r: Route): string {
  const path = r.nexthopId !== undefined ? `nhid ${r.nexthopId}` : `${r.gateway ?? ''} ${r.oif ?? ''}`
  const multipath = r.multipath ? ' multipath' : ''
  return `${r.destination.address}/${r.destination.length} ${r.metric} ${r.tos} ${r.type} ${r.protocol} ${r.scope} ${r.source ?? ''} ${path}${multipath}`
}
