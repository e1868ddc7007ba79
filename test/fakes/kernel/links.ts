import { formatIpv4, type Ipv4, type MacAddress } from '../../../src/ip.ts'
import {
  IFLA_INFO_DATA,
  IFLA_INFO_KIND,
  IFLA_IPTUN_LOCAL,
  IFLA_IPTUN_PMTUDISC,
  IFLA_IPTUN_REMOTE,
  IFLA_IPTUN_TOS,
  IFLA_IPTUN_TTL,
  IFLA_VXLAN_GBP,
  IFLA_VXLAN_ID,
  IFLA_VXLAN_L2MISS,
  IFLA_VXLAN_L3MISS,
  IFLA_VXLAN_LEARNING,
  IFLA_VXLAN_LINK,
  IFLA_VXLAN_LOCAL,
  IFLA_VXLAN_PORT,
  IFLA_VXLAN_PROXY,
  IFLA_VXLAN_RSC,
} from '../../../src/netlink/constants.ts'
import type { VxlanAttributes } from '../../../src/netlink/link.ts'
import { attributesOf, type FakeLink, getU32, text } from './message.ts'
import { Refusal } from './refusal.ts'

/** Bytes that VXLAN over IPv4 adds. */
const HEADROOM = 50

/** Devices (net/core/rtnetlink.c, drivers/net/vxlan/vxlan_core.c) and their IPv4 addresses. */
export class LinkTable {
  readonly #links = new Map<number, FakeLink>()
  /** An index is not used twice. */
  #last = 0

  constructor() {
    this.add('lo', undefined, { mac: '00:00:00:00:00:00', mtu: 65536 })
  }

  get(index: number): FakeLink | undefined {
    return this.#links.get(index)
  }

  named(name: string): FakeLink | undefined {
    return this.list().find((link) => link.name === name)
  }

  list(): FakeLink[] {
    return [...this.#links.values()]
  }

  add(name: string, kind: FakeLink['kind'], given: Partial<FakeLink> = {}): FakeLink {
    if (this.named(name) !== undefined) throw new Refusal('EEXIST')
    const index = ++this.#last
    const mac = `02:fa:00:00:${hex(index >> 8)}:${hex(index & 255)}`
    const base = {
      up: false,
      mtu: 1500,
      mac,
      txQueueLength: 1000,
      peer: 0,
      carrier: true,
      vxlan: undefined,
      ipip: undefined,
    }
    const link: FakeLink = { ...base, ...given, index, name, kind, addresses: [] }
    this.#links.set(index, link)
    return link
  }

  remove(index: number): void {
    this.#links.delete(index)
  }

  /** vxlan_dev_configure: attributes that are not given are the kernel's own choice, as learning is. */
  addVxlan(name: string, data: Map<number, Uint8Array>, given: Partial<FakeLink>): FakeLink {
    const vni = data.get(IFLA_VXLAN_ID)
    if (vni === undefined)
      throw new Refusal('EINVAL', 'Required attributes not provided to perform the operation')
    const vxlan = changed(
      { ...DEFAULTS, vni: getU32(vni, 0), port: u16be(data.get(IFLA_VXLAN_PORT)) ?? 8472 },
      data,
    )
    const parent = this.#checkParent(vxlan.parent)
    const clash = this.list().find(
      ({ vxlan: other }) =>
        other !== undefined &&
        other.vni === vxlan.vni &&
        other.port === vxlan.port &&
        other.gbp === vxlan.gbp,
    )
    if (clash !== undefined)
      throw new Refusal('EEXIST', 'A VXLAN device with the specified VNI already exists')
    const most = parent === undefined ? 65535 : parent.mtu - HEADROOM
    const mtu = Math.min(given.mtu ?? (parent === undefined ? 1500 : most), most)
    return this.add(name, 'vxlan', { ...given, mtu, vxlan })
  }

  /** ip_tunnel_newlink: of two tunnels with the same ends, packets could not tell which one they are for. */
  addIpip(name: string, data: Map<number, Uint8Array>, given: Partial<FakeLink>): FakeLink {
    const address = (type: number) => Buffer.from(data.get(type) ?? Buffer.alloc(4)).readUInt32BE()
    const octet = (type: number, byDefault: number) => data.get(type)?.[0] ?? byDefault
    const ipip = {
      local: address(IFLA_IPTUN_LOCAL),
      remote: address(IFLA_IPTUN_REMOTE),
      ttl: octet(IFLA_IPTUN_TTL, 0),
      tos: octet(IFLA_IPTUN_TOS, 0),
      pathMtuDiscovery: octet(IFLA_IPTUN_PMTUDISC, 1) !== 0,
    }
    const clash = this.list().some((l) => l.ipip?.local === ipip.local && l.ipip.remote === ipip.remote)
    if (clash) throw new Refusal('EEXIST')
    return this.add(name, 'ipip', { mtu: 1480, ...given, ipip })
  }

  changeVxlan(link: FakeLink, data: Map<number, Uint8Array>): void {
    if (link.vxlan === undefined) throw new Refusal('EOPNOTSUPP')
    const vni = data.get(IFLA_VXLAN_ID)
    if (vni !== undefined && getU32(vni, 0) !== link.vxlan.vni)
      throw new Refusal('EOPNOTSUPP', 'Cannot change VNI')
    const port = u16be(data.get(IFLA_VXLAN_PORT))
    if (port !== undefined && port !== link.vxlan.port) throw new Refusal('EOPNOTSUPP', 'Cannot change port')
    const vxlan = changed(link.vxlan, data)
    this.#checkParent(vxlan.parent)
    link.vxlan = vxlan
  }

  changeMtu(link: FakeLink, mtu: number): void {
    if (mtu < 68) throw new Refusal('EINVAL', 'mtu less than device minimum')
    if (mtu > 65535) throw new Refusal('EINVAL', 'mtu greater than device maximum')
    const parent = link.vxlan && this.get(link.vxlan.parent)
    if (parent !== undefined && mtu > parent.mtu - HEADROOM) throw new Refusal('EINVAL')
    link.mtu = mtu
  }

  rename(link: FakeLink, name: string): void {
    if (this.named(name) !== undefined) throw new Refusal('EEXIST')
    link.name = name
  }

  /** Who has this address. */
  owner(address: Ipv4): FakeLink | undefined {
    return this.list().find((link) => link.addresses.some((a) => a.address === address))
  }

  /** `<name> <address>/<length>` for every address, devices in the order of their indexes. */
  printAddresses(): string[] {
    return this.list().flatMap((link) =>
      link.addresses.map((a) => `${link.name} ${formatIpv4(a.address)}/${a.length}`),
    )
  }

  #checkParent(index: number): FakeLink | undefined {
    const parent = this.get(index)
    if (index !== 0 && parent === undefined) {
      throw new Refusal('ENODEV', 'Invalid local interface, device not found')
    }
    return parent
  }
}

/** IFLA_LINKINFO: the kind, and the attributes within IFLA_INFO_DATA. */
export function linkInfo(info: Uint8Array): { readonly kind: string; readonly data: Uint8Array } {
  const found = attributesOf(info, 0)
  return {
    kind: text(found.get(IFLA_INFO_KIND) ?? new Uint8Array()),
    data: found.get(IFLA_INFO_DATA) ?? new Uint8Array(),
  }
}

const DEFAULTS: VxlanAttributes = {
  vni: 0,
  parent: 0,
  local: undefined,
  group: undefined,
  port: 8472,
  learning: true,
  proxy: false,
  rsc: false,
  l2miss: false,
  l3miss: false,
  gbp: false,
  ttl: 0,
  tos: 0,
  ageing: 300,
}

function changed(vxlan: VxlanAttributes, data: Map<number, Uint8Array>): VxlanAttributes {
  const flag = (type: number, now: boolean): boolean => {
    const value = data.get(type)
    return value === undefined ? now : value[0] !== 0
  }
  const parent = data.get(IFLA_VXLAN_LINK)
  const local = data.get(IFLA_VXLAN_LOCAL)
  return {
    ...vxlan,
    parent: parent === undefined ? vxlan.parent : getU32(parent, 0),
    local: local === undefined ? vxlan.local : Buffer.from(local).readUInt32BE(),
    learning: flag(IFLA_VXLAN_LEARNING, vxlan.learning),
    proxy: flag(IFLA_VXLAN_PROXY, vxlan.proxy),
    rsc: flag(IFLA_VXLAN_RSC, vxlan.rsc),
    l2miss: flag(IFLA_VXLAN_L2MISS, vxlan.l2miss),
    l3miss: flag(IFLA_VXLAN_L3MISS, vxlan.l3miss),
    gbp: vxlan.gbp || data.has(IFLA_VXLAN_GBP),
  }
}

function u16be(bytes: Uint8Array | undefined): number | undefined {
  return bytes && Buffer.from(bytes).readUInt16BE()
}

export function macOf(bytes: Uint8Array): MacAddress {
  return [...bytes].map(hex).join(':')
}

function hex(octet: number): string {
  return octet.toString(16).padStart(2, '0')
}
