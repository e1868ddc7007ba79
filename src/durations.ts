/** Upper ends of the buckets, in seconds, as Prometheus has them (`le`); one more bucket takes what is longer. */
export const DURATION_BOUNDS = [
  0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10,
] as const

/** How long something took, each time it was done: a histogram that costs one addition a time, whoever reads it. */
export class Durations {
  readonly bounds: readonly number[]
  readonly #buckets: number[]
  #seconds = 0
  #count = 0

  constructor(bounds: readonly number[] = DURATION_BOUNDS) {
    this.bounds = bounds
    this.#buckets = new Array<number>(bounds.length + 1).fill(0)
  }

  add(milliseconds: number): void {
    const seconds = milliseconds / 1000
    let bucket = 0
    while (seconds > (this.bounds[bucket] ?? Number.POSITIVE_INFINITY)) bucket++
    this.#buckets[bucket] = (this.#buckets[bucket] ?? 0) + 1
    this.#seconds += seconds
    this.#count++
  }

  get count(): number {
    return this.#count
  }

  /** Sum of all, in seconds. */
  get seconds(): number {
    return this.#seconds
  }

  /** How many took at most each bound, in the order of `bounds`, and last how many there were. */
  cumulative(): number[] {
    let sum = 0
    return this.#buckets.map((count) => (sum += count))
  }
}
