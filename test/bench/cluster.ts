import { type Daemon, monotonic, peerLeases, waitFor } from '../netns/lab.ts'
import type { Report } from './report.ts'
import {
  converged,
  peersOf,
  setting,
  settled,
  startFresh,
  startSubject,
  subjects,
  turns,
  withLab,
} from './subject.ts'

/** Everybody starts at the same moment: the time until every node has every other one's route, ARP and FDB entry. */
export async function joinStorm(report: Report): Promise<void> {
  const [rounds = 1] = setting('BENCH_STORMS', '1')
  for (const count of setting('BENCH_NODES', '30 60')) {
    for (const subject of turns(rounds)) {
      await withLab(count, async (lab) => {
        for (const { name } of lab.nodes) await lab.observer.watch(name)
        const begin = monotonic()
        const daemons = await Promise.all(
          lab.nodes.map((_, i) => startSubject(lab, i + 1, subject, `${lab.dir}/node${i + 1}`)),
        )
        await Promise.all(daemons.map((daemon) => daemon.waitReady(120_000)))
        const times: number[] = []
        for (let i = 1; i <= count; i++) times.push(await converged(lab, i, await peersOf(lab, i)))
        const add = (what: string, unit: string, value: number): void =>
          report.add(`${count} nodes start at once: ${what}`, unit, subject.label, value)
        add('to full mesh', 'ms', Math.max(...times) - begin)
        add('CPU of all', 'ms', daemons.reduce((sum, daemon) => sum + daemon.status().cpu, 0) * 1000)
        await Promise.all(daemons.map((daemon) => daemon.stop()))
      })
    }
  }
}

const IDLE_PEERS = 1000

/** CPU of a daemon that has nothing to do among 1,000 peers, all subjects at the same time, each on its own node. */
export async function idle(report: Report): Promise<void> {
  const [seconds = 60] = setting('BENCH_IDLE_SECONDS', '60')
  const all = subjects()
  await withLab(all.length, async (lab) => {
    await lab.etcd.seed(peerLeases(IDLE_PEERS))
    const daemons: Daemon[] = []
    for (const [i, subject] of all.entries()) daemons.push(await startFresh(lab, i + 1, subject))
    for (const daemon of daemons) {
      await daemon.waitReady()
      await settled(daemon)
    }
    const before = daemons.map((daemon) => daemon.status().cpu)
    const begin = monotonic()
    await waitFor(() => monotonic() - begin > seconds * 1000, {
      what: 'the time to pass',
      timeout: seconds * 2000,
      interval: 500,
    })
    for (const [i, daemon] of daemons.entries()) {
      const used = (daemon.status().cpu - (before[i] ?? 0)) * 1000
      report.add(`idle, ${IDLE_PEERS} peers: CPU in ${seconds} s`, 'ms', all[i]?.label ?? '', used)
      report.add(
        `idle, ${IDLE_PEERS} peers: resident memory`,
        'MB',
        all[i]?.label ?? '',
        daemon.status().rss / 1024,
      )
      report.add(
        `idle, ${IDLE_PEERS} peers: private memory`,
        'MB',
        all[i]?.label ?? '',
        daemon.status().anonymous / 1024,
      )
    }
  })
}
