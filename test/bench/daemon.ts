/**
 * `make bench`: what the daemon costs and how fast it is, on a real kernel and a real etcd. With FLANNEL_PEER=/path another
 * flanneld is measured in the same run, turn by turn. Times come from outside of the daemon: sd_notify datagrams and the
 * kernel's own notifications.
 *
 * BENCH_PEERS, BENCH_NODES, BENCH_ROUNDS, BENCH_STARTS, BENCH_STORMS, BENCH_EVENTS, BENCH_IDLE_SECONDS choose sizes, BENCH_ONLY
 * names the parts to run. Prints a Markdown table, and writes out/bench.json with every single value.
 */
import { churn } from './churn.ts'
import { idle, joinStorm } from './cluster.ts'
import { coldStart, readyAlone } from './coldstart.ts'
import { Report } from './report.ts'
import { subjects } from './subject.ts'
import { throughput } from './throughput.ts'

const PARTS = { start: readyAlone, cold: coldStart, churn, join: joinStorm, idle, throughput }

async function main(): Promise<void> {
  const only = process.env.BENCH_ONLY?.split(/[\s,]+/) ?? Object.keys(PARTS)
  const report = new Report()
  let failed = false
  for (const { label, binary } of subjects()) process.stderr.write(`${label}: ${binary}\n`)
  for (const [name, part] of Object.entries(PARTS)) {
    if (!only.includes(name)) continue
    process.stderr.write(`measuring: ${name}\n`)
    try {
      await part(report)
    } catch (error) {
      failed = true
      process.stderr.write(`${name}: ${error instanceof Error ? error.message : String(error)}\n`)
    }
  }
  process.stdout.write(`${report.table()}\n`)
  process.stderr.write(`every value: ${await report.save()}\n`)
  process.exitCode = failed ? 1 : 0
}

await main()
