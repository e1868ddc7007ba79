import { describe, expect, it } from 'vitest'
import type { Pulse } from '../src/heartbeat.ts'
import { buildStatus, isSound, peerLine, STATUS_VERSION, type StatusSources } from '../src/status.ts'
import { ManualClock } from './masq/manual-clock.ts'
import { faultsOf } from './schema.ts'

const subnet = { address: 0x0a010200, length: 24 }
const NOW = 1_000_000

/** A daemon that is well, at monotonic time NOW. */
async function well(): Promise<StatusSources> {
  const clock = new ManualClock()
  await clock.advance(NOW)
  const round = { at: NOW - 2_000, took: 1.23456, entries: 9 }
  return {
    clock,
    version: 'v1',
    pid: 7,
    startedAt: NOW - 60_000,
    phase: 'running',
    logLevel: 'info',
    etcdPrefix: '/x',
    masquerade: true,
    forwardRules: false,
    pulses: [{ loop: 'firewall', last: NOW - 1_000, due: NOW + 4_000 }],
    config: { network: { address: 0x0a010000, length: 16 }, subnetLen: 24, backendType: 'vxlan' },
    keeper: { lease: { subnet, attributes: { publicIP: 0xc0000201 } }, secondsLeft: 86_000.5, renewals: 3 },
    underlay: {
      name: 'eth0',
      address: 0xc0000201,
      publicIP: 0xc0000202,
      mtu: 1500,
      up: true,
      reason: 'default route',
    },
    overlay: {
      name: 'flannel.1',
      mtu: 1450,
      status: { peers: 2, skipped: 0, tables: { route: { wanted: 2, held: 2, failed: 0 } } },
      details: { vni: 1 },
      history: {
        lastApply: round,
        lastCompare: undefined,
        repairs: { route: { notification: 1 } },
        refusals: [],
        skipped: [],
        trouble: undefined,
      },
    },
    firewall: { counters: { checks: 4, repairs: 1, failures: 0 }, lastError: undefined },
    tally: {
      endpoints: [
        {
          url: 'http://a:1',
          answers: 5,
          failures: 0,
          failing: false,
          lastError: undefined,
          lastAnswer: NOW - 500,
          latency: 1.5,
        },
        {
          url: 'http://b:1',
          answers: 0,
          failures: 2,
          failing: true,
          lastError: 'no',
          lastAnswer: undefined,
          latency: undefined,
        },
        {
          url: 'http://c:1',
          answers: 0,
          failures: 0,
          failing: false,
          lastError: undefined,
          lastAnswer: undefined,
          latency: undefined,
        },
      ],
      current: 0,
    },
    watch: { index: 42, heardAt: NOW - 3_000, snapshots: 1, failures: 0, lastError: undefined },
    table: { size: 2, badCount: 1, bad: () => [{ key: '10.1.9.0-24', reason: 'garbage' }] },
    filesWritten: true,
  }
}

it('is a plain object that says all there is', async () => {
  const status = buildStatus(await well())
  expect(JSON.parse(JSON.stringify(status))).toEqual({
    version: STATUS_VERSION,
    daemon: {
      version: 'v1',
      pid: 7,
      startedAt: '1970-01-01T00:15:40.000Z',
      uptimeSeconds: 60,
      phase: 'running',
      logLevel: 'info',
    },
    health: { alive: true, ready: true, stuckLoops: [], reasons: [] },
    network: { cidr: '10.1.0.0/16', subnetLen: 24, backend: 'vxlan', etcdPrefix: '/x' },
    lease: { subnet: '10.1.2.0/24', publicIP: '192.0.2.1', secondsLeft: 86_000.5, renewals: 3 },
    interface: {
      name: 'eth0',
      address: '192.0.2.1',
      publicIP: '192.0.2.2',
      mtu: 1500,
      up: true,
      reason: 'default route',
    },
    device: { name: 'flannel.1', mtu: 1450, details: { vni: 1 } },
    firewall: { masquerade: true, forwardRules: false, checks: 4, repairs: 1, failures: 0, lastError: null },
    etcd: {
      endpoints: [
        {
          url: 'http://a:1',
          state: 'ok',
          current: true,
          latencyMs: 1.5,
          lastAnswerSecondsAgo: 0.5,
          answers: 5,
          failures: 0,
          lastError: null,
        },
        {
          url: 'http://b:1',
          state: 'failing',
          current: false,
          latencyMs: null,
          lastAnswerSecondsAgo: null,
          answers: 0,
          failures: 2,
          lastError: 'no',
        },
        {
          url: 'http://c:1',
          state: 'unasked',
          current: false,
          latencyMs: null,
          lastAnswerSecondsAgo: null,
          answers: 0,
          failures: 0,
          lastError: null,
        },
      ],
      watch: { index: 42, heardSecondsAgo: 3, snapshots: 1, failures: 0, lastError: null },
    },
    leases: { inUse: 2, skipped: 1, skippedList: [{ key: '10.1.9.0-24', reason: 'garbage' }] },
    kernel: {
      peers: 2,
      tables: { route: { wanted: 2, held: 2, failed: 0 } },
      repairs: { route: { notification: 1 } },
      lastApply: { secondsAgo: 2, tookMs: 1.235, entries: 9 },
      lastCompare: null,
      refusals: [],
      trouble: null,
    },
    probes: null,
    loops: [{ loop: 'firewall', lastSecondsAgo: 1, dueInSeconds: 4, stuck: false }],
  })
})

describe('docs/status.schema.json', () => {
  it('describes every field of it, and notices one that is missing, strange or of another kind', async () => {
    const status = JSON.parse(JSON.stringify(buildStatus(await well())))
    expect(faultsOf(status)).toEqual([])
    const { health, ...rest } = status
    expect(faultsOf(rest)).toEqual(['status.health is missing'])
    expect(faultsOf({ ...status, mood: 'good' })).toEqual(['status.mood is not described'])
    expect(faultsOf({ ...status, health: { ...health, ready: 'yes' } })).toEqual([
      'status.health.ready is "yes": no boolean',
    ])
    expect(faultsOf({ ...status, device: { ...status.device, mtu: -1 } })).toEqual([
      'status.device.mtu is -1: less than 1',
    ])
    expect(faultsOf({ ...status, lease: null, kernel: 7 })).toEqual(['status.kernel is 7: no object'])
  })

  it('describes a daemon that has only begun, and one that pings', async () => {
    const { clock, version, pid, startedAt, etcdPrefix, masquerade, forwardRules, ...more } = await well()
    const about = { clock, version, pid, startedAt, etcdPrefix, masquerade, forwardRules }
    const begun = { phase: 'starting', logLevel: 'info', pulses: [], filesWritten: false } as const
    expect(faultsOf(buildStatus({ ...about, ...begun }))).toEqual([])
    const summary = { reachable: 1, unreachable: 0, pending: 0, rtt: { least: 0.1, median: 0.2, most: 0.3 } }
    const pinging = buildStatus({ ...about, ...more, prober: { interval: 10_000, rounds: 1, summary } })
    expect(pinging.probes).toMatchObject({ intervalSeconds: 10, rttMs: { median: 0.2 } })
    expect(faultsOf(pinging)).toEqual([])
  })
})

it('says null for what is not there yet', async () => {
  const { clock, version, pid, startedAt, etcdPrefix, masquerade, forwardRules } = await well()
  const status = buildStatus({
    ...{ clock, version, pid, startedAt, etcdPrefix, masquerade, forwardRules },
    ...{ phase: 'waiting for config', logLevel: 'info', pulses: [], filesWritten: false },
  })
  expect(status).toMatchObject({ network: null, lease: null, interface: null, device: null, kernel: null })
  expect(status.health).toMatchObject({
    alive: true,
    ready: false,
    reasons: ['not running yet: waiting for config'],
  })
})

it('lists no more of the skipped leases and refusals than fit', async () => {
  const sources = await well()
  const many = Array.from({ length: 70 }, (_, i) => ({ key: String(i), reason: 'x' }))
  const { history } = sources.overlay ?? {}
  if (sources.overlay === undefined || history === undefined) throw new Error('no overlay')
  const status = buildStatus({
    ...sources,
    table: { size: 2, badCount: 70, bad: () => many },
    overlay: {
      ...sources.overlay,
      history: { ...history, refusals: many.map(({ key }) => key), skipped: ['unusable'] },
    },
  })
  expect(status.leases).toMatchObject({ inUse: 1, skipped: 71 })
  expect([status.leases.skippedList.length, status.kernel?.refusals.length]).toEqual([50, 50])
})

describe('health', () => {
  const late: Pulse = { loop: 'lease watch', last: NOW - 90_000, due: NOW - 1 }
  it.each<[string, (s: StatusSources) => Partial<StatusSources>, string]>([
    ['a stuck loop', () => ({ pulses: [late] }), 'loop lease watch is stuck, last heard of 90 s ago'],
    [
      'an expired lease',
      ({ keeper }) => ({ keeper: keeper && { ...keeper, secondsLeft: 0 } }),
      'the lease has expired or was deleted',
    ],
    ['no list of leases', () => ({ watch: undefined }), 'no list of leases is applied yet'],
    [
      'a list that is not applied',
      ({ overlay }) => ({
        overlay: overlay?.history && { ...overlay, history: { ...overlay.history, lastApply: undefined } },
      }),
      'no list of leases is applied yet',
    ],
    ['missing files', () => ({ filesWritten: false }), 'the subnet file is not written yet'],
    [
      'a failing table',
      ({ overlay }) => ({
        overlay: overlay && {
          ...overlay,
          status: { peers: 2, skipped: 0, tables: { route: { wanted: 2, held: 1, failed: 1 } } },
        },
      }),
      '1 entries of table route are refused',
    ],
    [
      'a device that cannot be had',
      ({ overlay }) => ({
        overlay: overlay?.history && { ...overlay, history: { ...overlay.history, trouble: 'no device' } },
      }),
      'no device',
    ],
    [
      'failing firewall rules',
      ({ firewall }) => ({ firewall: firewall && { ...firewall, lastError: 'no iptables' } }),
      'firewall rules are failing: no iptables',
    ],
    ['a start under way', () => ({ phase: 'acquiring a lease' }), 'not running yet: acquiring a lease'],
  ])('%s is no readiness', async (_, change, reason) => {
    const sources = await well()
    const { health } = buildStatus({ ...sources, ...change(sources) })
    expect(health).toMatchObject({ ready: false, reasons: [reason] })
    expect(health.alive).toBe(!reason.startsWith('loop'))
  })

  it('a backend that writes nothing to the kernel is ready without an apply', async () => {
    const sources = await well()
    const overlay = { name: 'alloc', mtu: 1500, status: { peers: 0, skipped: 0, tables: {} } }
    expect(buildStatus({ ...sources, overlay }).health.ready).toBe(true)
  })
})

it('a peer is sound when it has its place and all its entries', () => {
  const peer = {
    subnet,
    publicIP: 0xc0000203,
    mac: '02:00:00:00:00:03',
    route: 'plain',
    entries: { route: 'ok', fdb: 'ok' },
  }
  expect(isSound(peer)).toBe(true)
  expect(isSound({ ...peer, entries: { route: 'ok', fdb: 'missing' } })).toBe(false)
  expect(isSound({ ...peer, route: 'none', entries: {} })).toBe(false)
  expect(peerLine(peer, 0)).toEqual({
    subnet: '10.1.2.0/24',
    publicIP: '192.0.2.3',
    mac: '02:00:00:00:00:03',
    route: 'plain',
    entries: { route: 'ok', fdb: 'ok' },
    changedAt: '1970-01-01T00:00:00.000Z',
    probe: null,
  })
  expect(peerLine({ ...peer, mac: undefined }, undefined)).toMatchObject({ mac: null, changedAt: null })
})
