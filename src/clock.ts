/** Time, passed in so that tests can turn it by hand. */
export interface Clock {
  /** Monotonic milliseconds from an arbitrary start; what durations are measured with. */
  now(): number
  /** Wall clock, milliseconds since the epoch; for people only. */
  wall(): number
  /** Resolves after `ms`, or at once when `signal` is aborted. It never rejects: callers look at the signal. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>
}

export const systemClock: Clock = {
  // Not performance.now(): the first use of that loads perf_hooks, 4 ms of a start.
  now: () => Number(process.hrtime.bigint()) / 1e6,
  wall: () => Date.now(),
  // Not that of node:timers/promises, half a millisecond of a start.
  sleep: (ms, signal) =>
    new Promise((resolve) => {
      const end = (): void => {
        clearTimeout(timer)
        signal?.removeEventListener('abort', end)
        resolve()
      }
      const timer = setTimeout(end, ms)
      if (signal?.aborted) end()
      else signal?.addEventListener('abort', end)
    }),
}

/** The sleep of one loop, which others can cut short. */
export class Nap {
  #wake: (() => void) | undefined

  /** Ends the sleep under way, if there is one. */
  wake(): void {
    this.#wake?.()
  }

  /** Resolves after `ms`, or at once when the signal, which has not fired yet, does so or somebody wakes it. */
  async sleep(clock: Clock, ms: number, signal: AbortSignal): Promise<void> {
    const end = new AbortController()
    const wake = (): void => end.abort()
    this.#wake = wake
    signal.addEventListener('abort', wake, { once: true })
    await clock.sleep(ms, end.signal)
    signal.removeEventListener('abort', wake)
    this.#wake = undefined
  }
}
