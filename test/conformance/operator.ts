/** Somebody else on the machine, who does with netlink what `ip` and `bridge` do. */
import { type Ipv4, parseCidr, parseIpv4 } from '../../src/ip.ts'
import { addAddress, deleteAddress } from '../../src/netlink/address.ts'
import { Rtnl } from '../../src/netlink/conn.ts'
import {
  IFLA_IFNAME,
  IFLA_INFO_DATA,
  IFLA_INFO_KIND,
  IFLA_LINKINFO,
  NLM_F_APPEND,
  NLM_F_CREATE,
  NLM_F_EXCL,
  NLM_F_REPLACE,
  RT_TABLE_MAIN,
  RTA_GATEWAY,
  RTM_NEWLINK,
  RTN_UNICAST,
  RTNH_F_ONLINK,
  RTPROT_BOOT,
} from '../../src/netlink/constants.ts'
import { NetlinkError } from '../../src/netlink/errors.ts'
import { deleteFdbEntry, replaceFdbEntry } from '../../src/netlink/fdb.ts'
import {
  changeLink,
  changeVxlan,
  createVxlan,
  deleteLink,
  getLink,
  type Link,
} from '../../src/netlink/link.ts'
import { deleteNeighbour, replaceNeighbour } from '../../src/netlink/neighbour.ts'
import { deleteNexthop, replaceNexthop } from '../../src/netlink/nexthop.ts'
import type { NetlinkRequest } from '../../src/netlink/request.ts'
import { deleteRoute, type RouteSpec, replaceRoute } from '../../src/netlink/route.ts'
import type { NetlinkSocket } from '../../src/netlink/socket.ts'
import type { MessageWriter } from '../../src/netlink/wire.ts'
import { encodePayload, withFlags } from '../netlink/payload.ts'

export type Verb = 'add' | 'replace' | 'change' | 'append' | 'prepend' | 'delete'

/** As iproute2 has it for routes and neighbours. */
const VERBS: Readonly<Record<Exclude<Verb, 'delete'>, number>> = {
  add: NLM_F_CREATE | NLM_F_EXCL,
  replace: NLM_F_CREATE | NLM_F_REPLACE,
  change: NLM_F_REPLACE,
  append: NLM_F_CREATE | NLM_F_APPEND,
  prepend: NLM_F_CREATE,
}

export interface RouteWords {
  readonly to: string
  readonly via?: string
  readonly dev?: string
  readonly onlink?: boolean
  readonly metric?: number
  readonly tos?: number
  readonly table?: number
  readonly proto?: number
  readonly scope?: number
  readonly src?: string
  readonly nhid?: number
  /** `nexthop via <via> dev <dev>`, once for each. */
  readonly hops?: readonly { readonly via: string; readonly dev: string; readonly onlink?: boolean }[]
}

export class Operator {
  readonly #rtnl: Rtnl

  constructor(socket: NetlinkSocket) {
    this.#rtnl = new Rtnl(socket)
  }

  /** Does it and says how it went: 'ok', or the errno's name. The kernel's words differ between versions. */
  try(request: NetlinkRequest): string {
    const [error] = this.#rtnl.batch([request])
    return error?.code ?? 'ok'
  }

  do(request: NetlinkRequest): void {
    this.#rtnl.execute(request)
  }

  link(name: string): Link {
    return this.#rtnl.get(getLink({ name }))
  }

  hasLink(name: string): boolean {
    try {
      this.link(name)
      return true
    } catch (error) {
      if (error instanceof NetlinkError && error.code === 'ENODEV') return false
      throw error
    }
  }

  /** `ip link add <name> type veth peer name <peer>` */
  veth(name: string, peer: string): NetlinkRequest {
    return newLink(name, (writer) =>
      writer.attributeString(IFLA_INFO_KIND, 'veth').nested(IFLA_INFO_DATA, () =>
        // VETH_INFO_PEER: a struct ifinfomsg and attributes.
        writer.nested(1, () => writer.u32(0).u32(0).u32(0).u32(0).attributeString(IFLA_IFNAME, peer)),
      ),
    )
  }

  bridge(name: string): NetlinkRequest {
    return newLink(name, (writer) => writer.attributeString(IFLA_INFO_KIND, 'bridge'))
  }

  vxlan(name: string, given: Partial<Parameters<typeof createVxlan>[0]> = {}): NetlinkRequest {
    const base = { vni: 1, parent: 0, local: undefined, port: 8472, gbp: false, txQueueLength: 0 }
    return createVxlan({ ...base, ...given, name })
  }

  set(name: string, change: Omit<Parameters<typeof changeLink>[0], 'index' | 'name'>): NetlinkRequest {
    return changeLink({ ...change, index: this.link(name).index, name })
  }

  setVxlan(name: string, change: Omit<Parameters<typeof changeVxlan>[0], 'index' | 'name'>): NetlinkRequest {
    return changeVxlan({ ...change, index: this.link(name).index, name })
  }

  unlink(name: string): NetlinkRequest {
    return deleteLink(this.link(name))
  }

  address(verb: 'add' | 'delete', name: string, cidr: string): NetlinkRequest {
    const { address, length } = parsed(cidr)
    const of = { index: this.link(name).index, name, address, length }
    return verb === 'add' ? addAddress(of) : deleteAddress(of)
  }

  route(verb: Verb, words: RouteWords): NetlinkRequest {
    const spec: RouteSpec = {
      destination: parsed(words.to),
      table: words.table ?? RT_TABLE_MAIN,
      protocol: words.proto ?? (verb === 'delete' ? 0 : RTPROT_BOOT),
      // iproute2: a deletion asks for any scope, and what has no gateway is on the link.
      scope: words.scope ?? (verb === 'delete' ? 255 : words.via || words.nhid || words.hops ? 0 : 253),
      type: verb === 'delete' ? 0 : RTN_UNICAST,
      tos: words.tos ?? 0,
      metric: words.metric ?? 0,
      gateway: words.via === undefined ? undefined : ip(words.via),
      nexthopId: words.nhid,
      oif: words.dev === undefined ? undefined : this.link(words.dev).index,
      source: words.src === undefined ? undefined : ip(words.src),
      onlink: words.onlink ?? false,
      multipath: words.hops && this.#multipath(words.hops),
    }
    return verb === 'delete' ? deleteRoute(spec) : withFlags(replaceRoute(spec, ''), VERBS[verb])
  }

  /** RTA_MULTIPATH: for each a struct rtnexthop { u16 len; u8 flags, hops; u32 ifindex; } and an RTA_GATEWAY. */
  #multipath(hops: NonNullable<RouteWords['hops']>): Uint8Array {
    return encodePayload((writer) => {
      for (const { via, dev, onlink } of hops) {
        writer
          .octets(16, 0, onlink ? RTNH_F_ONLINK : 0, 0)
          .u32(this.link(dev).index)
          .attributeIp(RTA_GATEWAY, ip(via))
      }
    })
  }

  neighbour(
    verb: Verb,
    dev: string,
    address: string,
    mac = '02:00:00:00:00:99',
    state?: number,
  ): NetlinkRequest {
    const of = { index: this.link(dev).index, address: ip(address), mac, ...(state && { state }) }
    return verb === 'delete' ? deleteNeighbour(of, dev) : withFlags(replaceNeighbour(of, dev), VERBS[verb])
  }

  fdb(verb: Verb, dev: string, mac: string, dst: string): NetlinkRequest {
    const of = { index: this.link(dev).index, mac, destination: ip(dst) }
    return verb === 'delete' ? deleteFdbEntry(of, dev) : withFlags(replaceFdbEntry(of, dev), VERBS[verb])
  }

  nexthop(verb: Verb, id: number, via: string, dev: string): NetlinkRequest {
    if (verb === 'delete') return deleteNexthop(id)
    const of = { id, gateway: ip(via), oif: this.link(dev).index, onlink: true, protocol: RTPROT_BOOT }
    return withFlags(replaceNexthop(of, dev), VERBS[verb])
  }
}

function newLink(name: string, info: (writer: MessageWriter) => unknown): NetlinkRequest {
  return {
    type: RTM_NEWLINK,
    flags: NLM_F_CREATE | NLM_F_EXCL,
    operation: () => 'create a device',
    encode: (writer) =>
      writer
        .u32(0)
        .u32(0)
        .u32(0)
        .u32(0)
        .attributeString(IFLA_IFNAME, name)
        .nested(IFLA_LINKINFO, () => info(writer)),
  }
}

export function ip(text: string): Ipv4 {
  const address = parseIpv4(text)
  if (address === undefined) throw new Error(`${text} is no address`)
  return address
}

function parsed(cidr: string) {
  const found = parseCidr(cidr)
  if (found === undefined) throw new Error(`${cidr} is no prefix`)
  return found
}
