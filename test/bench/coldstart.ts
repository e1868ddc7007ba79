import type { Daemon } from '../netns/daemon.ts'
import { type Lab, monotonic, peerLeases } from '../netns/lab.ts'
import type { Report } from './report.ts'
import {
  converged,
  removeDevice,
  type Subject,
  setting,
  settled,
  startFresh,
  startSubject,
  subjects,
  turns,
  withLab,
} from './subject.ts'

/** Start to READY=1 with nobody else in the network. */
export async function readyAlone(report: Report): Promise<void> {
  const [rounds = 11] = setting('BENCH_STARTS', '11')
  await withLab(1, async (lab) => {
    for (const subject of turns(rounds)) {
      const daemon = await startFresh(lab, 1, subject)
      report.add('start to READY, no peers', 'ms', subject.label, await daemon.waitReady())
      await daemon.stop()
    }
  })
}

/**
 * Cold start among N peers: to READY=1 and to the last route, ARP and FDB entry; what it costs; then a restart over that
 * state, where there is nothing to write.
 */
export async function coldStart(report: Report): Promise<void> {
  const [rounds = 3] = setting('BENCH_ROUNDS', '3')
  for (const count of setting('BENCH_PEERS', '100 1000 5000 15000')) {
    const peers = peerLeases(count)
    await withLab(1, async (lab) => {
      await lab.etcd.seed(peers)
      for (const subject of turns(rounds)) {
        const add = (what: string, unit: string, value: number): void =>
          report.add(`${count} peers: ${what}`, unit, subject.label, value)
        await lab.observer.watch(lab.node(1).name)
        const daemon = await startFresh(lab, 1, subject)
        add('start to READY', 'ms', await daemon.waitReady(120_000))
        add('start to last entry', 'ms', (await converged(lab, 1, peers)) - daemon.startedAt)
        await settled(daemon)
        addSizes(daemon, add)
        await daemon.stop()
        await restart(lab, daemon, subject, add)
      }
      await removeDevice(lab.node(1))
    })
  }
}

function addSizes(daemon: Daemon, add: (what: string, unit: string, value: number) => void): void {
  const { cpu, rss, anonymous, peak } = daemon.status()
  add('CPU until settled', 'ms', cpu * 1000)
  add('resident memory', 'MB', rss / 1024)
  add('private memory', 'MB', anonymous / 1024)
  add('peak memory', 'MB', peak / 1024)
}

/**
 * Every /24 of a /8, save for those of the node itself. Only ours: where each route is looked for among all others the time
 * grows with the square.
 */
export async function wholeClassA(report: Report): Promise<void> {
  const [count = 65000] = setting('BENCH_HUGE', '65000')
  const [rounds = 3] = setting('BENCH_ROUNDS', '3')
  const [ours] = subjects()
  if (ours === undefined) return
  const config = {
    Network: '10.0.0.0/8',
    SubnetLen: 24,
    SubnetMin: '10.254.0.0',
    SubnetMax: '10.254.63.0',
    Backend: { Type: 'vxlan' },
  }
  const peers = peerLeases(count, { network: '10.0.0.0', publicNetwork: '172.16.0.0' })
  await withLab(
    1,
    async (lab) => {
      await lab.etcd.seed(peers)
      const add = (what: string, unit: string, value: number): void =>
        report.add(`${count} peers: ${what}`, unit, ours.label, value)
      for (let round = 0; round < rounds; round++) {
        await lab.observer.watch(lab.node(1).name)
        const daemon = await startFresh(lab, 1, ours)
        add('start to READY', 'ms', await daemon.waitReady(120_000))
        add('start to last entry', 'ms', (await converged(lab, 1, peers)) - daemon.startedAt)
        await settled(daemon)
        addSizes(daemon, add)
        await daemon.stop()
        await restart(lab, daemon, ours, add)
      }
      await removeDevice(lab.node(1))
    },
    // Leases that overlap the underlay would be refused, and rightly so.
    { config, underlay: '192.168' },
  )
}

async function restart(
  lab: Lab,
  previous: Daemon,
  subject: Subject,
  add: (what: string, unit: string, value: number) => void,
): Promise<void> {
  await lab.observer.watch(lab.node(1).name)
  const begin = monotonic()
  const daemon = await startSubject(lab, 1, subject, previous.runDir)
  add('restart to READY', 'ms', await daemon.waitReady(120_000))
  await settled(daemon)
  const { route, neighbour, fdb } = await lab.observer.firstSeen(lab.node(1).name)
  const times = [route, neighbour, fdb].flatMap((table) => Object.values(table))
  add('restart: kernel entries changed', '', times.filter((time) => time / 1e6 > begin).length)
  add('restart: CPU until settled', 'ms', daemon.status().cpu * 1000)
  await daemon.stop()
}
