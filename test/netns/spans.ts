import type { KernelMonitor } from './watchers.ts'

/** IPv6 comes and goes with a device on its own time; the underlay's ARP is the kernel's business. */
const NOISE = /inet6|fe80:|ff00::|ff02:|dev (lo|eth0|docker0) lladdr|dev eth0 (FAILED|INCOMPLETE|STALE)/

/**
 * How long a repair takes, seen from outside of the daemon: `ip -ts monitor` prints when the kernel told of a change, so
 * the time from the first line of a fault to the last line of its repair is what the data plane was wrong for.
 */
export class Spans {
  readonly #monitor: KernelMonitor
  readonly #found: number[] = []
  #from = 0

  constructor(monitor: KernelMonitor) {
    this.#monitor = monitor
  }

  /** A fault comes next. */
  begin(): void {
    this.#from = this.#monitor.lines().length
  }

  /** The repair is there: notes and returns the milliseconds between first and last line; undefined with fewer than two. */
  end(): number | undefined {
    const times = this.#monitor
      .lines()
      .slice(this.#from)
      .filter((line) => !NOISE.test(line))
      .flatMap((line) => /^\[(\d+-\d+-\d+T[\d:]+\.\d{3})(\d*)\]/.exec(line)?.slice(1, 3).join('') ?? [])
      .map((text) => Date.parse(`${text.slice(0, 23)}Z`) + Number(`0.${text.slice(23) || 0}`))
    if (times.length < 2) return undefined
    const span = Math.max(...times) - Math.min(...times)
    this.#found.push(span)
    return span
  }

  /** `median 6 ms, longest 40 ms of 17`. */
  toString(): string {
    const sorted = [...this.#found].sort((a, b) => a - b)
    const [median = Number.NaN, longest = Number.NaN] = [sorted[sorted.length >> 1], sorted.at(-1)]
    return `median ${median.toFixed(0)} ms, longest ${longest.toFixed(0)} ms of ${sorted.length}`
  }
}
