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
  /** Milliseconds of silence after which an exchange is doubted. */
  readonly ms: number
  /** Monotonic milliseconds. */
  readonly now: () => number
  readonly vigil: Pick<Vigil, 'answer' | 'end'>
  /** Begins the vigil: nothing has come since then (on `now`). */
  readonly onSilence: (since: number) => void
}

/**
 * The patience with one request, through all its exchanges. When one is silent for `ms`, the vigil begins beside it; if etcd
 * answers what it is asked after the silence began, and the exchange still says nothing, it is given up as lost. That
 * happens once: whatever follows has all the time that it needs, for an etcd that is only slow.
 */
export class Doubt {
  readonly #options: DoubtOptions
  #timer: NodeJS.Timeout | undefined
  #waiting: AbortController | undefined
  #exchange: Pick<Exchange, 'giveUp'> | undefined
  #begun = 0
  #raised = false
  #spent = false

  constructor(options: DoubtOptions) {
    this.#options = options
  }

  /** It is about this exchange now, which was sent at `begun` (on `now`). */
  attend(exchange: Pick<Exchange, 'giveUp'>, begun: number): void {
    this.#exchange = exchange
    this.#begun = begun
  }

  /** Something is due, from `since` on. */
  expect(since = this.#options.now()): void {
    this.drop()
    if (this.#spent) return
    this.#timer = setTimeout(() => this.#raise(since), this.#options.ms)
  }

  /** Something came that only etcd can have said. */
  settle(): void {
    this.drop()
    if (this.#raised) this.#options.vigil.end(this.#begun)
    this.#raised = false
  }

  /** Nothing is due any more. */
  drop(): void {
    clearTimeout(this.#timer)
    this.#waiting?.abort()
    this.#waiting = undefined
  }

  #raise(since: number): void {
    const { vigil, onSilence } = this.#options
    const waiting = new AbortController()
    this.#waiting = waiting
    this.#raised = true
    onSilence(since)
    vigil.answer(since, waiting.signal).then(
      () => {
        if (this.#waiting !== waiting) return
        this.#spent = true
        this.#exchange?.giveUp(new Overtaken())
      },
      () => undefined,
    )
  }
}
