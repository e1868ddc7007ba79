import { formatIpv4, formatSubnet, type Ipv4, type Subnet, subnetKey } from '../ip.ts'
import type { Logger } from '../log.ts'
import type { Lease } from '../subnet/lease.ts'
import { type PeerStatus, UnusableLease } from './model.ts'
import type { TableKey } from './operations.ts'
import type { Path, PeerRoutes } from './routes.ts'

export interface GatewayPeersOptions {
  /** `Backend.Type`, which the peers' leases have to name. */
  readonly type: string
  readonly routes: PeerRoutes
  readonly log: Logger
  /** How a peer's address is reached now, or why it is not. */
  readonly pathTo: (publicIP: Ipv4) => Path | string
}

interface Peer {
  readonly subnet: Subnet
  readonly publicIP: Ipv4
  /** Undefined while there is none. */
  path: Path | undefined
}

/** The peers of host-gw and ipip, which are routed to through their own underlay address. Writes nothing to the kernel. */
export class GatewayPeers {
  readonly #options: GatewayPeersOptions
  readonly #peers = new Map<number, Peer>()

  constructor(options: GatewayPeersOptions) {
    this.#options = options
  }

  *subnets(): Generator<Subnet> {
    for (const { subnet } of this.#peers.values()) yield subnet
  }

  get size(): number {
    return this.#peers.size
  }

  /** If it was a route that somebody had removed, says that it is back. */
  recovered(key: TableKey): void {
    const subnet = this.#options.routes.destinationOf(key)
    const peer = subnet && this.#peers.get(subnetKey(subnet))
    if (peer === undefined) return
    this.#options.log.info(`Route recovered ${formatSubnet(peer.subnet)} : ${formatIpv4(peer.publicIP)}`)
  }

  /** See `Model.inspect`. */
  inspect(): (subnet: Subnet) => PeerStatus | undefined {
    const inspect = this.#options.routes.inspect()
    return (subnet) => {
      const peer = this.#peers.get(subnetKey(subnet))
      if (peer === undefined) return undefined
      const found = inspect(subnet) ?? { route: 'none' as const, entries: {} }
      return { subnet, publicIP: peer.publicIP, mac: undefined, ...found }
    }
  }

  /** A new or changed lease. Throws UnusableLease when it is another backend's; what stood for the subnet goes then. */
  put(lease: Lease): void {
    const { type, log } = this.#options
    const { backendType, publicIP } = lease.attributes
    const { subnet } = lease
    const name = `${formatSubnet(subnet)} via ${formatIpv4(publicIP)}`
    if (backendType !== type) {
      this.remove(subnet)
      throw new UnusableLease(`Ignoring non-${type} subnet: type=${backendType} (${name})`)
    }
    const key = subnetKey(subnet)
    if (this.#peers.get(key)?.publicIP === publicIP) return
    log.info(`Subnet added: ${name}`)
    const peer = { subnet, publicIP, path: undefined }
    this.#peers.set(key, peer)
    this.#settle(peer, true)
  }

  remove(subnet: Subnet): void {
    if (!this.#peers.delete(subnetKey(subnet))) return
    this.#options.log.info(`Subnet removed: ${formatSubnet(subnet)}`)
    this.#options.routes.unwant(subnet)
    this.#options.routes.left()
  }

  /** Looks again at how each peer is reached. */
  rebuild(): void {
    for (const peer of this.#peers.values()) this.#settle(peer, false)
  }

  #settle(peer: Peer, isNew: boolean): void {
    const { routes, log, pathTo } = this.#options
    const { subnet, publicIP, path: before } = peer
    const path = pathTo(publicIP)
    const name = `${formatSubnet(subnet)} via ${formatIpv4(publicIP)}`
    if (typeof path === 'string') {
      peer.path = undefined
      routes.unwant(subnet)
      if (isNew || before !== undefined) log.error(`Error adding route to ${name}: ${path}`)
      return
    }
    if (before === undefined && !isNew) log.info(`${name} can be reached now`)
    peer.path = path
    if (before !== undefined && samePath(before, path)) return
    routes.want(subnet, path)
  }
}

function samePath(a: Path, b: Path): boolean {
  return a.gateway === b.gateway && a.oif === b.oif && a.onlink === b.onlink
}
