import { stripVTControlCharacters } from 'node:util'
import { expect, it, test } from 'vitest'
import { renderScreen, span } from '../../src/commands/screen.ts'
import type { PeerLine, Status } from '../../src/status.ts'

const STATUS: Status = {
  version: 1,
  daemon: {
    version: 'v1.0.0',
    pid: 7,
    startedAt: '2026-11-24T10:00:00.000Z',
    uptimeSeconds: 3_725,
    phase: 'running',
    logLevel: 'info',
  },
  health: { alive: true, ready: true, stuckLoops: [], reasons: [] },
  network: { cidr: '10.1.0.0/16', subnetLen: 24, backend: 'vxlan', etcdPrefix: '/coreos.com/network' },
  lease: { subnet: '10.1.2.0/24', publicIP: '192.0.2.1', secondsLeft: 86_000, renewals: 1 },
  interface: {
    name: 'eth0',
    address: '192.0.2.1',
    publicIP: '192.0.2.9',
    mtu: 1500,
    up: true,
    reason: 'default route',
  },
  device: { name: 'flannel.1', mtu: 1450, details: { vni: 1, port: 8472, gbp: false, directRouting: true } },
  firewall: { masquerade: true, forwardRules: true, checks: 12, repairs: 1, failures: 0, lastError: null },
  etcd: {
    endpoints: [
      {
        ...{
          url: 'https://192.0.2.10:2379',
          state: 'ok',
          current: true,
          latencyMs: 1.25,
          lastAnswerSecondsAgo: 3,
        },
        ...{ answers: 9, failures: 0, lastError: null },
      },
      {
        ...{ url: 'https://192.0.2.11:2379', state: 'failing', current: false, latencyMs: null },
        ...{ lastAnswerSecondsAgo: null, answers: 0, failures: 2, lastError: 'ECONNREFUSED' },
      },
    ],
    watch: { index: 42, heardSecondsAgo: 3, snapshots: 1, failures: 0, lastError: null },
  },
  leases: { inUse: 2, skipped: 0, skippedList: [] },
  kernel: {
    peers: 2,
    tables: {
      route: { wanted: 2, held: 2, failed: 0 },
      nexthop: { wanted: 0, held: 0, failed: 0 },
    },
    repairs: { route: { notification: 3, compare: 0, device: 1 } },
    lastApply: { secondsAgo: 60, tookMs: 0.81, entries: 6 },
    lastCompare: { secondsAgo: 5, tookMs: 1, entries: 0 },
    refusals: [],
    trouble: null,
  },
  probes: null,
  loops: [],
}

const PEERS: PeerLine[] = [
  {
    ...{ subnet: '10.1.255.0/24', publicIP: '192.168.100.200', mac: '02:00:00:00:00:02', route: 'nexthop' },
    ...{
      entries: { neighbour: 'ok', fdb: 'differs', route: 'missing' },
      changedAt: '2026-11-24T11:00:00.000Z',
      probe: null,
    },
  },
  {
    ...{ subnet: '10.1.4.0/24', publicIP: '192.0.2.4', mac: null, route: 'direct' },
    ...{ entries: { route: 'ok' }, changedAt: null, probe: null },
  },
]

it('shows all on one screen', () => {
  expect(renderScreen({ status: STATUS, peers: PEERS, colour: false })).toBe(
    [
      'flanneld   v1.0.0, pid 7, up 1h2m, log info',
      'state      ready',
      'network    10.1.0.0/16, a /24 each, vxlan, etcd /coreos.com/network',
      'lease      10.1.2.0/24 for 192.0.2.1, 23h53m left, 1 renewal',
      'interface  eth0 192.0.2.1 mtu 1500, public IP 192.0.2.9 (default route)',
      'device     flannel.1 mtu 1450, vni 1, port 8472, directRouting',
      'firewall   masquerade and forward rules; 12 checks, 1 write, 0 failures',
      'etcd       https://192.0.2.10:2379 ok 1.3 ms, in use',
      '           https://192.0.2.11:2379 failing',
      '           ECONNREFUSED',
      'watch      index 42, heard 3s ago, 1 snapshot, 0 failures',
      'route      2 wanted, 2 held, repaired 3 (notification), 1 (device)',
      'apply      1m ago, took 0.8 ms, 6 written',
      'compare    5s ago, took 1.0 ms, 0 not as believed',
      'leases     2 in use',
      '',
      'SUBNET             PUBLIC IP       VTEP MAC          ROUTE   ARP  FDB  RT   AGE',
      '10.1.255.0/24      192.168.100.200 02:00:00:00:00:02 nexthop ok   DIFF MISS 2m',
      '10.1.4.0/24        192.0.2.4       -                 direct  -    -    ok',
      '',
    ].join('\n'),
  )
})

it.each<[string, PeerLine['entries'], string, string]>([
  ['many peers', { neighbour: 'ok', fdb: 'ok', nexthop: 'ok', route: 'ok' }, 'ARP FDB RT', 'ok ok ok'],
  [
    'a lost nexthop',
    { neighbour: 'ok', fdb: 'ok', nexthop: 'missing', route: 'ok' },
    'ARP FDB RT',
    'ok ok MISS',
  ],
  ['wireguard', { peer: 'differs', route: 'ok' }, 'PEER RT', 'DIFF ok'],
  ['extension', { command: 'missing' }, 'CMD', 'MISS'],
  ['alloc', {}, '', ''],
])('has the columns that peers of %s need', (_, entries, headings, states) => {
  const [, peer] = PEERS
  const peers = peer === undefined ? [] : [{ ...peer, entries }]
  const rows = renderScreen({ status: STATUS, peers, colour: false }).split('\n').slice(-4, -2)
  expect(rows.map((row) => row.slice(61).replaceAll(/ +/g, ' '))).toEqual([`${headings} AGE`.trim(), states])
})

it('names what is wrong, in no more than 80 columns, and in colour only when asked', () => {
  const reasons = ['1 entries of table route are refused', `a very long reason ${'word '.repeat(40)}`]
  const status: Status = {
    ...STATUS,
    health: { alive: true, ready: false, stuckLoops: [], reasons },
    leases: { inUse: 1, skipped: 2, skippedList: [{ key: '10.1.9.0-24', reason: 'garbage' }] },
    kernel: STATUS.kernel && {
      ...STATUS.kernel,
      peers: 15_000,
      tables: { route: { wanted: 2, held: 1, failed: 1 } },
      refusals: [`write route ${'x'.repeat(100)}`],
    },
  }
  const plain = renderScreen({ status, peers: PEERS, colour: false })
  for (const text of [
    'NOT READY (running)',
    '1 entries of table route are refused',
    '1 in use, 2 SKIPPED',
    '10.1.9.0-24: garbage',
    '2 wanted, 1 held, 1 REFUSED',
    'and 14998 more peers',
  ])
    expect(plain).toContain(text)
  expect(plain).not.toContain('\x1b')
  for (const line of plain.split('\n')) expect(line.length).toBeLessThanOrEqual(80)
  const coloured = renderScreen({ status, peers: PEERS, colour: true })
  expect(coloured).toContain('\x1b[31mNOT READY')
  expect(stripVTControlCharacters(coloured)).toBe(plain)
})

it('has no more than 80 columns, whatever the peers are', () => {
  const widest: PeerLine = {
    ...{
      subnet: '100.100.100.128/25',
      publicIP: '192.168.100.200',
      mac: '02:00:00:00:00:02',
      route: 'nexthop',
    },
    entries: { neighbour: 'differs', fdb: 'differs', nexthop: 'differs', route: 'missing' },
    ...{ changedAt: '2026-11-24T10:10:00.000Z', probe: { reachable: true, rttMs: 1234.5 } },
  }
  const probes = {
    ...{ intervalSeconds: 10, rounds: 7, reachable: 1, unreachable: 0, pending: 0 },
    rttMs: { least: 1234.5, median: 1234.5, most: 1234.5 },
  }
  for (const status of [STATUS, { ...STATUS, probes }]) {
    const rows = renderScreen({ status, peers: [widest], colour: false }).split('\n')
    expect(rows.filter((row) => row.length > 80)).toEqual([])
  }
})

it('shows the round trips where peers are pinged', () => {
  const probes = {
    ...{ intervalSeconds: 10, rounds: 7, reachable: 14_997, unreachable: 2, pending: 1 },
    rttMs: { least: 0.081, median: 0.25, most: 131.9 },
  }
  const pinged = (reachable: boolean | null, rttMs: number | null): PeerLine => ({
    ...(PEERS[1] ?? expect.unreachable()),
    probe: { reachable, rttMs },
  })
  const peers = [pinged(false, 0.3), pinged(true, 12.34), pinged(null, null)]
  const lines = renderScreen({ status: { ...STATUS, probes }, peers, colour: false }).split('\n')
  expect(lines).toEqual(
    expect.arrayContaining([
      'pings      14997 reachable, 2 UNREACHABLE, 1 not known yet, round trip',
      '           0.08/0.25/132 ms, every 10s',
      'SUBNET             PUBLIC IP       PING              ROUTE   RT   AGE',
      '10.1.4.0/24        192.0.2.4       LOST              direct  ok',
      '10.1.4.0/24        192.0.2.4       12.3 ms           direct  ok',
      '10.1.4.0/24        192.0.2.4       -                 direct  ok',
    ]),
  )
})

it('shows a daemon that has only just begun', () => {
  const text = renderScreen({
    status: {
      ...STATUS,
      ...{ network: null, lease: null, interface: null, device: null, kernel: null },
      health: { alive: true, ready: false, stuckLoops: [], reasons: ['not running yet: waiting for config'] },
      daemon: { ...STATUS.daemon, phase: 'waiting for config' },
      etcd: { endpoints: [], watch: null },
    },
    peers: [],
    colour: false,
  })
  expect(text).toContain('state      NOT READY (waiting for config)\n')
})

test.each([
  [0, '0s'],
  [59.4, '59s'],
  [60, '1m'],
  [3_599, '59m59s'],
  [86_400, '1d'],
  [90_000, '1d1h'],
  [-5, '0s'],
])('%d seconds are %s', (seconds, text) => expect(span(seconds)).toBe(text))
