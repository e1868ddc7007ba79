import type { Exchange } from './exchange.ts'
import type { Vigil } from './vigil.ts'

/** Why an exchange was given up. */
export class Overtaken extends Error {
  override readonly name = 'Overtaken'

  constructor() {
    super('no answer, while etcd answers what it is asked later')
  }
}

export interface DoubtOptions {
  readonly exchange: Pick<Exchange, 'giveUp'>
  /** When it was sent (on `now`). */
  readonly begun: number
  /** Milliseconds of silence after which the exchange is doubted. */
  readonly ms: number
  /** Monotonic milliseconds. */
  readonly now: () => number
  readonly vigil: Pick<Vigil, 'answer' | 'end'>
  /** Begins the vigil: nothing has come since then (on `now`). */
  readonly onSilence: (since: number) => void
}

/**
 * The patience with one exchange. When it is silent for `ms`, the vigil begins beside it; if etcd answers what it is asked
 * after the silence began, and the exchange still says nothing, it is given up as lost.
 */
export class Doubt {
  readonly #options: DoubtOptions
  #timer: NodeJS.Timeout | undefined
  #waiting: AbortController | undefined
  #raised = false

  constructor(options: DoubtOptions) {
    this.#options = options
  }

  /** Something is due, from `since` on. */
  expect(since = this.#options.now()): void {
    this.drop()
    this.#timer = setTimeout(() => this.#raise(since), this.#options.ms)
  }

  /** Something came that only etcd can have said. */
  settle(): void {
    this.drop()
    if (this.#raised) this.#options.vigil.end(this.#options.begun)
    this.#raised = false
  }

  /** Nothing is due any more. */
  drop(): void {
    clearTimeout(this.#timer)
    this.#waiting?.abort()
  }

  #raise(since: number): void {
    const { exchange, vigil, onSilence } = this.#options
    const waiting = new AbortController()
    this.#waiting = waiting
    this.#raised = true
    onSilence(since)
    vigil.answer(since, waiting.signal).then(
      () => exchange.giveUp(new Overtaken()),
      () => undefined,
    )
  }
}
