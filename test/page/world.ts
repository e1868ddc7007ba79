import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { onTestFinished } from 'vitest'
import { type Clock, systemClock } from '../../src/clock.ts'
import type { Event } from '../../src/events.ts'
import { dispatch } from '../../src/http.ts'
import { formatIpv4 } from '../../src/ip.ts'
import type { Viewed } from '../../src/page/look.ts'
import { pageRoutes } from '../../src/page/routes.ts'
import type { PeerLine, Status } from '../../src/status.ts'

/** A node that is well; `changes` replace whole fields. */
export function status(changes: Partial<Status> = {}): Status {
  const counts = { wanted: 3, held: 3, failed: 0 }
  return {
    version: 1,
    daemon: {
      version: 'v1.2.3, Node v24.21.0',
      pid: 4711,
      startedAt: '2026-01-02T03:04:05.000Z',
      uptimeSeconds: 93_784,
      phase: 'running',
      logLevel: 'info',
    },
    health: { alive: true, ready: true, stuckLoops: [], reasons: [] },
    network: { cidr: '100.64.0.0/10', subnetLen: 24, backend: 'vxlan', etcdPrefix: '/coreos.com/network' },
    lease: { subnet: '100.124.7.0/24', publicIP: '192.0.2.1', secondsLeft: 82_000, renewals: 3 },
    interface: {
      name: 'eth0',
      address: '192.0.2.1',
      publicIP: '192.0.2.1',
      mtu: 1500,
      up: true,
      reason: 'the default route leads through it',
    },
    device: { name: 'flannel.1', mtu: 1450, details: { vni: 1, port: 8472, mac: '02:00:00:00:00:01' } },
    firewall: { masquerade: true, forwardRules: true, checks: 40, repairs: 1, failures: 0, lastError: null },
    etcd: {
      endpoints: [
        {
          url: 'http://192.0.2.10:2379',
          state: 'ok',
          current: true,
          latencyMs: 1.7,
          lastAnswerSecondsAgo: 4,
          answers: 99,
          failures: 0,
          lastError: null,
        },
      ],
      watch: { index: 5120, heardSecondsAgo: 4, snapshots: 1, failures: 0, lastError: null },
    },
    leases: { inUse: 3, skipped: 0, skippedList: [] },
    kernel: {
      peers: 3,
      tables: { neighbour: counts, fdb: counts, route: counts },
      repairs: { route: { notification: 2, compare: 0, device: 0 } },
      lastApply: { secondsAgo: 30, tookMs: 0.8, entries: 3 },
      lastCompare: { secondsAgo: 12, tookMs: 3.1, entries: 0 },
      refusals: [],
      trouble: null,
    },
    probes: null,
    loops: [
      { loop: 'reconciler', lastSecondsAgo: 1, dueInSeconds: 60, stuck: false },
      { loop: 'lease watch', lastSecondsAgo: 4, dueInSeconds: 300, stuck: false },
    ],
    ...changes,
  }
}

/** Peer number `n`, counted from 0; all that it needs is there unless `changes` say otherwise. */
export function peer(n: number, changes: Partial<PeerLine> = {}): PeerLine {
  return {
    subnet: `${formatIpv4(0x64400000 + n * 256)}/24`,
    publicIP: formatIpv4(0xc6120001 + n),
    mac: `02:00:00:00:${(n >> 8).toString(16).padStart(2, '0')}:${(n & 255).toString(16).padStart(2, '0')}`,
    route: 'plain',
    entries: { neighbour: 'ok', fdb: 'ok', route: 'ok' },
    changedAt: null,
    probe: null,
    ...changes,
  }
}

export const peers = (count: number): PeerLine[] => Array.from({ length: count }, (_, n) => peer(n))

/** What a test changes while the page is looked at, and how often it was asked. */
export interface World extends Viewed {
  now: Status
  lines: PeerLine[]
  happened: Event[]
  asked: { status: number; peers: number }
}

export function world({ count = 3, now = status() }: { count?: number; now?: Status } = {}): World {
  const asked = { status: 0, peers: 0 }
  return {
    now,
    lines: peers(count),
    happened: [],
    asked,
    status() {
      asked.status++
      return this.now
    },
    peers() {
      asked.peers++
      return this.lines
    },
    events: {
      since: () => [],
    },
  }
}

/** Time that passes when the test says so: every sleeper wakes up at each `pass`. */
export class StepClock implements Clock {
  #now = 0
  #sleepers = new Set<() => void>()

  now = (): number => this.#now
  wall = (): number => Date.now()

  sleep(_: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const wake = (): void => {
        this.#sleepers.delete(wake)
        signal?.removeEventListener('abort', wake)
        resolve()
      }
      if (signal?.aborted) return resolve()
      this.#sleepers.add(wake)
      signal?.addEventListener('abort', wake)
    })
  }

  get sleeping(): number {
    return this.#sleepers.size
  }

  pass(ms: number): void {
    this.#now += ms
    for (const wake of [...this.#sleepers]) wake()
  }
}

/** The page of a world over HTTP; returns its address. Failures that nobody expects, by taking them, fail the test. */
export async function serve(
  view: Viewed,
  clock: Clock = systemClock,
  failures: unknown[] = [],
): Promise<string> {
  const server = createServer(dispatch(pageRoutes(view, clock), (error) => failures.push(error)))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(async () => {
    server.closeAllConnections()
    await new Promise((resolve) => server.close(resolve))
    if (failures.length > 0) throw failures[0]
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}
