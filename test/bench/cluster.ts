import { type Daemon, type Lab, monotonic, peerLeases, waitFor } from '../netns/lab.ts'
import type { Report } from './report.ts'
import {
  converged,
  peersOf,
  type Subject,
  setting,
  settled,
  startFresh,
  startSubject,
  subjects,
  turns,
  withLab,
} from './subject.ts'

/** Room for 64 subnets. */
const NARROW = {
  Network: '100.64.0.0/16',
  SubnetLen: 22,
  SubnetMin: '100.64.0.0',
  Backend: { Type: 'vxlan' },
}

/**
 * Everybody starts at the same moment in a network with 64 subnets: the time until every node has every other one's route,
 * ARP and FDB entry, and how often each asked etcd for a subnet.
 */
export async function joinStorm(report: Report): Promise<void> {
  const [rounds = 3] = setting('BENCH_STORMS', '3')
  for (const count of setting('BENCH_NODES', '60')) {
    for (const subject of turns(rounds)) {
      await withLab(count, (lab) => storm(lab, count, subject, report), { config: NARROW })
    }
  }
}

async function storm(lab: Lab, count: number, subject: Subject, report: Report): Promise<void> {
  for (const { name } of lab.nodes) await lab.observer.watch(name)
  const before = await lab.etcd.creations()
  const begin = monotonic()
  const daemons = await Promise.all(
    lab.nodes.map((_, i) => startSubject(lab, i + 1, subject, lab.memoryFolder())),
  )
  await Promise.all(daemons.map((daemon) => daemon.waitReady(120_000)))
  const leases = await lab.etcd.leases()
  if (leases.length !== count) throw new Error(`${leases.length} leases for ${count} nodes`)
  const times: number[] = []
  for (let i = 1; i <= count; i++) times.push(await converged(lab, i, await peersOf(lab, i)))
  const add = (what: string, unit: string, value: number): void =>
    report.add(`${count} nodes start at once on 64 subnets: ${what}`, unit, subject.label, value)
  add('to full mesh', 'ms', Math.max(...times) - begin)
  add('tries a node', '', ((await lab.etcd.creations()) - before) / count)
  add('CPU of all', 'ms', daemons.reduce((sum, daemon) => sum + daemon.status().cpu, 0) * 1000)
  await Promise.all(daemons.map((daemon) => daemon.stop()))
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
    const before = daemons.map((daemon) => daemon.status())
    const begin = monotonic()
    await waitFor(() => monotonic() - begin > seconds * 1000, {
      what: 'the time to pass',
      timeout: seconds * 2000,
      interval: 500,
    })
    for (const [i, daemon] of daemons.entries()) {
      const [first, last] = [before[i] ?? daemon.status(), daemon.status()]
      const add = (what: string, unit: string, value: number): void =>
        report.add(`idle, ${IDLE_PEERS} peers: ${what}`, unit, all[i]?.label ?? '', value)
      add(`CPU in ${seconds} s`, 'ms', (last.cpu - first.cpu) * 1000)
      add('resident memory', 'MB', last.rss / 1024)
      add('private memory', 'MB', last.anonymous / 1024)
      add('private memory more than before', 'MB', (last.anonymous - first.anonymous) / 1024)
      add('descriptors more than before', '', last.descriptors - first.descriptors)
    }
  })
}
