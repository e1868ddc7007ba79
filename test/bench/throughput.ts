import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { waitFor } from '../netns/lab.ts'
import { stop } from '../netns/process.ts'
import type { Report } from './report.ts'
import { setting, startFresh, turns, withLab } from './subject.ts'

/** One TCP stream from a pod on one node to a pod on another, by iperf3. */
export async function throughput(report: Report): Promise<void> {
  const [rounds = 3] = setting('BENCH_ROUNDS', '3')
  for (const subject of turns(rounds)) {
    await withLab(2, async (lab) => {
      const one = await startFresh(lab, 1, subject)
      const two = await startFresh(lab, 2, subject)
      await Promise.all([one.waitReady(), two.waitReady()])
      const [from, to] = [await lab.pod(one), await lab.pod(two)]
      await waitFor(() => from.namespace.ping(to.address), { what: 'pods to reach each other' })
      const server = to.namespace.start(['iperf3', '-s', '--forceflush'], {
        stdio: ['ignore', 'pipe', 'ignore'],
      })
      lab.onClose(() => stop(server, 'SIGKILL'))
      if (server.stdout) await once(createInterface(server.stdout), 'line')
      const result = JSON.parse(await from.namespace.run('iperf3', '-c', to.address, '-t', '4', '-J'))
      const rate = result.end.sum_received.bits_per_second / 1e9
      report.add('pod to pod, one TCP stream', 'Gbit/s', subject.label, rate)
    })
  }
}
