import { existsSync } from 'node:fs'
import type { Clock } from './clock.ts'
import { writeFileAtomically } from './files.ts'
import type { Logger } from './log.ts'

/** Milliseconds between tries. */
const RETRY = 5_000

export interface OutputFileParts {
  /** For the log: "subnet file". */
  readonly what: string
  readonly path: string
  /** The flag that names another place. */
  readonly flag: string
  /** What is to be in it now. */
  readonly render: () => string
  /** Whether the start waits for it no longer. */
  readonly ready: () => boolean
  readonly clock: Clock
  readonly log: Logger
}

/** A file that others read, and that has to follow what it tells. */
export class OutputFile {
  readonly #parts: OutputFileParts
  #trying: Promise<void> | undefined

  constructor(parts: OutputFileParts) {
    this.#parts = parts
  }

  /**
   * Writes what is to be in it now, and tries again until it is there; tries that are under way already write what it is by then.
   * Resolves when it is there, or the signal fires.
   */
  write(signal: AbortSignal): Promise<void> {
    if (this.#trying !== undefined) return this.#trying
    const problem = this.#attempt()
    if (problem === undefined) return Promise.resolve()
    const { what, flag, log, ready } = this.#parts
    log.warn(
      `Failed to write ${what}: ${problem}; trying again every ${RETRY / 1000} s${ready() ? '' : ', and READY=1 waits for it'}: ` +
        `let flanneld write there, or choose another ${flag}`,
    )
    this.#trying = this.#tryAgain(signal)
    return this.#trying
  }

  /** Writes it again when somebody has removed it. What somebody has written into it stays until what it tells changes. */
  async restore(signal: AbortSignal): Promise<void> {
    const { what, path, log } = this.#parts
    if (this.#trying !== undefined || existsSync(path)) return
    log.warn(`Somebody has removed the ${what} ${path}: writing it again`)
    await this.write(signal)
  }

  async #tryAgain(signal: AbortSignal): Promise<void> {
    do await this.#parts.clock.sleep(RETRY, signal)
    while (!signal.aborted && this.#attempt() !== undefined)
    this.#trying = undefined
  }

  /** Returns what went wrong. */
  #attempt(): string | undefined {
    const { what, path, render, log } = this.#parts
    try {
      writeFileAtomically(path, render())
      log.info(`Wrote ${what} to ${path}`)
      return undefined
    } catch (error) {
      return error instanceof Error ? error.message : String(error)
    }
  }
}
