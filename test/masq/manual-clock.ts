import { setImmediate as turn } from 'node:timers/promises'
import type { Clock } from '../../src/clock.ts'

interface Sleeper {
  readonly until: number
  readonly wake: () => void
}

/** Time that stands still until it is turned. */
export class ManualClock implements Clock {
  #now = 0
  readonly #sleepers = new Set<Sleeper>()

  now(): number {
    return this.#now
  }

  wall(): number {
    return this.#now
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    if (signal?.aborted) return Promise.resolve()
    return new Promise((resolve) => {
      const wake = () => {
        this.#sleepers.delete(sleeper)
        signal?.removeEventListener('abort', wake)
        resolve()
      }
      const sleeper = { until: this.#now + ms, wake }
      this.#sleepers.add(sleeper)
      signal?.addEventListener('abort', wake, { once: true })
    })
  }

  /** When the next sleeper wakes, in ms from now; undefined when nobody sleeps. */
  get next(): number | undefined {
    const [first] = [...this.#sleepers].sort((a, b) => a.until - b.until)
    return first && first.until - this.#now
  }

  /** Turns time, stopping at every sleeper on the way until whatever it starts has settled. */
  async advance(ms: number): Promise<void> {
    const end = this.#now + ms
    await this.settle()
    for (;;) {
      const [first] = [...this.#sleepers].sort((a, b) => a.until - b.until)
      if (!first || first.until > end) break
      this.#now = first.until
      first.wake()
      await this.settle()
    }
    this.#now = end
  }

  /** Lets everything that needs no time happen. */
  async settle(): Promise<void> {
    for (let i = 0; i < 10; i++) await turn()
  }
}
