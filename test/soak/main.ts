/**
 * `make soak`: SOAK_SECONDS (600) of faults from SOAK_SEED (random, and printed), then SOAK_RESTARTS (1000) restarts under a
 * load of new connections. Ends with status 1 and with what was wrong.
 */
import { randomInt } from 'node:crypto'
import { restarts } from './restarts.ts'
import { soak } from './soak.ts'

const { SOAK_SECONDS = '600', SOAK_SEED, SOAK_RESTARTS = '1000' } = process.env
const seed = Number(SOAK_SEED ?? randomInt(2 ** 32))
const say = (line: string): void => void process.stdout.write(`${line}\n`)

try {
  if (Number(SOAK_SECONDS) > 0) {
    const { rounds, faults, restarts, pings, ...result } = await soak({
      seconds: Number(SOAK_SECONDS),
      seed,
      say,
    })
    const { memory, descriptors, slowest, slowestWithEtcd } = result
    say(
      `${faults} faults in ${rounds} rounds, ${restarts} restarts, ${pings} pings answered and none lost without cause; ` +
        `right again after ${slowest.toFixed(0)} ms at the latest, ${slowestWithEtcd.toFixed(0)} ms when etcd was at fault; ` +
        `private memory ${memory.join(' -> ')} KiB, descriptors ${descriptors.join(' -> ')}`,
    )
  }
  if (Number(SOAK_RESTARTS) > 0) {
    const { connections, slow } = await restarts({ count: Number(SOAK_RESTARTS), seed, say })
    say(
      `${SOAK_RESTARTS} restarts: ${connections} new connections and none failed (${slow} took longer than a second); ` +
        'nothing of ours deleted, device kept',
    )
  }
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`)
  process.exitCode = 1
}
