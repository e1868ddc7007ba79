import type { ChildProcess } from 'node:child_process'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { isRunning, start, stop } from './process.ts'

/** Notifications so far in a watched namespace; `overrun` counts times the kernel had to drop some. */
export interface Counts {
  readonly route: number
  readonly neighbour: number
  readonly fdb: number
  /** Routes deleted. */
  readonly gone: number
  readonly overrun: number
}

/** When each key was first added, and when a route first went, in nanoseconds of CLOCK_MONOTONIC (`process.hrtime` has the same clock). */
export interface FirstSeen {
  readonly route: Readonly<Record<string, number>>
  readonly neighbour: Readonly<Record<string, number>>
  readonly fdb: Readonly<Record<string, number>>
  readonly gone: Readonly<Record<string, number>>
}

/** One sd_notify datagram and when it arrived, milliseconds of CLOCK_MONOTONIC. */
export interface Notice {
  readonly text: string
  readonly at: number
}

/** CLOCK_MONOTONIC in milliseconds: the clock that the observer's times are on. */
export function monotonic(): number {
  return Number(process.hrtime.bigint()) / 1e6
}

/**
 * Listens to what Node has no sockets for, through one small python3 child (see observer.py): sd_notify datagrams and
 * the kernel's notifications of routes, neighbours and FDB entries.
 */
export class Observer {
  readonly #child: ChildProcess
  readonly #notices = new Map<string, (notice: Notice) => void>()
  readonly #waiting: ((answer: Record<string, unknown>) => void)[] = []

  constructor() {
    const python = process.env.PYTHON ?? '/usr/bin/python3'
    this.#child = start([python, fileURLToPath(new URL('observer.py', import.meta.url))], {
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    this.#child.on('error', (error) => this.#end(error.message))
    this.#child.on('exit', () => this.#end('it has ended'))
    if (this.#child.stdout) createInterface(this.#child.stdout).on('line', (line) => this.#take(line))
  }

  /** Binds a datagram socket at `path` (`@name` for an abstract one) and calls back for every datagram. */
  async listen(path: string, onNotice: (notice: Notice) => void): Promise<void> {
    this.#notices.set(path, onNotice)
    await this.#ask({ op: 'notify', path })
  }

  /** Starts to watch a namespace, from zero when it was watched before. */
  async watch(namespace: string): Promise<void> {
    await this.#ask({ op: 'watch', namespace })
  }

  async counts(namespace: string): Promise<Counts> {
    return (await this.#ask({ op: 'counts', namespace })).counts as Counts
  }

  async firstSeen(namespace: string): Promise<FirstSeen> {
    return (await this.#ask({ op: 'first', namespace })).first as FirstSeen
  }

  async close(): Promise<void> {
    await stop(this.#child)
  }

  #ask(command: Record<string, string>): Promise<Record<string, unknown>> {
    if (!isRunning(this.#child)) return Promise.reject(new Error('observer (python3): not running'))
    return new Promise((resolve, reject) => {
      this.#waiting.push((answer) => {
        if ('failed' in answer) reject(new Error(`observer (python3): ${String(answer.failed)}`))
        else resolve(answer)
      })
      this.#child.stdin?.write(`${JSON.stringify(command)}\n`)
    })
  }

  #take(line: string): void {
    const message = JSON.parse(line) as Record<string, unknown>
    if (typeof message.notice === 'string') {
      const notice = { text: message.notice, at: Number(message.t) / 1e6 }
      this.#notices.get(String(message.path))?.(notice)
    } else {
      this.#waiting.shift()?.(message)
    }
  }

  #end(reason: string): void {
    for (const answer of this.#waiting.splice(0)) answer({ failed: reason })
  }
}
