/** Facts of a node that is well, for tests that change one of them. */
import { examine } from '../../src/doctor/examine.ts'
import type { Facts } from '../../src/doctor/facts.ts'
import type { Finding } from '../../src/doctor/finding.ts'
import { tunnelOf } from '../../src/doctor/tunnel.ts'
import { type Ipv4, parseCidr, parseIpv4, type Subnet } from '../../src/ip.ts'
import { NTF_SELF, NUD_PERMANENT } from '../../src/netlink/constants.ts'
import type { Link } from '../../src/netlink/link.ts'
import type { Route } from '../../src/netlink/route.ts'
import type { Lease } from '../../src/subnet/lease.ts'

export const NOW = Date.parse('2026-01-01T00:00:00Z')

export function ip(text: string): Ipv4 {
  return parseIpv4(text) as Ipv4
}

export function subnet(text: string): Subnet {
  return parseCidr(text) as Subnet
}

export function lease(of: string, publicIP: string, mac: string, ttl: number | undefined = 80_000): Lease {
  return {
    subnet: subnet(of),
    attributes: { publicIP: ip(publicIP), backendType: 'vxlan', backendData: { VtepMAC: mac } },
    ttl,
    modifiedIndex: 7,
  }
}

export function link(name: string, index: number, more: Partial<Link> = {}): Link {
  return {
    index,
    name,
    kind: undefined,
    up: true,
    // IFF_UP, IFF_RUNNING
    flags: 0x41,
    mtu: 1500,
    mac: undefined,
    txQueueLength: 1000,
    parent: undefined,
    master: undefined,
    protoDown: false,
    vxlan: undefined,
    ipip: undefined,
    ...more,
  }
}

export function vxlan(name: string, index: number, vni: number, more: Partial<Link> = {}): Link {
  return link(name, index, {
    kind: 'vxlan',
    mtu: 1450,
    mac: '02:00:00:00:00:01',
    vxlan: {
      vni,
      parent: 2,
      local: ip('192.0.2.1'),
      group: undefined,
      port: 8472,
      learning: false,
      proxy: false,
      rsc: false,
      l2miss: false,
      l3miss: false,
      gbp: false,
      ttl: 0,
      tos: 0,
      ageing: 300,
    },
    ...more,
  })
}

export function route(to: string, oif: number, gateway?: string): Route {
  return {
    destination: subnet(to),
    table: 254,
    protocol: 3,
    scope: 0,
    type: 1,
    tos: 0,
    metric: 0,
    gateway: gateway === undefined ? undefined : ip(gateway),
    nexthopId: undefined,
    oif,
    source: undefined,
    onlink: true,
    multipath: undefined,
    cloned: false,
  }
}

export function address(index: number, text: string): Facts['network']['addresses'][number] {
  const cidr = subnet(text)
  return { index, ...cidr, peer: cidr.address, scope: 0, label: undefined, flags: 0, broadcast: undefined }
}

const DEVICE = vxlan('flannel.1', 5, 1)
const SAVE = `*nat
:POSTROUTING ACCEPT [0:0]
-A POSTROUTING -s 10.5.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully
COMMIT
*filter
:FORWARD DROP [0:0]
-A FORWARD -s 10.5.0.0/16 -j ACCEPT
-A FORWARD -d 10.5.0.0/16 -j ACCEPT
COMMIT
`

/** Node 192.0.2.1 with 10.5.1.0/24, and one peer, 192.0.2.2 with 10.5.2.0/24. */
export const WELL: Facts = {
  now: NOW,
  tunnel: tunnelOf({ backendType: 'vxlan', backend: {} }),
  system: {
    release: '6.1.0-18-amd64',
    device: { kind: 'vxlan', made: true },
    nexthops: true,
    sysctl: { 'ipv4/ip_forward': '1', 'ipv4/conf/all/rp_filter': '0', 'ipv4/conf/eth0/rp_filter': '0' },
  },
  network: {
    links: [link('lo', 1), link('eth0', 2), DEVICE],
    addresses: [address(2, '192.0.2.1/24'), address(5, '10.5.1.0/32')],
    routes: [route('0.0.0.0/0', 2, '192.0.2.254'), route('10.5.2.0/24', 5, '10.5.2.0')],
    underlay: {
      name: 'eth0',
      index: 2,
      mtu: 1500,
      address: ip('192.0.2.1'),
      publicIP: ip('192.0.2.1'),
      reason: 'default route',
    },
    device: DEVICE,
    neighbours: [
      { index: 5, address: ip('10.5.2.0'), mac: '02:00:00:00:00:02', state: NUD_PERMANENT, flags: 0 },
    ],
    fdb: [
      {
        index: 5,
        mac: '02:00:00:00:00:02',
        destination: ip('192.0.2.2'),
        state: NUD_PERMANENT,
        flags: NTF_SELF,
        port: undefined,
        vni: undefined,
        via: undefined,
      },
    ],
    macAssigned: 3,
    checksumOffload: true,
    udp: [],
  },
  firewall: { version: 'iptables v1.8.9 (nf_tables)', save: SAVE, legacy: '', nft: SAVE },
  etcd: {
    endpoint: 'http://192.0.2.9:2379',
    prefix: '/coreos.com/network',
    error: undefined,
    config: {
      network: subnet('10.5.0.0/16'),
      subnetLen: 24,
      subnetMin: ip('10.5.1.0'),
      subnetMax: ip('10.5.255.0'),
      backendType: 'vxlan',
      backend: {},
    },
    configError: undefined,
    leases: [
      lease('10.5.1.0/24', '192.0.2.1', '02:00:00:00:00:01'),
      lease('10.5.2.0/24', '192.0.2.2', '02:00:00:00:00:02'),
    ],
    skipped: new Set(),
    bad: [],
    skewSeconds: 0.3,
    secure: false,
  },
  files: [],
  docker: undefined,
  managers: { networkd: [], networkManager: undefined, macPolicy: undefined },
  daemon: 'no flanneld is running here: there is no /run/flannel/flanneld.sock',
  options: { subnetFile: '/run/flannel/subnet.env', ipMasq: false, forwardRules: true },
  subnetFile: new Map([
    ['FLANNEL_NETWORK', '10.5.0.0/16'],
    ['FLANNEL_SUBNET', '10.5.1.1/24'],
    ['FLANNEL_MTU', '1450'],
    ['FLANNEL_IPMASQ', 'true'],
  ]),
  unsound: undefined,
  probes: [
    { subnet: subnet('10.5.2.0/24'), publicIP: ip('192.0.2.2'), large: { sent: 3, received: 3, rtt: 0.5 } },
  ],
}

/** Parts of the facts, each laid over the same part of a node that is well. */
export type Change = {
  readonly [K in keyof Facts]?: Facts[K] extends readonly unknown[] ? Facts[K] : Partial<Facts[K]> | Facts[K]
}

export function changed(change: Change): Facts {
  const merged: Record<string, unknown> = { ...WELL }
  for (const [key, value] of Object.entries(change)) {
    const before = merged[key]
    const plain = (of: unknown): boolean => Object.getPrototypeOf(of ?? 0) === Object.prototype
    merged[key] = plain(before) && plain(value) ? { ...(before as object), ...(value as object) } : value
  }
  return merged as unknown as Facts
}

/** All that is amiss, but for the daemon, which does not run in any of these. */
export function amiss(change: Change): Finding[] {
  return examine(changed(change)).filter(({ level, check }) => level !== 'ok' && check !== 'flanneld')
}

/** Facts of the tunnel that this config makes. */
export const tunnel = (backendType: string, backend: Readonly<Record<string, unknown>> = {}): Change => ({
  tunnel: tunnelOf({ backendType, backend }),
})
