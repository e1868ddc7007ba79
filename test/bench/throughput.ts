import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { chosenBackend } from '../netns/backend.ts'
import { waitFor } from '../netns/lab.ts'
import { stop } from '../netns/process.ts'
import type { Report } from './report.ts'
import { CONFIG, setting, startFresh, turns, withLab } from './subject.ts'

/** Gigabytes that iperf3 has moved, and what the daemons used for it. */
const GIGABYTE = 1e9

/**
 * One TCP stream from a pod on one node to a pod on another, by iperf3; the round trip of pings between them; and the CPU time
 * of both daemons. BACKEND chooses the backend, and a peer that does not have it is left out.
 */
export async function throughput(report: Report): Promise<void> {
  const [rounds = 3] = setting('BENCH_ROUNDS', '3')
  const { config: Backend } = chosenBackend()
  const { Type: type } = Backend
  for (const subject of turns(rounds)) {
    if (subject.label === 'peer' && type === 'wireguard') continue
    await withLab(
      2,
      async (lab) => {
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
        const used = () => one.status().cpu + two.status().cpu
        const before = used()
        const result = JSON.parse(await from.namespace.run('iperf3', '-c', to.address, '-t', '4', '-J'))
        const { bits_per_second: rate, bytes } = result.end.sum_received
        const add = (what: string, unit: string, value: number): void =>
          report.add(`${type}, pod to pod: ${what}`, unit, subject.label, value)
        add('one TCP stream', 'Gbit/s', rate / 1e9)
        add('CPU of both daemons', 'ms/GB', ((used() - before) * 1000 * GIGABYTE) / bytes)
        const pings = await from.namespace.run('ping', '-n', '-q', '-c', '300', '-i', '0.005', to.address)
        add('ping, mean', 'ms', Number(/= [\d.]+\/([\d.]+)\//.exec(pings)?.[1]))
      },
      { config: { ...CONFIG, Backend } },
    )
  }
}
