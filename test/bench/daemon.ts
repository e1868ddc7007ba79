/**
 * `make bench`: what the daemon costs and how fast it is, on a real kernel and a real etcd. With FLANNEL_PEER=/path another
 * flanneld is measured in the same run, turn by turn. Times come from outside of the daemon: sd_notify datagrams and the
 * kernel's own notifications.
 *
 * BENCH_PEERS, BENCH_NODES, BENCH_ROUNDS, BENCH_STARTS, BENCH_STORMS, BENCH_EVENTS, BENCH_HUGE, BENCH_IDLE_SECONDS choose
 * sizes, BENCH_ONLY names the parts to run. BENCH_PRIORITY=1 gives all of it real-time priority, so that other work on the
 * machine counts less. Prints a Markdown table, writes out/bench.json with every single value, and, when every part ran beside
 * another daemon, the table and plots of docs/performance.md.
 */
import { run } from '../netns/process.ts'
import { churn } from './churn.ts'
import { idle, joinStorm } from './cluster.ts'
import { coldStart, readyAlone, wholeClassA } from './coldstart.ts'
import { writePage } from './document.ts'
import { limit } from './limit.ts'
import { Report, save } from './report.ts'
import { subjects } from './subject.ts'
import { throughput } from './throughput.ts'

const PARTS = {
  start: readyAlone,
  cold: coldStart,
  limit,
  huge: wholeClassA,
  churn,
  join: joinStorm,
  idle,
  throughput,
}

async function main(): Promise<void> {
  const only = process.env.BENCH_ONLY?.split(/[\s,]+/)
  const priority = process.env.BENCH_PRIORITY === '1'
  // In turns (SCHED_RR), and inherited by all that is started from here.
  if (priority) await run(['chrt', '-r', '-a', '-p', '10', String(process.pid)])
  const report = new Report()
  let failed = false
  for (const { label, binary } of subjects()) process.stderr.write(`${label}: ${binary}\n`)
  for (const [name, part] of Object.entries(PARTS)) {
    if (only !== undefined && !only.includes(name)) continue
    process.stderr.write(`measuring: ${name}\n`)
    try {
      await part(report)
    } catch (error) {
      failed = true
      process.stderr.write(`${name}: ${error instanceof Error ? error.message : String(error)}\n`)
    }
  }
  const measured = await report.result(priority)
  process.stdout.write(`${report.table()}\n`)
  process.stderr.write(`every value: ${save(measured)}\n`)
  if (only === undefined && !failed && subjects().length > 1) writePage(measured)
  process.exitCode = failed ? 1 : 0
}

await main()
