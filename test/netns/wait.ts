import { setTimeout as sleep } from 'node:timers/promises'

/** What `waitFor` waits for, in words for the error, and for how long (milliseconds). */
export interface Wait {
  readonly what: string | (() => string)
  readonly timeout?: number
  readonly interval?: number
}

/**
 * Asks `condition` again and again until it yields something truthy, and resolves to that. Throwing counts as "not
 * yet". Rejects after `timeout` (10 s) with what was waited for and the last error seen.
 */
export async function waitFor<T>(
  condition: () => T | Promise<T>,
  { what, timeout = 10_000, interval = 10 }: Wait,
): Promise<NonNullable<T>> {
  const end = performance.now() + timeout
  for (;;) {
    let failure: unknown
    try {
      const value = await condition()
      if (value) return value
    } catch (error) {
      failure = error
    }
    if (performance.now() > end) {
      const words = typeof what === 'string' ? what : what()
      const last = failure === undefined ? '' : `; last: ${String(failure)}`
      throw new Error(`not within ${timeout} ms: ${words}${last}`)
    }
    await sleep(interval)
  }
}
