import { formatIpv4, formatSubnet, type MacAddress, type Subnet, smallKey, subnetKey } from '../../ip.ts'
import type { FdbEntry } from '../../netlink/fdb.ts'
import type { Neighbour } from '../../netlink/neighbour.ts'
import type { Lease } from '../../subnet/lease.ts'
import { type Row, stateOf } from '../delta.ts'
import { type PeerStatus, UnusableLease } from '../model.ts'
import type { PeerRoutes } from '../routes.ts'
import {
  type Links,
  pathTo,
  type WantedFdbEntry,
  type WantedNeighbour,
  wantedFdbEntry,
  wantedNeighbour,
} from './desired.ts'
import type { Tables } from './tables.ts'
import { type Vtep, vtepOf } from './vtep.ts'

export interface PeersOptions {
  readonly tables: Tables
  readonly routes: PeerRoutes
  readonly ownMac: () => MacAddress
  /** Whether this peer's underlay address is on the parent's own link (DirectRouting). */
  readonly isDirect: (vtep: Vtep) => boolean
}

interface Peer {
  readonly vtep: Vtep
  modifiedIndex: number
  /** Whether its entries are wanted; of those that share a MAC not all can be. */
  wanted: boolean
  /** What carries its packets through the tunnel, below its route. Undefined for a direct peer, and while not wanted. */
  tunnel: Tunnel | undefined
}

type Tunnel = readonly [
  neighbour: Row<number, Neighbour, WantedNeighbour>,
  fdb: Row<string, FdbEntry, WantedFdbEntry>,
]

/** The remote VTEPs, and through them what the tables want. Writes nothing to the kernel. */
export class Peers {
  readonly #options: PeersOptions
  readonly #peers = new Map<number, Peer>()
  readonly #byMac = new Map<MacAddress, Peer[]>()
  #links: Links

  constructor(options: PeersOptions, links: Links) {
    this.#options = options
    this.#links = links
  }

  *subnets(): Generator<Subnet> {
    for (const peer of this.#peers.values()) yield peer.vtep.subnet
  }

  get size(): number {
    return this.#peers.size
  }

  /** For one walk over all peers: tells how what carries a peer stands in the kernel. */
  inspect(): (subnet: Subnet) => PeerStatus | undefined {
    const routeTo = this.#options.routes.inspect()
    return (subnet) => {
      const peer = this.#peers.get(subnetKey(subnet))
      if (peer === undefined) return undefined
      const { vtep, tunnel } = peer
      const about = { subnet, publicIP: vtep.underlay, mac: vtep.mac }
      const there = routeTo(subnet)
      if (there === undefined) return { ...about, route: 'none', entries: {} }
      if (tunnel === undefined) return { ...about, ...there }
      const [neighbour, fdb] = tunnel
      const entries = { neighbour: stateOf(neighbour), fdb: stateOf(fdb), ...there.entries }
      return { ...about, route: there.route, entries }
    }
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
    const peer: Peer = { vtep, modifiedIndex: lease.modifiedIndex, wanted: false, tunnel: undefined }
    this.#peers.set(key, peer)
    const sharing = this.#byMac.get(vtep.mac)
    if (sharing === undefined) {
      this.#byMac.set(vtep.mac, [peer])
      this.#want(peer)
    } else {
      sharing.push(peer)
      this.#settleMac(vtep.mac)
    }
    // The MAC that it had may be free now for a peer that had to stand back.
    if (before !== undefined && before.vtep.mac !== vtep.mac) this.#settleMac(before.vtep.mac)
  }

  remove(subnet: Subnet): void {
    const key = subnetKey(subnet)
    const peer = this.#peers.get(key)
    if (peer === undefined) return
    this.#peers.delete(key)
    this.#drop(peer)
    this.#settleMac(peer.vtep.mac)
    this.#options.routes.left()
  }

  /** Looks again which peers are reached without the tunnel. */
  redirect(): void {
    for (const peer of this.#peers.values()) {
      if (!peer.wanted || this.#options.isDirect(peer.vtep) === (peer.tunnel === undefined)) continue
      this.#unwant(peer)
      this.#want(peer)
    }
  }

  /** Wants every entry anew: the device or its parent has another index. */
  rebuild(links: Links): void {
    for (const peer of this.#peers.values()) this.#unwant(peer)
    this.#links = links
    for (const mac of this.#byMac.keys()) this.#settleMac(mac)
  }

  /**
   * A MAC can lead to one underlay address only. Peers that share it and the address (a node that changed its
   * subnet, its old lease not yet expired) share the FDB entry; of peers that differ, the newest lease is right.
   */
  #settleMac(mac: MacAddress): void {
    const sharing = this.#byMac.get(mac)
    if (sharing === undefined) return
    const { underlay } = sharing.reduce((a, b) => (b.modifiedIndex > a.modifiedIndex ? b : a)).vtep
    for (const peer of sharing) if (peer.vtep.underlay !== underlay) this.#unwant(peer)
    for (const peer of sharing) if (peer.vtep.underlay === underlay && !peer.wanted) this.#want(peer)
  }

  #drop(peer: Peer): void {
    this.#unwant(peer)
    const rest = (this.#byMac.get(peer.vtep.mac) ?? []).filter((p) => p !== peer)
    if (rest.length === 0) this.#byMac.delete(peer.vtep.mac)
    else this.#byMac.set(peer.vtep.mac, rest)
  }

  #want(peer: Peer): void {
    const { tables, routes, isDirect } = this.#options
    const { vtep } = peer
    const direct = isDirect(vtep)
    peer.wanted = true
    if (!direct) {
      peer.tunnel = [
        tables.neighbours.want(smallKey(vtep.subnet.address), wantedNeighbour(vtep, this.#links)),
        tables.fdb.want(vtep.mac, wantedFdbEntry(vtep, this.#links)),
      ]
    }
    routes.want(vtep.subnet, pathTo(vtep, direct, this.#links), peer.tunnel)
  }

  #unwant(peer: Peer): void {
    const { tables, routes } = this.#options
    const { vtep, tunnel, wanted } = peer
    if (!wanted) return
    peer.wanted = false
    peer.tunnel = undefined
    routes.unwant(vtep.subnet)
    if (tunnel === undefined) return
    tables.neighbours.unwant(tunnel[0].key)
    const shared = (this.#byMac.get(vtep.mac) ?? []).some((p) => p.tunnel !== undefined)
    if (!shared) tables.fdb.unwant(vtep.mac)
  }
}

function sameVtep(a: Vtep, b: Vtep): boolean {
  return a.mac === b.mac && a.underlay === b.underlay
}
