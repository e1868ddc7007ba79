/** The checks of the device, its tables and the way to peers, with each backend but vxlan. */
import { describe, expect, it } from 'vitest'
import type { Facts } from '../../src/doctor/facts.ts'
import type { Link } from '../../src/netlink/link.ts'
import type { Route } from '../../src/netlink/route.ts'
import { amiss, type Change, ip, link, route, subnet, tunnel, WELL } from './facts.ts'

const { etcd } = WELL
const LOST = { sent: 3, received: 0, rtt: undefined }
const GOT = { sent: 3, received: 3, rtt: 1 }
const GATEWAY = { device: undefined, neighbours: [], fdb: [] }
const plainLeases = (type: string) =>
  (etcd.leases ?? []).map((each) => ({
    ...each,
    attributes: { ...each.attributes, backendType: type, backendData: undefined },
  }))
/** A node that is well with a device of this kind in the place of flannel.1. */
function otherTunnel(type: string, device: Link, routes: readonly Route[]): Change {
  return {
    ...tunnel(type),
    network: {
      ...GATEWAY,
      device,
      links: [link('lo', 1), link('eth0', 2), device],
      routes,
    },
    etcd: { leases: plainLeases(type) },
    subnetFile: new Map([
      ['FLANNEL_SUBNET', '10.5.1.1/24'],
      ['FLANNEL_MTU', String(device.mtu)],
    ]) as Facts['subnetFile'],
  }
}
const tun = link('flannel0', 5, { kind: 'tun', mtu: 1472 })
const wg = link('flannel-wg', 5, { kind: 'wireguard', mtu: 1420 })
const ipip = link('flannel.ipip', 5, {
  kind: 'ipip',
  mtu: 1480,
  ipip: { local: ip('192.0.2.1'), remote: 0, ttl: 0, tos: 0, pathMtuDiscovery: false },
})
const hostGw = (routes: readonly Route[]): Change => ({
  ...tunnel('host-gw'),
  network: { ...GATEWAY, links: [link('lo', 1), link('eth0', 2)], routes },
  etcd: { leases: plainLeases('host-gw') },
  subnetFile: new Map([
    ['FLANNEL_SUBNET', '10.5.1.1/24'],
    ['FLANNEL_MTU', '1500'],
  ]) as Facts['subnetFile'],
})
const viaPeer = route('10.5.2.0/24', 2, '192.0.2.2')

it.each<[string, Change]>([
  ['host-gw', hostGw([viaPeer])],
  ['ipip', otherTunnel('ipip', ipip, [route('10.5.2.0/24', 5, '192.0.2.2')])],
  ['ipip, direct', { ...otherTunnel('ipip', ipip, [viaPeer]), ...tunnel('ipip', { DirectRouting: true }) }],
  ['udp', otherTunnel('udp', tun, [route('10.5.0.0/16', 5)])],
  ['wireguard', { ...otherTunnel('wireguard', wg, [route('10.5.0.0/16', 5)]), unsound: [] }],
  ['alloc', { ...hostGw([]), ...tunnel('alloc') }],
  ['extension', { ...hostGw([]), ...tunnel('extension'), etcd: { leases: plainLeases('extension') } }],
])('nothing is amiss with %s on a node that is well', (_, change) => {
  expect(amiss(change)).toEqual([])
})

describe('each fault is named, alone, with its level', () => {
  it.each<[name: string, level: 'warn' | 'fail', words: RegExp, Change]>([
    ['host-gw: no route', 'fail', /^routes: 1 amiss: 10\.5\.2\.0\/24 is missing/, hostGw([])],
    [
      'host-gw: another MTU in the file',
      'warn',
      /^MTU: the subnet file says FLANNEL_MTU=1450, eth0 has 1500/,
      { ...hostGw([viaPeer]), subnetFile: WELL.subnetFile },
    ],
    [
      'ipip: a device for one node alone',
      'fail',
      /^device: flannel\.ipip: it leads to 192\.0\.2\.9 alone/,
      otherTunnel(
        'ipip',
        {
          ...ipip,
          ipip: { local: ip('192.0.2.1'), remote: ip('192.0.2.9'), ttl: 0, tos: 0, pathMtuDiscovery: false },
        },
        [route('10.5.2.0/24', 5, '192.0.2.2')],
      ),
    ],
    ['udp: no route', 'fail', /^routes: 1 amiss: 10\.5\.0\.0\/16 is missing/, otherTunnel('udp', tun, [])],
    [
      'udp: a device too large',
      'fail',
      /^MTU: flannel0 has MTU 1500; eth0 leaves room for 1472/,
      otherTunnel('udp', { ...tun, mtu: 1500 }, [route('10.5.0.0/16', 5)]),
    ],
    [
      'wireguard: peers that are not in the kernel',
      'fail',
      /^WireGuard peers: 1 amiss: 10\.5\.2\.0\/24 \(192\.0\.2\.2\)/,
      {
        ...otherTunnel('wireguard', wg, [route('10.5.0.0/16', 5)]),
        unsound: [
          {
            subnet: '10.5.2.0/24',
            publicIP: '192.0.2.2',
            mac: null,
            route: 'plain',
            entries: { peer: 'missing' },
            changedAt: null,
            probe: null,
          },
        ],
      },
    ],
  ])('%s', (_, level, words, change) => {
    const found = amiss(change)
    expect(found.map(({ check, what }) => `${check}: ${what}`)).toEqual([expect.stringMatching(words)])
    expect(found[0]).toMatchObject({
      level,
      why: expect.stringMatching(/./),
      mend: expect.stringMatching(/./),
    })
  })
})

const LATER = { subnet: subnet('10.5.2.0/24'), publicIP: ip('192.0.2.2'), large: LOST }

it('says which protocol is blocked where there is no port', () => {
  const probes = [{ ...LATER, small: LOST, underlay: GOT }]
  const found = amiss({ ...otherTunnel('ipip', ipip, [route('10.5.2.0/24', 5, '192.0.2.2')]), probes })
  expect(found).toMatchObject([{ check: 'peers', why: expect.stringMatching(/^IP protocol 4 is blocked/) }])
  expect(found[0]?.mend).toContain('iptables -I INPUT -p 4 -j ACCEPT')
})

it('without a tunnel, a peer that is silent is off, and a black hole is mended at the interface', () => {
  const off = amiss({ ...hostGw([viaPeer]), probes: [{ ...LATER, small: LOST, underlay: LOST }] })
  expect(off.map(({ what }) => what)).toEqual(['1 of 1 peers does not answer: 10.5.2.0/24 (192.0.2.2)'])
  const narrow = amiss({
    ...hostGw([viaPeer]),
    probes: [{ ...LATER, small: GOT, underlay: GOT, largest: 1400 }],
  })
  expect(narrow).toMatchObject([
    {
      check: 'path MTU',
      what: expect.stringMatching(/10\.5\.2\.0\/24 \(192\.0\.2\.2\) takes 1400 bytes$/),
      mend: expect.stringContaining('ip link set eth0 mtu 1400'),
    },
  ])
})
