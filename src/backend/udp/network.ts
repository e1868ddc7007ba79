/**
 * udp: every packet between nodes passes this process, as a plain IPv4 packet in a UDP datagram.
 *
 *     pods - flannel0 (TUN) - thread in the addon - UDP socket - peers
 *
 * In the kernel stand only the device, its /32 address and one route for the whole network; which peer has which subnet is
 * the thread's own table. The device is tied to the process and goes with it, as flannel's does: one that stayed would be
 * in the way of a flannel that starts after us, which would make a flannel1 beside it and send nothing there.
 */
import { formatIpv4, formatSubnet, type Ipv4, netmask, type Subnet, subnetKey } from '../../ip.ts'
import type { Rtnl } from '../../netlink/conn.ts'
import { RT_SCOPE_UNIVERSE } from '../../netlink/constants.ts'
import type { Notification } from '../../netlink/monitor.ts'
import type { Lease } from '../../subnet/lease.ts'
import type { BackendContext, Network, NetworkHooks, Underlay } from '../backend.ts'
import { doubtOf, ensureLink, findLink, isUp, newLink, renameLink } from '../device.ts'
import type { DeviceOutcome, Doubt, LinkNotification, Model, PeerStatus, Surprised } from '../model.ts'
import { NetworkRoute } from '../networkroute.ts'
import type { May, Step, TableKey } from '../operations.ts'
import { Reconciler } from '../reconciler.ts'
import type { Tunnel } from './tunnel.ts'

export interface UdpNetworkOptions extends BackendContext, NetworkHooks {
  /** Closed when the network stops. */
  readonly tunnel: Tunnel
  /** UDP port of all nodes, 1..65535. */
  readonly port: number
  /** The subnet's first address, which the device holds as /32. */
  readonly address: Ipv4
}

/** Bytes that UDP over IPv4 adds to a packet: IPv4 20, UDP 8. */
const OVERHEAD = 28
const DEVICE = 'flannel%d'
/** Milliseconds between looks at what the thread has dropped. */
const REPORT_PERIOD = 10_000

export class UdpNetwork extends Reconciler implements Network {
  readonly answers = 'device'
  readonly #model: UdpModel
  readonly #options: UdpNetworkOptions
  #stopped = false

  constructor(options: UdpNetworkOptions) {
    const model = new UdpModel(options)
    super(model, options)
    this.#model = model
    this.#options = options
  }

  /** Takes effect with the next apply. */
  setUnderlay(underlay: Underlay): void {
    this.#model.underlay = underlay
    this.deviceChanged()
  }

  get mtu(): number {
    return this.#model.underlay.mtu - OVERHEAD
  }

  /** What the thread has done so far; `lastOffender` sent the last packet that no peer may send. */
  get details() {
    const { port, tunnel } = this.#options
    if (this.#stopped) return { port }
    const { lastOffender, ...counters } = tunnel.counters()
    return { port, ...counters, lastOffender: lastOffender === 0 ? 'none' : formatIpv4(lastOffender) }
  }

  override apply(): void {
    if (this.#stopped) return
    this.#model.handOver()
    super.apply()
  }

  override async run(signal: AbortSignal): Promise<void> {
    try {
      await Promise.all([super.run(signal), this.#reportDrops(signal)])
    } finally {
      this.#stopped = true
      this.#options.tunnel.close()
    }
  }

  /** One line for all that was dropped since the last: whoever sends us rubbish must not fill the log with it. */
  async #reportDrops(signal: AbortSignal): Promise<void> {
    const { clock, log, tunnel } = this.#options
    let before = tunnel.counters()
    for (;;) {
      await clock.sleep(REPORT_PERIOD, signal)
      if (signal.aborted) return
      const now = tunnel.counters()
      const strangers = now.strangers - before.strangers
      const foreign = now.foreign - before.foreign
      const malformed = now.malformed - before.malformed
      before = now
      if (strangers + foreign + malformed === 0) continue
      log.warn('dropped packets that no peer may send', {
        fromStrangers: strangers,
        withForeignSource: foreign,
        malformed,
        last: formatIpv4(now.lastOffender),
      })
    }
  }
}

class UdpModel implements Model {
  underlay: Underlay
  readonly #rtnl: Rtnl
  readonly #options: UdpNetworkOptions
  readonly #peers = new Map<number, { readonly subnet: Subnet; readonly host: Ipv4 }>()
  readonly #network: NetworkRoute
  /** The device as it was last seen; index 0 before there is one. */
  #device = { index: 0, name: DEVICE.replace('%d', '0') }
  #bound: Ipv4 | undefined
  #handedOver = true

  constructor(options: UdpNetworkOptions) {
    this.#options = options
    this.#rtnl = options.rtnl
    this.underlay = options.underlay
    this.#network = new NetworkRoute({ ...options, scope: RT_SCOPE_UNIVERSE, device: () => this.#device })
  }

  get name(): string {
    return this.#device.name
  }

  /** Hands the peers to the thread, if they have changed. */
  handOver(): void {
    if (this.#handedOver) return
    const peers = []
    for (const { subnet, host } of this.#peers.values()) {
      const { address: first, length } = subnet
      peers.push({ first, last: (first | ~netmask(length)) >>> 0, host })
    }
    this.#options.tunnel.setPeers(peers)
    this.#handedOver = true
  }

  ensureDevice(): DeviceOutcome {
    const { tunnel, port, address } = this.#options
    const changes: string[] = []
    const { index: before, name: known } = this.#device
    let link = before === 0 ? undefined : findLink(this.#rtnl, { index: before })
    const created = link === undefined
    if (link === undefined) {
      const name = tunnel.openDevice(DEVICE, address)
      link = newLink(this.#rtnl, name)
      this.#device = { index: link.index, name }
      changes.push(`created ${name}`)
    } else if (link.name !== known) {
      changes.push(renameLink(this.#rtnl, link, known))
    }
    const { name, index } = this.#device
    const mtu = this.underlay.mtu - OVERHEAD
    changes.push(...ensureLink(this.#rtnl, link, { name, mtu, address, created }))
    if (this.#bound !== this.underlay.address) {
      this.#bound = undefined
      tunnel.bind(this.underlay.address, port)
      this.#bound = this.underlay.address
      changes.push(`listening on UDP ${formatIpv4(this.#bound)}:${port}`)
    }
    if (index !== before) this.#network.want()
    return { moved: index !== before, recreated: undefined, changes }
  }

  stands(): boolean {
    return isUp(this.#rtnl, this.#device.index)
  }

  load(surprised: Surprised): void {
    this.#network.load(surprised)
  }

  observe(notification: Notification): TableKey[] | undefined {
    return this.#network.observe(notification)
  }

  doubt(notification: LinkNotification): Doubt {
    const { index, name } = this.#device
    const { underlay } = this
    if (notification.kind === 'address') {
      const { value } = notification
      if (typeof value.address !== 'number') return 'nothing'
      return value.index === index ? 'entries' : 'nothing'
    }
    const { value: link, deleted } = notification
    if (link.index !== index) return 'nothing'
    return doubtOf(link, deleted, { index, name, mtu: underlay.mtu - OVERHEAD })
  }

  /** Of any backend type, as in flannel: whoever listens on our port can be reached. */
  put({ subnet, attributes }: Lease): void {
    const key = subnetKey(subnet)
    const host = attributes.publicIP
    if (this.#peers.get(key)?.host === host) return
    this.#options.log.info(`Subnet added: ${formatSubnet(subnet)} via ${formatIpv4(host)}`)
    this.#peers.set(key, { subnet, host })
    this.#handedOver = false
  }

  remove(subnet: Subnet): void {
    if (!this.#peers.delete(subnetKey(subnet))) return
    this.#options.log.info(`Subnet removed: ${formatSubnet(subnet)}`)
    this.#handedOver = false
  }

  expect(): void {}

  *subnets(): Generator<Subnet> {
    for (const { subnet } of this.#peers.values()) yield subnet
  }

  get size(): number {
    return this.#peers.size
  }

  *plan(may: May): Generator<Step> {
    yield [this.#network.writes(may)]
    yield [this.#network.deletions(may)]
  }

  inspect(): (subnet: Subnet) => PeerStatus | undefined {
    // All peers stand behind the one route, and are in the thread's table, or none is.
    const entries = { peer: this.#handedOver ? 'ok' : 'missing', route: this.#network.state() } as const
    return (subnet) => {
      const peer = this.#peers.get(subnetKey(subnet))
      return peer && { subnet, publicIP: peer.host, mac: undefined, route: 'network', entries }
    }
  }

  counts() {
    return { route: this.#network.counts }
  }
}
