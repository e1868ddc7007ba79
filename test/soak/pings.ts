import type { ChildProcess } from 'node:child_process'
import { createInterface } from 'node:readline'
import { monotonic, type Namespace, waitFor } from '../netns/lab.ts'
import { stop } from '../netns/process.ts'

/** From when to when the wire was cut, CLOCK_MONOTONIC ms; `to` is infinite while it still is. */
export interface Cut {
  readonly from: number
  to: number
}

/** An echo that nobody answered was sent between these two times, ms. */
export interface Loss {
  readonly sequence: number
  readonly after: number
  readonly before: number
}

/** Pings 20 times a second for as long as it takes, and knows when what was lost was sent. */
export class Pings {
  readonly name: string
  readonly #child: ChildProcess
  #answered = 0
  /** The answer before: its number and time. */
  #last = { sequence: 0, at: monotonic() }
  #losses: Loss[] = []

  private constructor(name: string, child: ChildProcess) {
    this.name = name
    this.#child = child
  }

  static async start(name: string, from: Namespace, address: string): Promise<Pings> {
    const child = from.start(['ping', '-n', '-i', '0.05', address], { stdio: ['ignore', 'pipe', 'ignore'] })
    const pings = new Pings(name, child)
    if (child.stdout) createInterface(child.stdout).on('line', (line) => pings.#take(line))
    await waitFor(() => pings.#answered > 0, { what: `an answer to ${name}`, timeout: 30_000 })
    return pings
  }

  get answered(): number {
    return this.#answered
  }

  /** Losses outside of these cuts since it was asked last; both ends of a cut get `slack` ms. */
  lostOutside(cuts: readonly Cut[], slack: number): readonly Loss[] {
    const losses = this.#losses
    this.#losses = []
    return losses.filter(
      ({ after, before }) => !cuts.some(({ from, to }) => before >= from - slack && after <= to + slack),
    )
  }

  async stop(): Promise<void> {
    await stop(this.#child, 'SIGINT')
  }

  #take(line: string): void {
    const sequence = Number(/icmp_seq=(\d+) ttl=/.exec(line)?.[1] ?? 0)
    // Numbers are of 16 bits; an answer that was overtaken is none that was lost.
    const ahead = (sequence - this.#last.sequence) & 0xffff
    if (sequence === 0 || ahead === 0 || ahead > 0x7fff) return
    this.#answered++
    const at = monotonic()
    for (let i = 1; i < ahead; i++) {
      this.#losses.push({ sequence: this.#last.sequence + i, after: this.#last.at, before: at })
    }
    this.#last = { sequence, at }
  }
}
