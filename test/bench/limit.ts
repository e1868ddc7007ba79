import { fileURLToPath } from 'node:url'
import { run } from '../netns/process.ts'
import type { NetlinkTimes } from './netlink.ts'
import type { Report } from './report.ts'
import { setting } from './subject.ts'

export const KERNEL = 'kernel alone'

/** What the kernel itself takes for the same entries, in batches, without etcd and without a daemon that starts. */
export async function limit(report: Report): Promise<void> {
  const sizes = setting('BENCH_PEERS', '100 1000 5000 15000').map(String)
  const script = fileURLToPath(new URL('netlink.ts', import.meta.url))
  const times = JSON.parse(
    await run([process.execPath, script, '--json', ...sizes]),
  ) as readonly NetlinkTimes[]
  for (const size of sizes.map(Number)) {
    const of = (what: string): number =>
      times.find((one) => one.size === size && one.what === what)?.kernel ?? Number.NaN
    const routes = Math.min(of('plain routes'), of('nexthops and their routes'))
    report.add(`${size} peers: start to last entry`, 'ms', KERNEL, of('ARP and FDB entries') + routes)
  }
}
