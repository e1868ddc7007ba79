/**
 * wireguard: an encrypted tunnel in the kernel, which itself knows by its allowed IPs which peer has which subnet.
 *
 *     pods - flannel-wg - UDP 51820 - peers          10.1.0.0/16 dev flannel-wg scope link
 *
 * The kernel tells nobody when a peer is changed: WireGuard's family of generic netlink has no multicast group. That is found
 * with the next compare, for which there is therefore more often cause than elsewhere.
 */
import type { Clock } from '../../clock.ts'
import type { Ipv4, Subnet } from '../../ip.ts'
import type { Rtnl } from '../../netlink/conn.ts'
import { RT_SCOPE_LINK } from '../../netlink/constants.ts'
import { NetlinkError } from '../../netlink/errors.ts'
import { createWireGuard, type Link } from '../../netlink/link.ts'
import type { Notification } from '../../netlink/monitor.ts'
import {
  type ConfiguredPeer,
  deletePeer,
  dumpWireGuard,
  peersOf,
  replacePeer,
  setWireGuard,
  type WireGuardDevice,
} from '../../netlink/wireguard.ts'
import type { Lease } from '../../subnet/lease.ts'
import type { BackendContext, Network, NetworkHooks, Underlay } from '../backend.ts'
import {
  doubtOf,
  ensureLink,
  findLink,
  findOwnLink,
  isUp,
  missingModule,
  newLink,
  renameLink,
} from '../device.ts'
import {
  DeviceError,
  type DeviceOutcome,
  type Doubt,
  type LinkNotification,
  type Model,
  type PeerStatus,
  type Surprised,
} from '../model.ts'
import { NetworkRoute } from '../networkroute.ts'
import { deletions, type May, type Step, type TableKey, type TableName, writes } from '../operations.ts'
import { Reconciler } from '../reconciler.ts'
import type { WireGuardConfig } from './config.ts'
import type { KeyPair } from './key.ts'
import { bySubnet, type HeldPeer, sameEndpoint, WireGuardPeers } from './peers.ts'

/** flannel's name for it. */
export const DEVICE = 'flannel-wg'
/** Bytes that WireGuard adds, as flannel counts them: IPv6 40, UDP 8, WireGuard 32. IPv4 takes 20 less. */
const OVERHEAD = 80
/** Seconds for which a handshake proves that packets get through: REJECT_AFTER_TIME of the WireGuard paper. */
const PROVEN = 180
/** Milliseconds between compares, unless fewer are asked for. */
const COMPARE_PERIOD = 10_000

export interface WireGuardNetworkOptions extends BackendContext, NetworkHooks {
  /** To generic netlink. */
  readonly connection: Rtnl
  /** The number of WireGuard's family there. */
  readonly family: number
  readonly config: WireGuardConfig
  readonly keys: KeyPair
  /** The subnet's first address, which the device holds as /32. */
  readonly address: Ipv4
}

export class WireGuardNetwork extends Reconciler implements Network {
  readonly answers = 'device'
  readonly #model: WireGuardModel

  constructor(options: WireGuardNetworkOptions) {
    const model = new WireGuardModel(options)
    super(model, { ...options, resyncPeriod: Math.min(options.resyncPeriod, COMPARE_PERIOD) })
    this.#model = model
  }

  /** Takes effect with the next apply. */
  setUnderlay(underlay: Underlay): void {
    this.#model.underlay = underlay
    this.deviceChanged()
  }

  get mtu(): number {
    return this.#model.mtu
  }

  get details() {
    return this.#model.details
  }
}

class WireGuardModel implements Model {
  readonly name = DEVICE
  underlay: Underlay
  readonly #options: WireGuardNetworkOptions
  readonly #rtnl: Rtnl
  readonly #generic: Rtnl
  readonly #clock: Clock
  readonly #peers: WireGuardPeers
  readonly #route: NetworkRoute
  #device: WireGuardDevice

  constructor(options: WireGuardNetworkOptions) {
    const { rtnl, network, config, keys, family, connection, clock, log, underlay } = options
    this.#options = options
    this.#rtnl = rtnl
    this.#generic = connection
    this.#clock = clock
    this.underlay = underlay
    this.#device = { family, index: 0, name: DEVICE }
    this.#peers = new WireGuardPeers({ ...config, ownKey: keys.publicKey, log })
    this.#route = new NetworkRoute({ rtnl, network, scope: RT_SCOPE_LINK, device: () => this.#device })
  }

  get mtu(): number {
    return Math.min(this.#options.config.mtu ?? this.underlay.mtu, this.underlay.mtu) - OVERHEAD
  }

  get details() {
    const { config, keys } = this.#options
    return { port: config.listenPort, publicKey: keys.publicKey }
  }

  ensureDevice(): DeviceOutcome {
    const { address } = this.#options
    const { index: before } = this.#device
    const changes: string[] = []
    let link = this.#find(changes)
    const created = link === undefined
    if (link === undefined) {
      link = this.#create()
      changes.push(`created ${DEVICE}`)
    }
    this.#device = { ...this.#device, index: link.index }
    if (link.index !== before) this.#route.want()
    try {
      changes.push(...this.#configure(created))
      changes.push(...ensureLink(this.#rtnl, link, { name: DEVICE, mtu: this.mtu, address, created }))
    } catch (error) {
      if (!(error instanceof NetlinkError && error.code === 'EADDRINUSE')) throw error
      throw new DeviceError(
        `UDP port ${this.#options.config.listenPort} for ${DEVICE} is in use by another socket or WireGuard device; ` +
          'free it (ss -ulnp shows who has it), or set ListenPort in the network config on all nodes',
      )
    }
    return { moved: link.index !== before, recreated: undefined, changes }
  }

  stands(): boolean {
    return isUp(this.#rtnl, this.#device.index)
  }

  load(surprised: Surprised): void {
    const held = peersOf(this.#generic.dump(dumpWireGuard(this.#device))).map((peer) => this.#asHeld(peer))
    const { table } = this.#peers
    const surprising = table.holdExactly(
      (begin) => held.forEach(begin()),
      ({ publicKey }) => publicKey,
    )
    for (const key of surprising) surprised({ table: 'peer', key })
    this.#route.load(surprised)
  }

  observe(notification: Notification): TableKey[] | undefined {
    return this.#route.observe(notification)
  }

  doubt(notification: LinkNotification): Doubt {
    const { index } = this.#device
    if (notification.kind === 'address') {
      const { value } = notification
      if (typeof value.address !== 'number') return 'nothing'
      return value.index === index ? 'entries' : 'nothing'
    }
    const { value: link, deleted } = notification
    if (link.index !== index && link.name !== DEVICE) return 'nothing'
    return doubtOf(link, deleted, { index, name: DEVICE, mtu: this.mtu })
  }

  put(lease: Lease): void {
    this.#peers.put(lease)
  }

  remove(subnet: Subnet): void {
    this.#peers.remove(subnet)
  }

  expect(): void {}

  subnets(): Iterable<Subnet> {
    return this.#peers.subnets()
  }

  get size(): number {
    return this.#peers.size
  }

  connection(table: TableName): Rtnl {
    return table === 'peer' ? this.#generic : this.#rtnl
  }

  /** Peers before those that go, so that a subnet that changes hands is never nobody's. */
  *plan(may: May): Generator<Step> {
    const { table } = this.#peers
    yield [writes('peer', table, (peer) => replacePeer(this.#device, peer), may)]
    yield [deletions('peer', table, ({ publicKey }) => deletePeer(this.#device, publicKey), may)]
    yield [this.#route.writes(may)]
    yield [this.#route.deletions(may)]
  }

  inspect(): (subnet: Subnet) => PeerStatus | undefined {
    const route = this.#route.state()
    return (subnet) => {
      const node = this.#peers.node(subnet)
      if (node === undefined) return undefined
      const about = { subnet, publicIP: node.endpoint.address, mac: undefined }
      // Another node with the same key has the peer.
      if (!this.#peers.isAllowed(node)) return { ...about, route: 'none', entries: {} }
      return { ...about, route: 'network', entries: { peer: this.#peers.table.state(node.key), route } }
    }
  }

  counts() {
    return { peer: this.#peers.table.counts, route: this.#route.counts }
  }

  /** Our device, by its name or, if somebody renamed it, by its index. Throws DeviceError when it is another's. */
  #find(changes: string[]): Link | undefined {
    const named = findOwnLink(this.#rtnl, { name: DEVICE, kind: 'wireguard' })
    const { index } = this.#device
    const known = named === undefined && index !== 0 ? findLink(this.#rtnl, { index }) : undefined
    if (known?.kind !== 'wireguard') return named
    changes.push(renameLink(this.#rtnl, known, DEVICE))
    return findLink(this.#rtnl, { index })
  }

  #create(): Link {
    try {
      this.#rtnl.execute(createWireGuard({ name: DEVICE, mtu: this.mtu }))
    } catch (error) {
      if (error instanceof NetlinkError && error.code === 'ENOTSUP') {
        throw missingModule('wireguard', 'WireGuard devices')
      }
      throw error
    }
    return newLink(this.#rtnl, DEVICE)
  }

  /** Key and port. What peers it has stays, and is compared with the rest. */
  #configure(created: boolean): string[] {
    const { config, keys } = this.#options
    const { listenPort } = config
    const [now] = this.#generic.dump(dumpWireGuard(this.#device))
    if (now?.publicKey === keys.publicKey && now.listenPort === listenPort) return []
    this.#generic.execute(setWireGuard(this.#device, { privateKey: keys.privateKey, listenPort }))
    if (created) return []
    return [
      ...(now?.publicKey === keys.publicKey ? [] : ['another key']),
      ...(now?.listenPort === listenPort ? [] : [`port ${now?.listenPort ?? 0} -> ${listenPort}`]),
    ]
  }

  /**
   * An endpoint at which the peer answers is right, whatever its lease says: a NAT may give it another, and WireGuard
   * follows it there. Only where nobody answers the lease's has to be set again.
   */
  #asHeld(peer: ConfiguredPeer): HeldPeer {
    const { lastHandshake, allowedIps, ...rest } = peer
    const wanted = this.#peers.table.wanted(peer.publicKey)
    const proven = lastHandshake > 0 && this.#clock.wall() / 1000 - lastHandshake < PROVEN
    const endpoint =
      proven && wanted !== undefined && !sameEndpoint(wanted.endpoint, peer.endpoint)
        ? wanted.endpoint
        : peer.endpoint
    return { ...rest, endpoint, allowedIps: allowedIps.toSorted(bySubnet) }
  }
}
