import { type Ipv4, netmask, sameSubnet, subnetOf } from '../../src/ip.ts'
import { decodeAddress } from '../../src/netlink/address.ts'
import {
  AF_BRIDGE,
  AF_INET,
  IFF_UP,
  IFLA_ADDRESS,
  IFLA_IFNAME,
  IFLA_LINKINFO,
  IFLA_MTU,
  IFLA_TXQLEN,
  NDA_IFINDEX,
  NHA_OIF,
  NLM_F_ACK,
  NLM_F_APPEND,
  NLM_F_CREATE,
  NLM_F_DUMP,
  NLM_F_DUMP_INTR,
  NLM_F_EXCL,
  NLM_F_MULTI,
  NLM_F_REPLACE,
  NLMSG_DONE,
  RT_SCOPE_LINK,
  RT_TABLE_MAIN,
  RTA_OIF,
  RTA_TABLE,
  RTM_DELADDR,
  RTM_DELLINK,
  RTM_DELNEIGH,
  RTM_DELNEXTHOP,
  RTM_DELROUTE,
  RTM_GETADDR,
  RTM_GETLINK,
  RTM_GETNEIGH,
  RTM_GETNEXTHOP,
  RTM_GETROUTE,
  RTM_NEWADDR,
  RTM_NEWLINK,
  RTM_NEWNEIGH,
  RTM_NEWNEXTHOP,
  RTM_NEWROUTE,
  RTN_UNICAST,
  RTPROT_KERNEL,
} from '../../src/netlink/constants.ts'
import { decodeFdbEntry } from '../../src/netlink/fdb.ts'
import { decodeNeighbour } from '../../src/netlink/neighbour.ts'
import { decodeNexthop, type Nexthop } from '../../src/netlink/nexthop.ts'
import { decodeRoute, type Route } from '../../src/netlink/route.ts'
import type { NetlinkSocket } from '../../src/netlink/socket.ts'
import { type NetlinkMessage, readMessages } from '../../src/netlink/wire.ts'
import { encodeMessage } from '../netlink/payload.ts'
import { ForwardingTable } from './kernel/fdb.ts'
import { LinkTable, linkInfo, macOf } from './kernel/links.ts'
import {
  ackMessage,
  addressPayload,
  attributesOf,
  type FakeLink,
  fdbPayload,
  getU32,
  linkPayload,
  neighbourPayload,
  nexthopPayload,
  routePayload,
  text,
} from './kernel/message.ts'
import { NeighbourTable } from './kernel/neighbours.ts'
import { NexthopTable } from './kernel/nexthops.ts'
import { printFdbEntry, printNeighbour, printNexthop, printRoute } from './kernel/print.ts'
import { Refusal } from './kernel/refusal.ts'
import { hopsOf, RouteTables } from './kernel/routes.ts'
import { FakeSocket } from './kernel/socket.ts'
import { WireGuardTable } from './kernel/wireguard.ts'

/** Kernel state in the words of `ip` and `bridge`, one line an entry. */
export interface KernelState {
  /** All tables but `local`, the main one first. */
  readonly routes: readonly string[]
  readonly neighbours: readonly string[]
  readonly fdb: readonly string[]
  readonly nexthops: readonly string[]
  /** `<device> <address>/<length>` */
  readonly addresses: readonly string[]
}

/** Answers one request of this type with this error, though nothing is wrong with it, `times` times. */
export interface Injection {
  /** RTM_* */
  readonly type: number
  readonly code: ConstructorParameters<typeof Refusal>[0]
  /** Refuses only what comes from the socket with this port id. */
  readonly from: number
  times: number
}

/** How many dumped entries fit into one datagram: few, so that even small dumps come in several. */
const PER_DATAGRAM = 3
const LOOPBACK = 1
const RTN_LOCAL = 2
const VETH_INFO_PEER = 1
const IFINFOMSG = 16

/**
 * A kernel in memory that speaks rtnetlink: IPv4, VXLAN and veth devices, and what a daemon for these needs. It
 * refuses what Linux refuses with the same errno and words, and loses entries when Linux does: test/conformance
 * runs one suite over both.
 */
export class FakeKernel {
  readonly #links = new LinkTable()
  readonly #routes = new RouteTables()
  readonly #neighbours = new NeighbourTable()
  readonly #fdb = new ForwardingTable()
  readonly #nexthops = new NexthopTable()
  readonly wireguard = new WireGuardTable()
  /** And whose doings each does not want to hear of. */
  readonly #monitors = new Map<FakeSocket, number | undefined>()
  #portId = 3_000_000_000
  /** Refusals to come; a test that injects asserts that its injections were used up. */
  readonly injections: Injection[] = []
  /** So many dumps to come are marked as interrupted. */
  interruptions = 0
  /** The answers to so many requests to come are lost, though the requests are carried out. */
  lostAnswers = 0
  /** Kinds of device for which it has no module. */
  readonly lacking = new Set<string>()
  /** Whether nexthop objects exist, as they do since Linux 5.3. */
  supportsNexthops = true

  open(): NetlinkSocket {
    return new FakeSocket(this.#portId++, (datagram, socket) => this.#receive(datagram, socket))
  }

  /** A socket to generic netlink. */
  openGeneric(): NetlinkSocket {
    return new FakeSocket(this.#portId++, (datagram, socket) => this.#receiveGeneric(datagram, socket))
  }

  /** As `wg show all dump` tells of peers. */
  peers(): readonly string[] {
    return this.wireguard.print((index) => this.#links.get(index)?.name ?? `if${index}`)
  }

  /** A socket in all groups that the daemon listens to; as on a real kernel `ignore` does not hide deleted routes. */
  monitor(ignore?: number): NetlinkSocket {
    const socket = new FakeSocket(
      this.#portId++,
      () => undefined,
      (closed) => this.#monitors.delete(closed),
    )
    this.#monitors.set(socket, ignore)
    return socket
  }

  /** What is queued for the monitors is lost, and they are told so. */
  overrun(): void {
    for (const monitor of this.#monitors.keys()) monitor.overrun()
  }

  state(): KernelState {
    const nameOf = (index: number) => this.#links.get(index)?.name ?? `if${index}`
    const routes = this.#routes.list().flatMap((route) =>
      printRoute(this.#resolved(route), nameOf)
        .split('\n')
        .map((line) => line.trimEnd()),
    )
    const other = (line: string) => line.includes(' table ')
    return {
      routes: [...routes.filter((line) => !other(line)), ...routes.filter(other)],
      neighbours: this.#neighbours
        .list()
        .map((n) => printNeighbour(n, nameOf))
        .sort(),
      fdb: this.#fdb
        .list()
        .map((entry) => printFdbEntry(entry, nameOf))
        .sort(),
      nexthops: this.#nexthops.list().map((nexthop) => printNexthop(nexthop, nameOf)),
      addresses: this.#links.printAddresses(),
    }
  }

  #receive(datagram: Uint8Array, socket: FakeSocket): void {
    const lost = this.lostAnswers > 0
    if (lost) this.lostAnswers--
    const answer = (bytes: Uint8Array) => {
      if (!lost) socket.push(bytes)
    }
    for (const request of readMessages(datagram)) {
      try {
        this.#refuseIfInjected(request, socket.portId)
        if ((request.type & 3) === 2) this.#answer(request, socket.portId, answer)
        else this.#change(request, socket.portId)
        if ((request.flags & NLM_F_ACK) !== 0) answer(ackMessage(request, socket.portId, 0, undefined))
      } catch (error) {
        if (!(error instanceof Refusal)) throw error
        answer(ackMessage(request, socket.portId, error.errno, error.text))
      }
    }
    if (lost) socket.overrun()
  }

  #receiveGeneric(datagram: Uint8Array, socket: FakeSocket): void {
    const { portId } = socket
    for (const request of readMessages(datagram)) {
      const { flags, sequence } = request
      try {
        this.#refuseIfInjected(request, portId)
        if (this.lacking.has('wireguard')) throw new Refusal('ENOENT')
        const dump = (flags & NLM_F_DUMP) === NLM_F_DUMP
        for (const [type, payload] of this.wireguard.handle(request, (index) => this.#links.get(index)))
          socket.push(encodeMessage({ type, flags: dump ? NLM_F_MULTI : 0, sequence, portId, payload }))
        if (dump) {
          const payload = new Uint8Array(4)
          socket.push(encodeMessage({ type: NLMSG_DONE, flags: NLM_F_MULTI, sequence, portId, payload }))
        }
        if ((flags & NLM_F_ACK) !== 0) socket.push(ackMessage(request, portId, 0, undefined))
      } catch (error) {
        if (!(error instanceof Refusal)) throw error
        socket.push(ackMessage(request, portId, error.errno, error.text))
      }
    }
  }

  #refuseIfInjected({ type }: NetlinkMessage, portId: number): void {
    const injection = this.injections.find((i) => i.times > 0 && i.type === type && i.from === portId)
    if (injection === undefined) return
    injection.times--
    throw new Refusal(injection.code)
  }

  #change({ type, flags, payload }: NetlinkMessage, portId: number): void {
    switch (type) {
      case RTM_NEWLINK:
        this.#newLink(payload, flags, portId)
        break
      case RTM_DELLINK:
        this.#deleteLink(this.#existing(getU32(payload, 4)), portId)
        break
      case RTM_NEWADDR:
        this.#newAddress(payload, portId)
        break
      case RTM_DELADDR:
        this.#deleteAddress(payload, portId)
        break
      case RTM_NEWROUTE:
        this.#newRoute(read(decodeRoute(payload)), flags, portId)
        break
      case RTM_DELROUTE: {
        const wanted = read(decodeRoute(payload))
        this.#checkNexthopId(wanted)
        const gone = this.#routes.delete(wanted)
        this.#notify(RTM_DELROUTE, routePayload(this.#resolved(gone)), portId)
        break
      }
      case RTM_NEWNEIGH:
        this.#newNeighbour(payload, flags, portId)
        break
      case RTM_DELNEIGH:
        this.#deleteNeighbour(payload, portId)
        break
      case RTM_NEWNEXTHOP:
        this.#newNexthop(read(decodeNexthop(payload)), flags, portId)
        break
      case RTM_DELNEXTHOP: {
        this.#needNexthops()
        const gone = this.#nexthops.delete(read(decodeNexthop(payload)).id)
        this.#notify(RTM_DELNEXTHOP, nexthopPayload(gone), portId)
        this.#routes.flush((route) => route.nexthopId === gone.id)
        break
      }
      default:
        throw new Refusal('EOPNOTSUPP')
    }
  }

  // Devices

  #newLink(payload: Uint8Array, flags: number, portId: number): void {
    const attributes = attributesOf(payload, IFINFOMSG)
    const index = getU32(payload, 4)
    const nameBytes = attributes.get(IFLA_IFNAME)
    const name = nameBytes && text(nameBytes)
    const link =
      index !== 0 ? this.#links.get(index) : name === undefined ? undefined : this.#links.named(name)
    if (link !== undefined) {
      if ((flags & NLM_F_EXCL) !== 0) throw new Refusal('EEXIST')
      this.#changeLink(link, payload, attributes)
      return
    }
    if ((flags & NLM_F_CREATE) === 0 || name === undefined) throw new Refusal('ENODEV')
    const { kind, data } = linkInfo(attributes.get(IFLA_LINKINFO) ?? new Uint8Array())
    const mac = attributes.get(IFLA_ADDRESS)
    const mtu = attributes.get(IFLA_MTU)
    const queue = attributes.get(IFLA_TXQLEN)
    const given: Partial<FakeLink> = {
      ...(mac && { mac: macOf(mac) }),
      ...(mtu && { mtu: getU32(mtu, 0) }),
      ...(queue && { txQueueLength: getU32(queue, 0) }),
    }
    if (this.lacking.has(kind)) throw new Refusal('EOPNOTSUPP', 'Unknown device type')
    if (kind !== 'veth') {
      this.#notifyLink(this.#addLink(name, kind, data, given), portId)
      return
    }
    const peer = attributesOf(attributesOf(data, 0).get(VETH_INFO_PEER) ?? new Uint8Array(), IFINFOMSG)
    const other = this.#links.add(text(peer.get(IFLA_IFNAME) ?? new Uint8Array()), 'veth')
    const veth = this.#links.add(name, 'veth', { ...given, peer: other.index, carrier: false })
    Object.assign(other, { peer: veth.index, carrier: false })
    this.#notifyLink(other, 0)
    this.#notifyLink(veth, portId)
  }

  #addLink(name: string, kind: string, data: Uint8Array, given: Partial<FakeLink>): FakeLink {
    switch (kind) {
      case 'vxlan':
        return this.#links.addVxlan(name, attributesOf(data, 0), given)
      case 'ipip':
        return this.#links.addIpip(name, attributesOf(data, 0), given)
      case 'bridge':
      case 'wireguard':
        return this.#links.add(name, kind, given)
      default:
        throw new Refusal('EOPNOTSUPP', 'Unknown device type')
    }
  }

  #changeLink(link: FakeLink, payload: Uint8Array, attributes: Map<number, Uint8Array>): void {
    const info = attributes.get(IFLA_LINKINFO)
    if (info !== undefined) this.#links.changeVxlan(link, attributesOf(linkInfo(info).data, 0))
    const mac = attributes.get(IFLA_ADDRESS)
    if (mac !== undefined) {
      link.mac = macOf(mac)
      this.#loseNeighbours(link.index)
    }
    const mtu = attributes.get(IFLA_MTU)
    if (mtu !== undefined) this.#links.changeMtu(link, getU32(mtu, 0))
    const queue = attributes.get(IFLA_TXQLEN)
    if (queue !== undefined) link.txQueueLength = getU32(queue, 0)
    const name = attributes.get(IFLA_IFNAME)
    if (name !== undefined && text(name) !== link.name) {
      this.#links.rename(link, text(name))
      // Their labels have changed.
      for (const { address, length } of link.addresses)
        this.#notify(RTM_NEWADDR, addressPayload(link.index, address, length), 0)
    }
    const up = (getU32(payload, 8) & IFF_UP) !== 0
    if ((getU32(payload, 12) & IFF_UP) !== 0 && up !== link.up) this.#setUp(link, up)
    this.#notifyLink(link, 0)
  }

  #setUp(link: FakeLink, up: boolean): void {
    link.up = up
    const other = this.#links.get(link.peer)
    if (other !== undefined) {
      other.carrier = up
      this.#notifyLink(other, 0)
    }
    if (up) {
      for (const { address, length } of link.addresses) this.#addConnected(link, address, length)
    } else {
      this.#loseRoutes(link.index)
      this.#loseNexthops(link.index)
      this.#loseNeighbours(link.index)
      this.#loseFdb(link.index, false)
    }
  }

  /** A veth takes its other end along, and an underlying device the VXLAN ones on it. */
  #deleteLink(link: FakeLink, portId: number): void {
    if (link.kind === undefined) throw new Refusal('EOPNOTSUPP')
    const doomed = [link]
    const other = this.#links.get(link.peer)
    if (other !== undefined) doomed.push(other)
    for (const under of [...doomed])
      doomed.push(...this.#links.list().filter((l) => l.vxlan?.parent === under.index))
    for (const gone of doomed) {
      if (gone.up) this.#setUp(gone, false)
      // Those that were added while it was down.
      this.#loseNeighbours(gone.index)
      this.#loseFdb(gone.index, true)
      for (const { address, length } of gone.addresses.splice(0))
        this.#notify(RTM_DELADDR, addressPayload(gone.index, address, length), 0)
      this.#links.remove(gone.index)
      this.wireguard.lose(gone.index)
      this.#notify(RTM_DELLINK, linkPayload(gone), gone === link ? portId : 0)
    }
  }

  #existing(index: number): FakeLink {
    const link = this.#links.get(index)
    if (link === undefined) throw new Refusal('ENODEV')
    return link
  }

  // Addresses

  #newAddress(payload: Uint8Array, portId: number): void {
    const { index, address, length } = read(decodeAddress(payload))
    const link = this.#existing(index)
    if (typeof address !== 'number') throw new Refusal('EOPNOTSUPP')
    if (link.addresses.some((a) => a.address === address && a.length === length)) {
      throw new Refusal('EEXIST', 'Address already assigned')
    }
    link.addresses.push({ address, length })
    this.#notify(RTM_NEWADDR, addressPayload(index, address, length), portId)
    if (link.up) this.#addConnected(link, address, length)
  }

  #deleteAddress(payload: Uint8Array, portId: number): void {
    const { index, address, length } = read(decodeAddress(payload))
    const link = this.#links.get(index)
    if (link === undefined) throw new Refusal('ENODEV', 'Device not found')
    const at = link.addresses.findIndex((a) => a.address === address && a.length === length)
    if (at < 0 || typeof address !== 'number') {
      throw new Refusal('EADDRNOTAVAIL', 'Address not found')
    }
    link.addresses.splice(at, 1)
    this.#notify(RTM_DELADDR, addressPayload(index, address, length), portId)
    const subnet = subnetOf(address, length)
    const shared = link.addresses.some((a) => sameSubnet(subnetOf(a.address, a.length), subnet))
    if (length < 32 && !shared && link.up) {
      this.#unlessRefused(() => {
        const gone = this.#routes.delete(connected(link.index, address, length))
        this.#notify(RTM_DELROUTE, routePayload(gone), 0)
      })
    }
    if (this.#links.owner(address) === undefined) this.#routes.flush((route) => route.source === address)
    if (link.addresses.length === 0) {
      this.#loseRoutes(index)
      this.#loseNeighbours(index)
    }
  }

  #addConnected(link: FakeLink, address: Ipv4, length: number): void {
    if (length === 32) return
    const route = connected(link.index, address, length)
    this.#unlessRefused(() => {
      this.#routes.write(route, NLM_F_CREATE | NLM_F_APPEND)
      this.#notify(RTM_NEWROUTE, routePayload(route), 0, NLM_F_CREATE)
    })
  }

  /** What the kernel does by the way, and nobody hears of when it does not go: somebody may have replaced its route. */
  #unlessRefused(act: () => void): void {
    try {
      act()
    } catch (error) {
      if (!(error instanceof Refusal)) throw error
    }
  }

  // Routes and nexthop objects

  #newRoute(route: Route, flags: number, portId: number): void {
    const { address, length } = route.destination
    if ((address & netmask(length)) >>> 0 !== address) {
      throw new Refusal('EINVAL', 'Invalid prefix for given prefix length')
    }
    const complete = this.#checkGateway(route)
    const told = this.#routes.write(complete, flags)
    if (told !== undefined) this.#notify(RTM_NEWROUTE, routePayload(this.#resolved(complete)), portId, told)
  }

  /** fib_check_nh: returns the route with the device that the kernel found for it. */
  #checkGateway(route: Route): Route {
    const { gateway, nexthopId, multipath, oif, onlink, source } = route
    this.#checkNexthopId(route)
    // That several gateways can be had is not checked here.
    if (nexthopId !== undefined || multipath !== undefined) return route
    if (source !== undefined && this.#links.owner(source) === undefined)
      throw new Refusal('EINVAL', 'Invalid prefsrc address')
    if (gateway === undefined || onlink) {
      const link = this.#links.get(oif ?? 0)
      if (gateway === undefined) {
        if (link === undefined) throw new Refusal('ENODEV')
        if (!link.up) throw new Refusal('ENETDOWN', 'Device for nexthop is not up')
        return { ...route, onlink: false }
      }
      if (link === undefined) throw new Refusal('ENODEV', 'Nexthop device required for onlink')
      if (!link.up) throw new Refusal('ENETDOWN', 'Nexthop device is not up')
      if (link.addresses.some((a) => a.address === gateway))
        throw new Refusal('EINVAL', 'Nexthop has invalid gateway')
      return route
    }
    const through = this.#routes.lookUp(
      gateway,
      (r) => r.scope >= RT_SCOPE_LINK && (oif === undefined || r.oif === oif),
    )
    if (through?.oif === undefined) throw new Refusal('ENETUNREACH', 'Nexthop has invalid gateway')
    return { ...route, oif: through.oif }
  }

  #checkNexthopId({ nexthopId }: Route): void {
    if (nexthopId !== undefined && this.#nexthops.get(nexthopId) === undefined)
      throw new Refusal('EINVAL', 'Nexthop id does not exist')
  }

  #newNexthop(nexthop: Nexthop, flags: number, portId: number): void {
    this.#needNexthops()
    const link = this.#links.get(nexthop.oif)
    if (link === undefined) throw new Refusal('EINVAL', 'Invalid device index')
    if (!link.up) throw new Refusal('ENETDOWN', 'Nexthop device is not up')
    const replaced = this.#nexthops.write(nexthop, flags)
    this.#notify(RTM_NEWNEXTHOP, nexthopPayload(nexthop), portId, flags)
    if (!replaced) return
    for (const route of this.#routes.through(nexthop.id))
      this.#notify(RTM_NEWROUTE, routePayload(this.#resolved(route)), portId, NLM_F_REPLACE)
  }

  #needNexthops(): void {
    if (!this.supportsNexthops) throw new Refusal('EOPNOTSUPP')
  }

  /** A route through a nexthop object, with what the object says. */
  #resolved(route: Route): Route {
    const nexthop = route.nexthopId === undefined ? undefined : this.#nexthops.get(route.nexthopId)
    if (nexthop === undefined) return route
    return { ...route, gateway: nexthop.gateway, oif: nexthop.oif, onlink: nexthop.onlink }
  }

  #loseRoutes(index: number): void {
    this.#routes.flush((route) => route.oif === index || hopsOf(route).some((hop) => hop.oif === index))
  }

  #loseNexthops(index: number): void {
    const lost = this.#nexthops.lose(index)
    this.#routes.flush((route) => route.nexthopId !== undefined && lost.has(route.nexthopId))
  }

  // Neighbours and FDB entries

  #newNeighbour(payload: Uint8Array, flags: number, portId: number): void {
    const link = this.#existing(getU32(payload, 4))
    if (payload[0] === AF_BRIDGE) {
      if (link.kind !== 'vxlan') throw new Refusal('EOPNOTSUPP')
      const told = this.#fdb.write(read(decodeFdbEntry(payload)), flags)
      if (told !== undefined) this.#notify(RTM_NEWNEIGH, fdbPayload(told), 0)
      return
    }
    const told = this.#neighbours.write(read(decodeNeighbour(payload)), flags)
    if (told !== undefined) this.#notify(RTM_NEWNEIGH, neighbourPayload(told), portId)
  }

  #deleteNeighbour(payload: Uint8Array, portId: number): void {
    const link = this.#existing(getU32(payload, 4))
    if (payload[0] === AF_BRIDGE) {
      if (link.kind !== 'vxlan') throw new Refusal('EOPNOTSUPP')
      const gone = this.#fdb.delete(read(decodeFdbEntry(payload)))
      if (gone !== undefined) this.#notify(RTM_DELNEIGH, fdbPayload(gone), 0)
      return
    }
    const gone = this.#neighbours.delete(link.index, read(decodeNeighbour(payload)).address)
    // First the entry fails, by our doing; then it goes, by the kernel's.
    this.#notify(RTM_NEWNEIGH, neighbourPayload(gone), portId)
    this.#notify(RTM_DELNEIGH, neighbourPayload(gone), 0)
  }

  #loseNeighbours(index: number): void {
    for (const gone of this.#neighbours.lose(index)) this.#notify(RTM_DELNEIGH, neighbourPayload(gone), 0)
  }

  #loseFdb(index: number, all: boolean): void {
    for (const gone of this.#fdb.lose(index, all)) this.#notify(RTM_DELNEIGH, fdbPayload(gone), 0)
  }

  // Questions

  #answer(request: NetlinkMessage, portId: number, answer: (bytes: Uint8Array) => void): void {
    const { type, flags, sequence, payload } = request
    if ((flags & NLM_F_DUMP) !== NLM_F_DUMP) {
      const [newType, found] = this.#find(type, payload)
      answer(encodeMessage({ type: newType, flags: 0, sequence, portId, payload: found }))
      return
    }
    const entries = this.#dump(type, payload)
    const interrupted = this.interruptions > 0 ? NLM_F_DUMP_INTR : 0
    if (interrupted !== 0) this.interruptions--
    const multi = NLM_F_MULTI | interrupted
    const messages = entries.map((entry) =>
      encodeMessage({ type: type - 2, flags: multi, sequence, portId, payload: entry }),
    )
    const done = new Uint8Array(4)
    messages.push(encodeMessage({ type: NLMSG_DONE, flags: multi, sequence, portId, payload: done }))
    for (let i = 0; i < messages.length; i += PER_DATAGRAM)
      answer(Buffer.concat(messages.slice(i, i + PER_DATAGRAM)))
  }

  #find(type: number, payload: Uint8Array): [type: number, payload: Uint8Array] {
    if (type === RTM_GETLINK) {
      const name = attributesOf(payload, IFINFOMSG).get(IFLA_IFNAME)
      const link = name === undefined ? this.#links.get(getU32(payload, 4)) : this.#links.named(text(name))
      if (link === undefined) throw new Refusal('ENODEV')
      return [RTM_NEWLINK, linkPayload(link)]
    }
    if (type !== RTM_GETROUTE) throw new Refusal('EOPNOTSUPP')
    const { address } = read(decodeRoute(payload)).destination
    const asked = { destination: { address, length: 32 }, cloned: true }
    const own = this.#links.owner(address)
    if (own?.up) {
      return [
        RTM_NEWROUTE,
        routePayload({ ...connected(LOOPBACK, address, 32), ...asked, type: RTN_LOCAL, table: 255 }),
      ]
    }
    const found = this.#routes.lookUp(address)
    if (found === undefined) throw new Refusal('ENETUNREACH')
    const { nexthopId: _, ...route } = this.#resolved(found)
    return [RTM_NEWROUTE, routePayload({ ...route, nexthopId: undefined, ...asked })]
  }

  #dump(type: number, payload: Uint8Array): Uint8Array[] {
    switch (type) {
      case RTM_GETLINK:
        return this.#links.list().map(linkPayload)
      case RTM_GETADDR: {
        const index = getU32(payload, 4)
        if (payload[0] !== AF_INET) return []
        const links = index === 0 ? this.#links.list() : [this.#existing(index)]
        return links.flatMap((link) =>
          link.addresses.map((a) => addressPayload(link.index, a.address, a.length)),
        )
      }
      case RTM_GETROUTE: {
        const attributes = attributesOf(payload, 12)
        const table = attributes.get(RTA_TABLE)
        const oif = attributes.get(RTA_OIF)
        return this.#routes
          .list(table && getU32(table, 0))
          .map((route) => this.#resolved(route))
          .filter((route) => oif === undefined || route.oif === getU32(oif, 0))
          .map(routePayload)
      }
      case RTM_GETNEIGH: {
        if (payload[0] === AF_BRIDGE) return this.#fdb.list(getU32(payload, 4)).map(fdbPayload)
        if (payload[0] !== AF_INET) return []
        const index = attributesOf(payload, 12).get(NDA_IFINDEX)
        return this.#neighbours
          .list()
          .filter((n) => index === undefined || n.index === getU32(index, 0))
          .map(neighbourPayload)
      }
      case RTM_GETNEXTHOP: {
        this.#needNexthops()
        const oif = attributesOf(payload, 8).get(NHA_OIF)
        return this.#nexthops.list(oif && getU32(oif, 0)).map(nexthopPayload)
      }
      default:
        throw new Refusal('EOPNOTSUPP')
    }
  }

  #notifyLink(link: FakeLink, portId: number): void {
    this.#notify(RTM_NEWLINK, linkPayload(link), portId)
  }

  #notify(type: number, payload: Uint8Array, portId: number, flags = 0): void {
    const datagram = encodeMessage({ type, flags, sequence: 0, portId, payload })
    for (const [monitor, ignore] of this.#monitors)
      if (portId !== ignore || type === RTM_DELROUTE) monitor.push(datagram)
  }
}

/** The route to a device's own subnet, which the kernel makes. */
function connected(index: number, address: Ipv4, length: number): Route {
  return {
    ...{ destination: subnetOf(address, length), table: RT_TABLE_MAIN, protocol: RTPROT_KERNEL },
    ...{
      scope: RT_SCOPE_LINK,
      type: RTN_UNICAST,
      tos: 0,
      metric: 0,
      gateway: undefined,
      nexthopId: undefined,
    },
    ...{ oif: index, source: address, onlink: false, multipath: undefined, cloned: false },
  }
}

function read<T>(value: T | undefined): T {
  if (value === undefined) throw new Refusal('EINVAL')
  return value
}
