import { formatIpv4, formatSubnet, type MacAddress, type Subnet, subnetKey } from '../../ip.ts'
import type { Lease } from '../../subnet/lease.ts'
import { UnusableLease } from '../reconciler.ts'
import { desiredEntries, type Links, nexthopIdOf, type PeerEntries, type RouteKind } from './desired.ts'
import { fdbKey, neighbourKey, routeKey, type Tables } from './tables.ts'
import { type Vtep, vtepOf } from './vtep.ts'

/**
 * Plain routes up to here, nexthop objects beyond. All flannel routes share one hash bucket in the kernel's
 * fib_find_info, which makes plain ones quadratic: 1,000 take 13 ms, 15,000 take 2.6 s; with nexthop objects
 * 15,000 take 68 ms.
 */
export const PLAIN_ROUTES = 1024

export interface PeersOptions {
  readonly tables: Tables
  readonly network: Subnet
  readonly subnetLen: number
  readonly ownMac: () => MacAddress
  /** Whether this peer's underlay address is on the parent's own link (DirectRouting). */
  readonly isDirect: (vtep: Vtep) => boolean
  readonly nexthops: boolean
}

interface Peer {
  readonly vtep: Vtep
  modifiedIndex: number
  entries: PeerEntries | undefined
}

/** The remote VTEPs, and through them what the tables want. Writes nothing to the kernel. */
export class Peers {
  readonly #options: PeersOptions
  readonly #peers = new Map<number, Peer>()
  readonly #byMac = new Map<MacAddress, Peer[]>()
  #links: Links
  /** How many peers there are, or soon will be while a snapshot is taken in. */
  #expected = 0
  #plain = 0
  #throughNexthop = 0

  constructor(options: PeersOptions, links: Links) {
    this.#options = options
    this.#links = links
  }

  get size(): number {
    return this.#peers.size
  }

  *subnets(): Generator<Subnet> {
    for (const peer of this.#peers.values()) yield peer.vtep.subnet
  }

  entries(destination: Subnet): PeerEntries | undefined {
    return this.#peers.get(subnetKey(destination))?.entries
  }

  /** Announces a snapshot of this many leases, so that the kinds of route are chosen for all and not for the first. */
  expect(count: number): void {
    this.#expected = count
  }

  /** A new or changed lease. Throws UnusableLease when it is none of ours; what stood for the subnet is then withdrawn. */
  put(lease: Lease): void {
    const key = subnetKey(lease.subnet)
    let vtep: Vtep
    try {
      vtep = vtepOf(lease)
      if (vtep.mac === this.#options.ownMac()) {
        throw new UnusableLease(
          `ignoring lease ${formatSubnet(vtep.subnet)} of ${formatIpv4(vtep.underlay)}: its VtepMAC ${vtep.mac} is our own; ` +
            'two machines with one MAC (a cloned image?) cannot share a VXLAN: delete flannel.<VNI> and the lease on one',
        )
      }
    } catch (error) {
      this.remove(lease.subnet)
      throw error
    }
    const before = this.#peers.get(key)
    if (before !== undefined && sameVtep(before.vtep, vtep)) {
      // A renewal changes nothing but who is the newest of those that share a MAC.
      before.modifiedIndex = lease.modifiedIndex
      this.#settleMac(vtep.mac)
      return
    }
    if (before !== undefined) this.#drop(before)
    const peer: Peer = { vtep, modifiedIndex: lease.modifiedIndex, entries: undefined }
    this.#peers.set(key, peer)
    const sharing = this.#byMac.get(vtep.mac)
    if (sharing === undefined) this.#byMac.set(vtep.mac, [peer])
    else sharing.push(peer)
    this.#settleMac(vtep.mac)
  }

  remove(subnet: Subnet): void {
    const key = subnetKey(subnet)
    const peer = this.#peers.get(key)
    if (peer === undefined) return
    this.#peers.delete(key)
    this.#drop(peer)
    this.#settleMac(peer.vtep.mac)
    this.#expected = this.#peers.size
    if (this.#throughNexthop > 0 && this.#few()) this.rebuild(this.#links)
  }

  /** Wants every entry anew: the device or its parent has another index, or what is direct may have changed. */
  rebuild(links: Links): void {
    for (const peer of this.#peers.values()) this.#unwant(peer)
    this.#links = links
    for (const peer of this.#peers.values()) if (this.#winner(peer.vtep.mac, peer)) this.#want(peer)
  }

  /**
   * A MAC can lead to one underlay address only. Peers that share it and the address (a node that changed its
   * subnet, its old lease not yet expired) share the FDB entry; of peers that differ, the newest lease is right.
   */
  #settleMac(mac: MacAddress): void {
    for (const peer of this.#byMac.get(mac) ?? []) {
      if (!this.#winner(mac, peer)) this.#unwant(peer)
    }
    for (const peer of this.#byMac.get(mac) ?? []) {
      if (peer.entries === undefined && this.#winner(mac, peer)) this.#want(peer)
    }
  }

  #winner(mac: MacAddress, peer: Peer): boolean {
    const sharing = this.#byMac.get(mac)
    if (sharing === undefined || sharing.length === 1) return true
    const newest = sharing.reduce((a, b) => (b.modifiedIndex > a.modifiedIndex ? b : a))
    return peer.vtep.underlay === newest.vtep.underlay
  }

  #drop(peer: Peer): void {
    this.#unwant(peer)
    const rest = (this.#byMac.get(peer.vtep.mac) ?? []).filter((p) => p !== peer)
    if (rest.length === 0) this.#byMac.delete(peer.vtep.mac)
    else this.#byMac.set(peer.vtep.mac, rest)
  }

  #want(peer: Peer): void {
    const { tables } = this.#options
    const entries = this.#choose(peer.vtep)
    peer.entries = entries
    this.#count(entries.kind, 1)
    if (entries.neighbour) tables.neighbours.want(neighbourKey(entries.neighbour), entries.neighbour)
    if (entries.fdb) tables.fdb.want(fdbKey(entries.fdb), entries.fdb)
    if (entries.nexthop) tables.nexthops.want(entries.nexthop.id, entries.nexthop)
    tables.routes.want(routeKey(entries.route), entries.route)
  }

  #unwant(peer: Peer): void {
    const { tables } = this.#options
    const { entries } = peer
    if (entries === undefined) return
    peer.entries = undefined
    this.#count(entries.kind, -1)
    if (entries.neighbour) tables.neighbours.unwant(neighbourKey(entries.neighbour))
    const shared = (this.#byMac.get(peer.vtep.mac) ?? []).some((p) => p.entries?.fdb && p !== peer)
    if (entries.fdb && !shared) tables.fdb.unwant(fdbKey(entries.fdb))
    if (entries.nexthop) tables.nexthops.unwant(entries.nexthop.id)
    tables.routes.unwant(routeKey(entries.route))
  }

  /** Keeps the kind of route that the kernel holds already, so that a restart over a right kernel writes nothing. */
  #choose(vtep: Vtep): PeerEntries {
    const { isDirect, nexthops, network, subnetLen, tables } = this.#options
    const make = (kind: RouteKind, id?: number): PeerEntries => desiredEntries(vtep, kind, id, this.#links)
    if (isDirect(vtep)) return make('direct')
    const plain = make('tunnel')
    const id = nexthops ? nexthopIdOf(vtep.subnet, network, subnetLen) : undefined
    if (id === undefined) return plain
    const throughNexthop = make('nexthop', id)
    if (!this.#few() && tables.routes.held(routeKey(throughNexthop.route)) !== undefined)
      return throughNexthop
    return this.#plain < PLAIN_ROUTES ? plain : throughNexthop
  }

  /** Far enough below the limit that going back to plain routes will not soon be undone. */
  #few(): boolean {
    return Math.max(this.#peers.size, this.#expected) < PLAIN_ROUTES * 0.75
  }

  #count(kind: RouteKind, by: 1 | -1): void {
    if (kind === 'tunnel') this.#plain += by
    else if (kind === 'nexthop') this.#throughNexthop += by
  }
}

function sameVtep(a: Vtep, b: Vtep): boolean {
  return a.mac === b.mac && a.underlay === b.underlay
}
