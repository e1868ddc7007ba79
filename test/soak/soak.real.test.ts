import { expect, test } from 'vitest'
import { soak } from './soak.ts'

const SECONDS = 60
/** The same each time, so that a failure is news about the program and not about the dice; `make soak` throws them. */
const SEED = '1'

test('a cluster comes right after every round of faults', { timeout: 600_000 }, async () => {
  const said: string[] = []
  const seed = Number(process.env.SOAK_SEED ?? SEED)
  const result = await soak({ seconds: SECONDS, seed, say: (line) => said.push(line) })
  expect(result.pings, said.join('\n')).toBeGreaterThan(100)
  process.stdout.write(
    `soak: ${result.faults} faults in ${result.rounds} rounds, right within ${result.slowest.toFixed(0)} ms\n`,
  )
})
