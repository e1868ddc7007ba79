/**
 * host-gw: no tunnel, only a route to each peer's subnet through the peer itself, which has to be on the same link.
 *
 *     10.1.2.0/24 via 192.0.2.2 dev eth0
 */
import { formatIpv4, type Ipv4, type Subnet } from '../../ip.ts'
import type { Logger } from '../../log.ts'
import { dumpAddresses } from '../../netlink/address.ts'
import type { Rtnl } from '../../netlink/conn.ts'
import { NetlinkError } from '../../netlink/errors.ts'
import { getLink } from '../../netlink/link.ts'
import type { Notification } from '../../netlink/monitor.ts'
import type { Route } from '../../netlink/route.ts'
import type { Lease } from '../../subnet/lease.ts'
import type { BackendContext, Network, NetworkHooks, Underlay } from '../backend.ts'
import { GatewayPeers } from '../gateways.ts'
import type { DeviceOutcome, Doubt, LinkNotification, Model, PeerStatus, Surprised } from '../model.ts'
import type { May, Step, TableKey } from '../operations.ts'
import { Reconciler } from '../reconciler.ts'
import { isOnLink, type Path, PeerRoutes } from '../routes.ts'

export class HostGwNetwork extends Reconciler implements Network {
  readonly answers = 'node'
  readonly #model: HostGwModel

  constructor(options: BackendContext & NetworkHooks) {
    const model = new HostGwModel(options)
    super(model, options)
    this.#model = model
  }

  /** Takes effect with the next apply. */
  setUnderlay(underlay: Underlay): void {
    this.#model.underlay = underlay
    this.deviceChanged()
  }

  get mtu(): number {
    return this.#model.underlay.mtu
  }
}

class HostGwModel implements Model {
  underlay: Underlay
  readonly #rtnl: Rtnl
  readonly #log: Logger
  readonly #routes: PeerRoutes
  readonly #peers: GatewayPeers
  /** Index of the interface that paths lead by, which may come again under another. */
  #index: number
  /** Whether the interface can carry routes: it is up and has an address. */
  #ready = true

  constructor({ rtnl, log, network, subnetLen, underlay }: BackendContext & NetworkHooks) {
    this.underlay = underlay
    this.#rtnl = rtnl
    this.#log = log
    this.#index = underlay.index
    this.#routes = new PeerRoutes({
      rtnl,
      log,
      network,
      subnetLen,
      device: () => this.underlay,
      owns: (route: Route) => route.oif === this.underlay.index && this.#routes.hasLeaseShape(route),
    })
    this.#peers = new GatewayPeers({
      type: 'host-gw',
      routes: this.#routes,
      log,
      pathTo: (address) => this.#pathTo(address),
    })
  }

  get name(): string {
    return this.underlay.name
  }

  ensureDevice(): DeviceOutcome {
    const { index, name } = this.underlay
    const ready = this.#canCarry(index)
    if (this.#ready && !ready)
      this.#log.warn(`${name} is down or has no address: the routes to peers wait for it`)
    if (!this.#ready && ready) this.#log.info(`${name} is up again`)
    this.#ready = ready
    const moved = index !== this.#index
    this.#index = index
    return { moved, recreated: undefined, changes: [] }
  }

  peek(): void {
    this.#routes.peek()
  }

  load(surprised: Surprised, justPut: boolean): void {
    this.#routes.load(surprised)
    // Who is on the link is the routing table's word, which may have changed with it.
    if (this.#ready && !justPut) this.#peers.rebuild()
  }

  observe(notification: Notification): TableKey[] | undefined {
    return this.#routes.observe(notification)
  }

  doubt({ kind, value }: LinkNotification): Doubt {
    const { index, name } = this.underlay
    const ours = value.index === index || (kind === 'link' && value.name === name)
    if (!ours) return 'nothing'
    // The kernel drops the routes of an interface that goes down or loses its address, and does not say so.
    return 'entries'
  }

  put(lease: Lease): void {
    this.#peers.put(lease)
  }

  remove(subnet: Subnet): void {
    this.#peers.remove(subnet)
  }

  expect(count: number): void {
    this.#routes.expect(count)
  }

  subnets(): Iterable<Subnet> {
    return this.#peers.subnets()
  }

  get size(): number {
    return this.#peers.size
  }

  plan(may: May): Iterable<Step> {
    return this.#ready ? this.#routes.plan(may) : []
  }

  repaired(key: TableKey): void {
    this.#peers.recovered(key)
  }

  inspect(): (subnet: Subnet) => PeerStatus | undefined {
    return this.#peers.inspect()
  }

  counts() {
    return this.#routes.counts()
  }

  #pathTo(address: Ipv4): Path | string {
    const { index, name } = this.underlay
    if (!this.#ready || isOnLink(this.#rtnl, index, address))
      return { gateway: address, oif: index, onlink: false }
    return `network is unreachable: ${formatIpv4(address)} is not on the link of ${name}, and host-gw needs it to be; put the nodes on one network, or use vxlan`
  }

  #canCarry(index: number): boolean {
    try {
      return (
        this.#rtnl.get(getLink({ index })).up &&
        this.#rtnl.dump(dumpAddresses({ family: 4, index })).length > 0
      )
    } catch (error) {
      if (error instanceof NetlinkError && error.code === 'ENODEV') return false
      throw error
    }
  }
}
