import { describe, expect, it } from 'vitest'
import type { Facts } from '../../src/doctor/facts.ts'
import { exitStatus, type Finding } from '../../src/doctor/finding.ts'
import { spoilsChecksums } from '../../src/doctor/offload.ts'
import { renderReport } from '../../src/doctor/report.ts'
import {
  address,
  amiss,
  type Change,
  ip,
  lease,
  link,
  NOW,
  route,
  subnet,
  tunnel,
  vxlan,
  WELL,
} from './facts.ts'

it('nothing is amiss on a node that is well', () => {
  expect(amiss({})).toEqual([])
})

const { network, etcd, system, firewall } = WELL
const DAY = 86_400_000
const LOST = { sent: 3, received: 0, rtt: undefined }
const GOT = { sent: 3, received: 3, rtt: 1 }
const peer = { subnet: subnet('10.5.2.0/24'), publicIP: ip('192.0.2.2') }
const docker0 = link('docker0', 9, { kind: 'bridge', mtu: 1450 })
const withDocker = (at: string, more: Partial<Facts['network']> = {}): Change => ({
  system: { sysctl: { ...system.sysctl, 'bridge/bridge-nf-call-iptables': '1' } },
  network: {
    links: [...network.links, docker0],
    addresses: [...network.addresses, address(9, at)],
    ...more,
  },
})
const file = { flag: '-etcd-certfile', error: undefined, path: '/c.pem', mode: 0o644 }
const certificate = (days: number, since = -10): Change => ({
  files: [{ ...file, kind: 'certificate', notBefore: NOW + since * DAY, notAfter: NOW + days * DAY }],
})
const drop = '*filter\n:FORWARD DROP [0:0]\nCOMMIT\n'

const firewalled = (filter: string): Change => ({
  firewall: { save: `*filter\n${filter}${firewall.save?.replace('*filter\n', '')}` },
})
const inTunnel = { ...peer, large: LOST, small: LOST, underlay: GOT }

describe('each fault is named, alone, with its level', () => {
  it.each<[name: string, level: 'warn' | 'fail', words: RegExp, Change]>([
    [
      'no VXLAN',
      'fail',
      /^kernel: .*not supported/,
      { system: { device: { kind: 'vxlan', made: 'RTNETLINK answers: not supported' } } },
    ],
    ['no forwarding', 'fail', /^ip_forward: /, { system: { sysctl: { 'ipv4/ip_forward': '0' } } }],
    [
      'strict rp_filter for all',
      'warn',
      /^rp_filter: .* eth0$/,
      {
        system: { sysctl: { 'ipv4/conf/all/rp_filter': '1', 'ipv4/conf/flannel.1/rp_filter': '2' } },
      },
    ],
    [
      'a bridge without br_netfilter',
      'warn',
      /^br_netfilter: /,
      { ...withDocker('10.5.1.1/24'), system: { sysctl: { 'bridge/bridge-nf-call-iptables': '0' } } },
    ],
    ['no iptables', 'fail', /^iptables: /, { firewall: { version: undefined, save: undefined } }],
    [
      'two back ends',
      'warn',
      /^iptables back ends: /,
      { firewall: { legacy: '*nat\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n' } },
    ],
    ['FORWARD', 'fail', /^FORWARD policy: .* DROP \(iptables\)/, { firewall: { save: drop } }],
    [
      'FORWARD, half accepted',
      'fail',
      /^FORWARD policy: /,
      { firewall: { save: firewall.save?.replace(/.*-d 10.*\n/, '') } },
    ],
    ['no interface', 'fail', /^interface: none/, { network: { underlay: 'none' } }],
    [
      'an interface that is down',
      'fail',
      /^interface: eth0 is down/,
      { network: { links: [link('eth0', 2, { up: false }), vxlan('flannel.1', 5, 1)] } },
    ],
    [
      'an interface without a carrier',
      'fail',
      /^interface: eth0 has no carrier/,
      { network: { links: [link('eth0', 2, { flags: 1 }), vxlan('flannel.1', 5, 1)] } },
    ],
    [
      'the same VNI and port elsewhere',
      'fail',
      /^UDP port: cilium has UDP port 8472 and VNI 1/,
      { network: { links: [...network.links, vxlan('cilium', 8, 1)] } },
    ],
    ['a program on the port', 'fail', /taken by nc/, { network: { udp: [{ name: 'nc', pid: 7 }] } }],
    [
      'no device',
      'fail',
      /^device: there is no flannel\.1/,
      { network: { device: undefined, routes: [] }, probes: [] },
    ],
    [
      'a device that is down',
      'fail',
      /^device: flannel\.1: it is down/,
      { network: { device: vxlan('flannel.1', 5, 1, { up: false }) } },
    ],
    [
      'another MAC than the lease',
      'fail',
      /its MAC is 02:00:00:00:00:77, the lease says 02:00:00:00:00:01/,
      { network: { device: vxlan('flannel.1', 5, 1, { mac: '02:00:00:00:00:77' }) } },
    ],
    [
      'another port than the config',
      'fail',
      /its UDP port is 8472, the config says 4789/,
      tunnel('vxlan', { Port: 4789 }),
    ],
    ['no address', 'fail', /it lacks the address 10\.5\.1\.0/, { network: { addresses: [] } }],
    [
      'a jumbo MTU',
      'warn',
      /^MTU: the subnet file says FLANNEL_MTU=8950/,
      {
        subnetFile: new Map([
          ['FLANNEL_SUBNET', '10.5.1.1/24'],
          ['FLANNEL_MTU', '8950'],
        ]) as Facts['subnetFile'],
      },
    ],
    [
      'a MAC policy',
      'warn',
      /^MACAddressPolicy: /,
      {
        network: { macAssigned: 1 },
        managers: { macPolicy: { file: '99-default.link', policy: 'persistent' } },
      },
    ],
    [
      'networkd',
      'warn',
      /^networkd: .*all\.network/,
      { managers: { networkd: ['/etc/systemd/network/all.network'] } },
    ],
    ['NetworkManager', 'warn', /^NetworkManager: /, { managers: { networkManager: 'managed' } }],
    [
      'a kernel that spoils checksums',
      'warn',
      /^checksum offload: /,
      { system: { release: '5.4.0-40-generic' } },
    ],
    ['etcd away', 'fail', /^etcd: gone/, { etcd: { error: 'gone', leases: undefined, config: undefined } }],
    ['a bad config', 'fail', /^network config: bad/, { etcd: { configError: 'bad', config: undefined } }],
    [
      'a lease about to end',
      'warn',
      /^own lease: .* ends in 60 s/,
      {
        etcd: {
          leases: [
            lease('10.5.1.0/24', '192.0.2.1', '02:00:00:00:00:01', 60),
            ...(etcd.leases ?? []).slice(1),
          ],
        },
      },
    ],
    [
      'a route across',
      'fail',
      /^overlapping routes: .*10\.5\.128\.0\/17 dev eth0/,
      { network: { routes: [...network.routes, route('10.5.128.0/17', 2)] } },
    ],
    [
      'a subnet of another network',
      'warn',
      /^subnet file: .*172\.16\.1\.0\/24 is not in the network/,
      { subnetFile: new Map([['FLANNEL_SUBNET', '172.16.1.1/24']]) as Facts['subnetFile'] },
    ],
    ['a broken subnet file', 'warn', /^subnet file: .*garbage/, { subnetFile: 'garbage' }],
    ['no route', 'fail', /^routes: 1 amiss: 10\.5\.2\.0\/24 is missing/, { network: { routes: [] } }],
    [
      'a route elsewhere',
      'fail',
      /^routes: 1 amiss: 10\.5\.2\.0\/24 goes elsewhere/,
      { network: { routes: [route('10.5.2.0/24', 2, '192.0.2.2')] } },
    ],
    [
      'a route of nobody',
      'warn',
      /^routes: 1 amiss: 10\.5\.9\.0\/24 has no lease/,
      { network: { routes: [...network.routes, route('10.5.9.0/24', 5, '10.5.9.0')] } },
    ],
    [
      'no ARP entry',
      'fail',
      /^ARP entries: 1 amiss: 10\.5\.2\.0 -> 02:\S+ is missing/,
      { network: { neighbours: [] } },
    ],
    [
      'no FDB entry',
      'fail',
      /^FDB entries: 1 amiss: 02:\S+ dst 192\.0\.2\.2 is missing/,
      { network: { fdb: [] } },
    ],
    [
      'an FDB entry elsewhere',
      'fail',
      /^FDB entries: .* goes to 192\.0\.2\.77/,
      { network: { fdb: network.fdb.map((entry) => ({ ...entry, destination: ip('192.0.2.77') })) } },
    ],
    ["docker's bridge", 'fail', /^docker bridge: docker0 has 172\.17\.0\.1\/16/, withDocker('172.17.0.1/16')],
    [
      "docker's MTU",
      'warn',
      /^docker MTU: docker0 has MTU 1500/,
      withDocker('10.5.1.1/24', { links: [...network.links, { ...docker0, mtu: 1500 }] }),
    ],
    [
      'masquerading twice',
      'warn',
      /^docker --ip-masq: dockerd masquerades, and so does/,
      { docker: { args: ['dockerd', '--ip-masq=true'], settings: {} } },
    ],
    ['a certificate that ends', 'warn', /^certificates: .* ends on 2026-01-11/, certificate(10)],
    ['a certificate that has ended', 'fail', /^certificates: .* ended on /, certificate(-1)],
    ['a certificate that has not begun', 'fail', /^certificates: .* is valid from /, certificate(100, 1)],
    [
      'a key for all to read',
      'warn',
      /^files: \/k \(-etcd-keyfile\) has mode 640/,
      { files: [{ path: '/k', kind: 'secret', flag: '-etcd-keyfile', mode: 0o640, error: undefined }] },
    ],
    [
      'a key that is not there',
      'fail',
      /^files: \/k \(-etcd-keyfile\) cannot be read: ENOENT/,
      { files: [{ path: '/k', kind: 'secret', flag: '-etcd-keyfile', mode: undefined, error: 'ENOENT' }] },
    ],
    [
      'a subnet file that only root reads',
      'warn',
      /^files: \/s .* has mode 600/,
      { files: [{ path: '/s', kind: 'public', flag: '-subnet-file', mode: 0o600, error: undefined }] },
    ],
    ['a wrong clock', 'warn', /^clock: this clock is 400 s behind/, { etcd: { skewSeconds: -400 } }],
    ['a wrong clock with TLS', 'fail', /^clock: /, { etcd: { skewSeconds: -400, secure: true } }],
    ['no right to ping', 'warn', /^peers: open a raw socket/, { probes: 'open a raw socket: EPERM' }],
    [
      'a node that is off',
      'fail',
      /^peers: 1 of 1 .* not even/,
      { probes: [{ ...peer, large: LOST, small: LOST, underlay: LOST }] },
    ],
    [
      'a blocked port',
      'fail',
      /^peers: .*through the tunnel, but/,
      { probes: [{ ...peer, large: LOST, small: LOST, underlay: GOT }] },
    ],
    [
      'a port that this firewall blocks',
      'fail',
      /^peers: .*through the tunnel, but/,
      { probes: [inTunnel], ...firewalled(':INPUT DROP [0:0]\n') },
    ],
    [
      'a node with another backend',
      'warn',
      /^backends: 1 leases are not of vxlan: 10\.5\.3\.0\/24 of 192\.0\.2\.3 \(host-gw\)/,
      {
        etcd: {
          leases: [
            ...(etcd.leases ?? []),
            {
              ...lease('10.5.3.0/24', '192.0.2.3', ''),
              attributes: { publicIP: ip('192.0.2.3'), backendType: 'host-gw', backendData: undefined },
            },
          ],
        },
      },
    ],
    [
      'a black hole',
      'fail',
      /^path MTU: 1 of 1/,
      { probes: [{ ...peer, large: LOST, small: GOT, underlay: GOT }] },
    ],
    [
      'loss',
      'warn',
      /^peers: 1 of 1 peers lose some packets: 10\.5\.2\.0\/24 \(192\.0\.2\.2\) 33 %/,
      { probes: [{ ...peer, large: { sent: 3, received: 2, rtt: 1 }, small: GOT, underlay: GOT }] },
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

  it('of two leases with one address, MAC and subnet', () => {
    const twin = lease('10.5.2.128/25', '192.0.2.2', '02:00:00:00:00:02')
    const found = amiss({ etcd: { leases: [...(etcd.leases ?? []), twin] } })
    expect(found.filter(({ check }) => check === 'duplicates in etcd').map(({ what }) => what)).toEqual([
      expect.stringContaining('2 leases have public IP 192.0.2.2: 10.5.2.0/24'),
      expect.stringContaining('2 leases have VTEP MAC 02:00:00:00:00:02'),
      expect.stringContaining('two leases overlap'),
    ])
    expect(found[0]?.mend).toContain(
      'curl -X DELETE http://192.0.2.9:2379/v2/keys/coreos.com/network/subnets/10.5.2.128-25',
    )
  })
})

it.each<[string, Change]>([
  [
    'before the first start',
    { network: { device: undefined, routes: [] }, subnetFile: undefined, probes: [] },
  ],
  [
    'a peer that is routed to directly',
    {
      ...tunnel('vxlan', { DirectRouting: true }),
      network: { routes: [route('10.5.2.0/24', 2, '192.0.2.2')], neighbours: [], fdb: [] },
    },
  ],
  [
    'the route of another backend',
    {
      network: {
        links: [...network.links, link('flannel0', 7)],
        routes: [...network.routes, route('10.5.0.0/16', 7)],
      },
    },
  ],
  ['docker with the lease', withDocker('10.5.1.1/24')],
  [
    'a policy of DROP before there is a network, with all accepted',
    { firewall: { save: `${drop}-A FORWARD -j ACCEPT\n`.replace('COMMIT\n-A', '-A') } },
  ],
])('nothing is amiss: %s', (_, change) => {
  expect(amiss(change)).toEqual([])
})

it.each([
  ['4.14.180', true],
  ['4.14.181', false],
  ['4.15.0', true],
  ['5.6.13-arch1', false],
  ['5.7.0', false],
  ['6.1.0-18-amd64', false],
])('Linux %s spoils checksums: %s', (release, spoils) => {
  expect(spoilsChecksums(release)).toBe(spoils)
})

it.each<[string, Change, RegExp]>([
  ['in the network', {}, /^UDP port 8472 is blocked on the way there or back/],
  ['by what is amiss here', { network: { routes: [] } }, /^something is amiss on this node/],
  [
    'by a rule of this node',
    firewalled(
      ':INPUT ACCEPT [0:0]\n:own - [0:0]\n-A INPUT -j own\n[3:4] -A own -p udp -m multiport --dports 53,8472 -j REJECT\n',
    ),
    /^this node's own firewall may drop UDP port 8472: -A own -p udp -m multiport --dports 53,8472 -j REJECT/,
  ],
  [
    'by the policy of this node',
    firewalled(':INPUT DROP [0:0]\n-A INPUT -p udp -m udp --dport 84720 -j ACCEPT\n'),
    /^this node's own firewall .*: INPUT drops what no rule accepts/,
  ],
  [
    'not by a policy with a rule that accepts',
    firewalled(
      ':INPUT DROP [0:0]\n:ufw - [0:0]\n-A INPUT -j ufw\n-A ufw -p udp -m udp --dport 8472 -j ACCEPT\n',
    ),
    /^UDP port 8472 is blocked on the way/,
  ],
])('a tunnel that is blocked %s', (_, change, why) => {
  const found = amiss({ ...change, probes: [inTunnel] }).filter(({ check }) => check === 'peers')
  expect(found).toMatchObject([{ level: 'fail', why: expect.stringMatching(why) }])
})

it('does not blame all others for what this node is to blame for', () => {
  const away = { ...peer, large: LOST, small: LOST, underlay: LOST }
  const why = (change: Change) => amiss(change).find(({ check }) => check === 'peers')?.why
  expect(why({ probes: [away] })).toMatch(/^the node is off/)
  expect(why({ probes: [away, away] })).toMatch(/^this node, its switch or its firewall is cut off from all/)
  const links = [link('eth0', 2, { up: false }), vxlan('flannel.1', 5, 1)]
  expect(why({ probes: [away, away], network: { links } })).toBe('no wonder: eth0 is down')
})

it('exits 0, 1, 2 by the worst', () => {
  const of = (...levels: ('ok' | 'warn' | 'fail')[]): Finding[] =>
    levels.map((level) => ({ check: 'c', level, what: 'w', why: '', mend: '' }))
  expect([exitStatus(of('ok')), exitStatus(of('warn', 'ok')), exitStatus(of('fail', 'warn'))]).toEqual([
    0, 1, 2,
  ])
})

it('prints a finding with why and mend, in 80 columns, in colour only when asked', () => {
  const found = amiss({ network: { routes: [] } })
  expect(renderReport(found, { colour: false })).toBe(
    `FAIL routes: 1 amiss: 10.5.2.0/24 is missing
     packets for these pods go elsewhere or nowhere
     mend: systemctl start flanneld
Not as it should be: 0 ok, 0 warn, 1 fail
`,
  )
  expect(renderReport(found, { colour: true })).toContain('\x1b[31mFAIL \x1b[0mroutes: ')
})
