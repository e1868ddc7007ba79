/**
 * ipip: IPv4 packets in IPv4 packets, without a header between; the route to a peer's subnet names the peer's own address.
 *
 *     10.1.2.0/24 via 192.0.2.2 dev flannel.ipip onlink
 *     10.1.3.0/24 via 192.0.2.3 dev eth0 onlink            DirectRouting, and the peer is on the link
 */
import type { Ipv4, Subnet } from '../../ip.ts'
import type { Rtnl } from '../../netlink/conn.ts'
import type { Notification } from '../../netlink/monitor.ts'
import type { Lease } from '../../subnet/lease.ts'
import type { BackendContext, Network, NetworkHooks, Underlay } from '../backend.ts'
import { doubtOf, isUp } from '../device.ts'
import { GatewayPeers } from '../gateways.ts'
import type { DeviceOutcome, Doubt, LinkNotification, Model, PeerStatus, Surprised } from '../model.ts'
import type { May, Step, TableKey } from '../operations.ts'
import { Reconciler } from '../reconciler.ts'
import { isOnLink, type Path, PeerRoutes } from '../routes.ts'
import { difference, ensureIpip, type IpipSpec } from './device.ts'

/** flannel's name for it. */
export const DEVICE = 'flannel.ipip'
/** Bytes that an IPv4 header takes. */
const OVERHEAD = 20

export interface IpipNetworkOptions extends BackendContext, NetworkHooks {
  readonly directRouting: boolean
  /** The subnet's first address, which the device holds as /32. */
  readonly address: Ipv4
}

export class IpipNetwork extends Reconciler implements Network {
  readonly answers = 'device'
  readonly #model: IpipModel

  constructor(options: IpipNetworkOptions) {
    const model = new IpipModel(options)
    super(model, options)
    this.#model = model
  }

  /** Takes effect with the next apply. */
  setUnderlay(underlay: Underlay): void {
    this.#model.underlay = underlay
    this.deviceChanged()
  }

  get mtu(): number {
    return this.#model.spec.mtu
  }
}

class IpipModel implements Model {
  readonly name = DEVICE
  underlay: Underlay
  readonly #options: IpipNetworkOptions
  readonly #rtnl: Rtnl
  readonly #routes: PeerRoutes
  readonly #peers: GatewayPeers
  #index = 0
  /** Index of the interface that direct paths lead by. */
  #parent = 0

  constructor(options: IpipNetworkOptions) {
    const { rtnl, directRouting, underlay } = options
    this.underlay = underlay
    this.#options = options
    this.#rtnl = rtnl
    this.#routes = new PeerRoutes({
      ...options,
      device: () => ({ index: this.#index, name: DEVICE }),
      ...(directRouting && { direct: () => this.#parent }),
      owns: (route) =>
        route.oif === this.#index ||
        (directRouting && route.oif === this.underlay.index && this.#routes.hasLeaseShape(route)),
    })
    this.#peers = new GatewayPeers({
      ...options,
      type: 'ipip',
      routes: this.#routes,
      pathTo: (address) => this.#pathTo(address),
    })
  }

  get spec(): IpipSpec {
    const { address: local, mtu } = this.underlay
    return { name: DEVICE, local, mtu: mtu - OVERHEAD, address: this.#options.address }
  }

  ensureDevice(): DeviceOutcome {
    const { index, recreated, changes } = ensureIpip(this.#rtnl, this.spec, this.#index)
    const moved = index !== this.#index || this.underlay.index !== this.#parent
    this.#index = index
    this.#parent = this.underlay.index
    if (moved) this.#peers.rebuild()
    return { moved, recreated, changes }
  }

  stands(): boolean {
    return isUp(this.#rtnl, this.#index)
  }

  peek(): void {
    this.#routes.peek()
  }

  load(surprised: Surprised, justPut: boolean): void {
    this.#routes.load(surprised)
    // What is reached directly is the routing table's word, which may have changed with it.
    if (this.#options.directRouting && !justPut) this.#peers.rebuild()
  }

  observe(notification: Notification): TableKey[] | undefined {
    return this.#routes.observe(notification)
  }

  doubt(notification: LinkNotification): Doubt {
    const { underlay, spec } = this
    if (notification.kind === 'address') {
      const { index, address } = notification.value
      if (typeof address !== 'number') return 'nothing'
      const direct = this.#options.directRouting && index === underlay.index
      return index === this.#index || direct ? 'entries' : 'nothing'
    }
    const { value: link, deleted } = notification
    const under = link.index === underlay.index || link.name === underlay.name
    if (under && this.#options.directRouting) return 'entries'
    if (link.index !== this.#index && link.name !== DEVICE) return 'nothing'
    const doubt = doubtOf(link, deleted, { index: this.#index, name: DEVICE, mtu: spec.mtu })
    if (doubt !== 'nothing') return doubt
    return difference(link, spec) === undefined ? 'nothing' : 'device'
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
    return this.#routes.plan(may)
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

  #pathTo(gateway: Ipv4): Path {
    const { directRouting } = this.#options
    const direct = directRouting && isOnLink(this.#rtnl, this.underlay.index, gateway)
    return { gateway, oif: direct ? this.underlay.index : this.#index, onlink: true }
  }
}
