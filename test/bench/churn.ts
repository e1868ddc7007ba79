import type { Daemon } from '../netns/daemon.ts'
import { type Lab, monotonic, type PeerLease, PREFIX, peerLeases, waitFor } from '../netns/lab.ts'
import { percentile, type Report } from './report.ts'
import { converged, setting, settled, startFresh, turns, withLab } from './subject.ts'

const BASE = 100

/**
 * A daemon that knows 100 peers meets 2,000 more, and then sees them go, one after the other as fast as etcd takes the
 * writes: the time from etcd's answer to the kernel's notification of the route, and what memory it leaves behind.
 */
export async function churn(report: Report): Promise<void> {
  const [rounds = 3] = setting('BENCH_ROUNDS', '3')
  const [events = 2000] = setting('BENCH_EVENTS', '2000')
  const base = peerLeases(BASE)
  const fresh = peerLeases(events, { first: BASE + 1 })
  for (const subject of turns(rounds)) {
    await withLab(1, async (lab) => {
      const { name } = lab.node(1)
      await lab.etcd.seed(base)
      await lab.observer.watch(name)
      const daemon = await startFresh(lab, 1, subject)
      await converged(lab, 1, base)
      await settled(daemon)
      const memory = daemon.status().rss
      const add = (what: string, unit: string, value: number): void =>
        report.add(`${events} ${what}`, unit, subject.label, value)

      const joined = await timed(daemon, fresh, async (lease) => await lab.etcd.putLease(lease))
      await converged(lab, 1, fresh)
      const { route } = await lab.observer.firstSeen(name)
      add('joins: etcd to route, p50', 'ms', percentile(joined.latencies(route), 50))
      add('joins: etcd to route, p99', 'ms', percentile(joined.latencies(route), 99))
      add('joins: CPU', 'ms', joined.cpu())
      report.joins(subject.label, joined.latencies(route))

      const left = await timed(daemon, fresh, async ({ key }) => {
        await lab.etcd.delete(`${PREFIX}/subnets/${key}`)
      })
      await allGone(lab, fresh)
      const { gone } = await lab.observer.firstSeen(name)
      add('leaves: etcd to route, p50', 'ms', percentile(left.latencies(gone), 50))
      add('leaves: etcd to route, p99', 'ms', percentile(left.latencies(gone), 99))
      add('leaves: CPU', 'ms', left.cpu())
      await settled(daemon)
      add('joins and leaves: resident memory more than before', 'MB', (daemon.status().rss - memory) / 1024)
    })
  }
}

/** Makes one write for each lease, and notes when etcd answered. */
async function timed(
  daemon: Daemon,
  leases: readonly PeerLease[],
  write: (lease: PeerLease) => Promise<unknown>,
): Promise<{
  readonly latencies: (seen: Readonly<Record<string, number>>) => readonly number[]
  readonly cpu: () => number
}> {
  const before = daemon.status().cpu
  const answered = new Map<string, number>()
  for (const lease of leases) {
    await write(lease)
    answered.set(lease.key.split('-')[0] ?? '', monotonic())
  }
  return {
    // What was there before etcd's answer had been read took no time.
    latencies: (seen) =>
      [...answered].map(([subnet, at]) => Math.max(0, (seen[subnet] ?? Number.NaN) / 1e6 - at)),
    cpu: () => (daemon.status().cpu - before) * 1000,
  }
}

async function allGone(lab: Lab, leases: readonly PeerLease[]): Promise<void> {
  const { name } = lab.node(1)
  await waitFor(async () => (await lab.observer.counts(name)).gone >= leases.length, {
    what: `${leases.length} routes to go`,
    timeout: 120_000,
    interval: 20,
  })
}
