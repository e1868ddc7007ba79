/**
 * A cluster under everything at once, for a while: joins, leaves, new MACs, sabotage of kernel and firewall, faults of etcd,
 * restarts and kill -9, chosen by a seed. Each round a few of them happen together; then all has to come right, as a checker
 * apart from the daemon's code sees it, and no ping may be lost unless a fault cut the wire. Memory and descriptors of the
 * daemon that was never restarted have to be in the second half of the rounds what they were in the first.
 */
import { monotonic } from '../netns/lab.ts'
import { FAULTS, type Fault } from './faults.ts'
import { Random } from './random.ts'
import { World } from './world.ts'

/** Rounds before memory counts, and the fewest that do. */
const WARM_UP = 5
const FEWEST = 10
/** KiB: memory rises and falls between collections, so the lowest of each half is compared. */
const GROWTH = 8 * 1024
/** Descriptors come and go with connections to etcd. */
const MORE_DESCRIPTORS = 3

export interface SoakResult {
  readonly rounds: number
  readonly faults: number
  readonly restarts: number
  readonly pings: number
  /** Of the daemon that was never restarted, the lowest in each half of the rounds: private memory in KiB, and descriptors. */
  readonly memory: readonly [number, number]
  readonly descriptors: readonly [number, number]
  /** Milliseconds from the end of the faults to all right again, at most: in rounds without a fault of etcd, and with one. */
  readonly slowest: number
  readonly slowestWithEtcd: number
}

/** Rejects with the seed, the faults of the last round, and what is wrong. `say` gets a line a round. */
export async function soak(options: {
  readonly seconds: number
  readonly seed: number
  readonly say: (line: string) => void
}): Promise<SoakResult> {
  const { seconds, seed, say } = options
  const random = new Random(seed)
  say(`SOAK_SEED=${random.seed}: ${seconds} s`)
  const world = await World.create(random)
  let names: readonly string[] = []
  let rounds = 0
  let faults = 0
  let slowest = 0
  let slowestWithEtcd = 0
  try {
    const { daemon: steady } = world.places[2] ?? {}
    if (steady === undefined) throw new Error('there is no node 3')
    const sizes: { readonly memory: number; readonly descriptors: number }[] = []
    const end = monotonic() + seconds * 1000
    while (monotonic() < end || sizes.length < FEWEST) {
      const chosen = choose(random)
      faults += chosen.length
      // Drawn before anything happens, in an order that does not depend on how long things take.
      const places = chosen.map(() => random.pick(world.places))
      const dice = chosen.map(() => random.fork())
      names = chosen.map(({ name }, i) => `${name} (node ${places[i]?.number})`)
      await Promise.all(
        chosen.map(async (fault, i) => {
          if (fault.cutsWire) world.cut()
          const [place, own] = [places[i], dice[i]]
          if (place && own) await fault.happen(world, place, own)
        }),
      )
      const { after, last } = await world.settle()
      if (chosen.some((fault) => fault.group === 'etcd')) slowestWithEtcd = Math.max(slowestWithEtcd, after)
      else slowest = Math.max(slowest, after)
      const lost = world.lost()
      if (lost.length > 0) throw new Error(`pings lost: ${lost.slice(0, 10).join('; ')}`)
      rounds++
      const { anonymous: memory, descriptors } = steady.status()
      if (rounds > WARM_UP) sizes.push({ memory, descriptors })
      say(
        `${rounds}: ${names.join(', ')}; right after ${after.toFixed(0)} ms${last.length > 0 ? `, the last: ${last[0]}` : ''}`,
      )
    }
    const half = sizes.length / 2
    const lowest = (what: 'memory' | 'descriptors'): readonly [number, number] => {
      const values = sizes.map((size) => size[what])
      return [Math.min(...values.slice(0, half)), Math.min(...values.slice(half))]
    }
    const [memory, descriptors] = [lowest('memory'), lowest('descriptors')]
    if (memory[1] > memory[0] + GROWTH) throw new Error(`private memory grows: ${memory.join(' -> ')} KiB`)
    if (descriptors[1] > descriptors[0] + MORE_DESCRIPTORS)
      throw new Error(`descriptors grow: ${descriptors.join(' -> ')}`)
    const restarts = world.places.reduce((sum, place) => sum + place.restarts, 0)
    return { rounds, faults, restarts, pings: world.pinged, memory, descriptors, slowest, slowestWithEtcd }
  } catch (error) {
    const logs = world.places.map(({ number, daemon }) => `node ${number}:\n${daemon.log().slice(-3000)}`)
    const reason = error instanceof Error ? error.message : String(error)
    throw new Error(
      `SOAK_SEED=${seed}, round ${rounds + 1}: ${names.join(', ')}: ${reason}\n${logs.join('\n')}`,
      { cause: error },
    )
  } finally {
    await world.close()
  }
}

const BY_WEIGHT = FAULTS.flatMap((fault) => Array.from({ length: fault.weight }, () => fault))

/** One to five faults, by weight. */
function choose(random: Random): readonly Fault[] {
  const chosen: Fault[] = []
  for (let left = random.between(1, 5); left > 0; left--) {
    const fault = random.pick(BY_WEIGHT)
    const { group } = fault
    if (group === undefined || !chosen.some((other) => other.group === group)) chosen.push(fault)
  }
  return chosen
}
