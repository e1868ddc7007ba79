import { formatIpv4, type Subnet } from '../../ip.ts'
import type { Rtnl } from '../../netlink/conn.ts'
import type { Notification } from '../../netlink/monitor.ts'
import type { Lease } from '../../subnet/lease.ts'
import type { Network, Underlay } from '../backend.ts'
import { doubtOf, isUp } from '../device.ts'
import type { DeviceOutcome, Doubt, LinkNotification, Model, PeerStatus, Surprised } from '../model.ts'
import type { May, Step, TableKey } from '../operations.ts'
import { Reconciler, type ReconcilerOptions } from '../reconciler.ts'
import { isOnLink, PeerRoutes } from '../routes.ts'
import type { Links } from './desired.ts'
import { type DeviceSpec, difference, ensureDevice } from './device.ts'
import { Peers } from './peers.ts'
import { plan } from './plan.ts'
import { Tables } from './tables.ts'

export interface VxlanNetworkOptions extends ReconcilerOptions {
  readonly network: Subnet
  readonly subnetLen: number
  readonly directRouting: boolean
  readonly underlay: Underlay
  /** What does not depend on the underlay. */
  readonly device: Omit<DeviceSpec, 'parent' | 'local' | 'mtu'>
  /** Bytes that a packet between nodes may have, if less than the interface's MTU. */
  readonly maxMtu?: number | undefined
}

/** Bytes that VXLAN over IPv4 adds to a packet: Ethernet 14, IPv4 20, UDP 8, VXLAN 8. */
const OVERHEAD = 50

/** One VXLAN network, kept by the reconciler: leases become VTEPs, VTEPs become entries of four tables. */
export class VxlanNetwork extends Reconciler implements Network {
  readonly answers = 'device'
  readonly #model: VxlanModel

  constructor(options: VxlanNetworkOptions) {
    const model = new VxlanModel(options)
    super(model, options)
    this.#model = model
  }

  /** Takes effect with the next apply. */
  setUnderlay(underlay: Underlay): void {
    this.#model.setUnderlay(underlay)
    this.deviceChanged()
  }

  get mtu(): number {
    return this.#model.device.mtu
  }

  get details() {
    const { vni, port, gbp, mac, address, local } = this.#model.device
    const [own, end] = [formatIpv4(address), formatIpv4(local)]
    return { vni, port, gbp, mac, address: own, local: end, directRouting: this.#model.directRouting }
  }
}

class VxlanModel implements Model {
  device: DeviceSpec
  readonly #rtnl: Rtnl
  readonly directRouting: boolean
  readonly #maxMtu: number
  readonly #tables = new Tables()
  readonly #routes: PeerRoutes
  readonly #peers: Peers
  #links: Links

  constructor(options: VxlanNetworkOptions) {
    const { rtnl, log, network, subnetLen, directRouting, underlay } = options
    this.#maxMtu = options.maxMtu ?? Number.POSITIVE_INFINITY
    this.device = { ...options.device, ...this.#onUnderlay(underlay) }
    this.#rtnl = rtnl
    this.directRouting = directRouting
    this.#links = { device: 0, parent: underlay.index }
    this.#routes = new PeerRoutes({
      rtnl,
      log,
      network,
      subnetLen,
      device: () => ({ index: this.#links.device, name: this.device.name }),
      ...(directRouting && { direct: () => this.#links.parent }),
      owns: (route) =>
        route.oif === this.#links.device ||
        (directRouting && route.oif === this.#links.parent && this.#routes.hasLeaseShape(route)),
    })
    this.#peers = new Peers(
      {
        tables: this.#tables,
        routes: this.#routes,
        ownMac: () => this.device.mac,
        isDirect: (vtep) => directRouting && isOnLink(rtnl, this.device.parent.index, vtep.underlay),
      },
      this.#links,
    )
  }

  setUnderlay(underlay: Underlay): void {
    this.device = { ...this.device, ...this.#onUnderlay(underlay) }
  }

  #onUnderlay({ index, name, address, mtu }: Underlay): Pick<DeviceSpec, 'parent' | 'local' | 'mtu'> {
    return { parent: { index, name }, local: address, mtu: Math.min(mtu, this.#maxMtu) - OVERHEAD }
  }

  get name(): string {
    return this.device.name
  }

  ensureDevice(): DeviceOutcome {
    const known = this.#links.device === 0 ? undefined : this.#links.device
    const { index, recreated, changes } = ensureDevice(this.#rtnl, this.device, known)
    const links = { device: index, parent: this.device.parent.index }
    const moved = links.device !== this.#links.device || links.parent !== this.#links.parent
    this.#links = links
    if (moved) this.#peers.rebuild(links)
    return { moved, recreated, changes }
  }

  stands(): boolean {
    return isUp(this.#rtnl, this.#links.device)
  }

  peek(): void {
    this.#routes.peek()
  }

  load(surprised: Surprised, justPut: boolean): void {
    this.#tables.load(this.#rtnl, this.#links, surprised)
    this.#routes.load(surprised)
    // What is reached directly is the routing table's word, which may have changed with it.
    if (this.directRouting && !justPut) this.#peers.redirect()
  }

  observe(notification: Notification): TableKey[] | undefined {
    const { kind } = notification
    return kind === 'route' || kind === 'nexthop'
      ? this.#routes.observe(notification)
      : this.#tables.observe(notification, this.#links)
  }

  doubt(notification: LinkNotification): Doubt {
    const { device, parent } = this.#links
    if (notification.kind === 'address') {
      const { index, address } = notification.value
      if (typeof address !== 'number') return 'nothing'
      return index === device || (index === parent && this.directRouting) ? 'entries' : 'nothing'
    }
    const { value: link, deleted } = notification
    if (this.directRouting && (link.index === parent || link.name === this.device.parent.name))
      return 'entries'
    if (link.index !== device && link.name !== this.device.name) return 'nothing'
    const { mtu, mac, name } = this.device
    const doubt = doubtOf(link, deleted, { index: device, name, mtu })
    if (doubt !== 'nothing') return doubt
    return link.mac === mac && difference(link, this.device) === undefined ? 'nothing' : 'device'
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

  inspect(): (subnet: Subnet) => PeerStatus | undefined {
    return this.#peers.inspect()
  }

  subnets(): Iterable<Subnet> {
    return this.#peers.subnets()
  }

  get size(): number {
    return this.#peers.size
  }

  plan(may: May): Iterable<Step> {
    return plan({ tables: this.#tables, routes: this.#routes, deviceName: this.device.name, may })
  }

  counts() {
    const { neighbours, fdb } = this.#tables
    return { neighbour: neighbours.counts, fdb: fdb.counts, ...this.#routes.counts() }
  }
}
