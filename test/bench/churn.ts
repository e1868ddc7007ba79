import { monotonic, peerLeases } from '../netns/lab.ts'
import { percentile, type Report } from './report.ts'
import { converged, setting, settled, startFresh, turns, withLab } from './subject.ts'

const BASE = 100

/**
 * A daemon that knows 100 peers meets 2,000 more, written one after the other as fast as etcd takes them: the time from
 * etcd's answer to the kernel's notification of the route.
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
      const before = daemon.status().cpu
      const answered = new Map<string, number>()
      for (const lease of fresh) {
        await lab.etcd.putLease(lease)
        answered.set(lease.key.split('-')[0] ?? '', monotonic())
      }
      await converged(lab, 1, fresh)
      const { route } = await lab.observer.firstSeen(name)
      const latencies = [...answered].map(([subnet, at]) => (route[subnet] ?? Number.NaN) / 1e6 - at)
      const add = (what: string, unit: string, value: number): void =>
        report.add(`new lease to route, ${events} events: ${what}`, unit, subject.label, value)
      add('p50', 'ms', percentile(latencies, 50))
      add('p99', 'ms', percentile(latencies, 99))
      add('CPU', 'ms', (daemon.status().cpu - before) * 1000)
    })
  }
}
