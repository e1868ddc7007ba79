/** Milliseconds from one question to the next, at least; a quarter more by chance, so that a fleet spreads out. */
const PACE_MS = 1_000
/** Questions under way at once, when none of them is answered or refused. */
const MOST_OPEN = 8

export interface VigilOptions {
  /** Asks every endpoint for anything at all; rejects when none of them gives an answer of etcd's. */
  readonly ask: (signal: AbortSignal) => Promise<void>
  /** Monotonic milliseconds. */
  readonly now: () => number
  readonly paceMs?: number
}

interface Waiter {
  readonly resolve: (asked: number) => void
  readonly reject: (error: unknown) => void
}

/**
 * The wait for an etcd that does not answer at any endpoint.
 *
 * From then on one small question a second is put to every endpoint, for all requests that wait. A question that hangs does
 * not hold up the next: what was sent while etcd was away may never be answered, as when a cluster without a leader
 * dropped it. With the first answer all requests go out again, and each failure is a failure of every request that
 * waits, so that their owners can count and say what is wrong.
 */
export class Vigil {
  readonly #ask: VigilOptions['ask']
  readonly #now: () => number
  readonly #paceMs: number
  readonly #waiters = new Set<Waiter>()
  #timer: NodeJS.Timeout | undefined
  #questions = new AbortController()
  #open = 0
  #nextAt = 0
  #away = false

  constructor({ ask, now, paceMs = PACE_MS }: VigilOptions) {
    this.#ask = ask
    this.#now = now
    this.#paceMs = paceMs
  }

  /** Whether etcd counts as away: ask only through `wait`. */
  get away(): boolean {
    return this.#away
  }

  /** No endpoint has answered a request that began at `since` (on `now`), or not yet. */
  begin(since: number): void {
    this.#away = true
    this.#nextAt = Math.max(this.#nextAt, since + this.#pace())
  }

  /**
   * Resolves when etcd answers, to when it was asked (on `now`); rejects with the next failure to do so, or with the
   * signal's reason.
   */
  wait(signal: AbortSignal): Promise<number> {
    return new Promise((resolve, reject) => {
      if (signal.aborted) return reject(signal.reason)
      const onAbort = (): void => {
        waiter.reject(signal.reason)
        if (this.#waiters.size === 0) this.#rest()
      }
      const done = (): void => {
        this.#waiters.delete(waiter)
        signal.removeEventListener('abort', onAbort)
      }
      const waiter = {
        resolve: (asked: number) => {
          done()
          resolve(asked)
        },
        reject: (error: unknown) => {
          done()
          reject(error)
        },
      }
      this.#waiters.add(waiter)
      signal.addEventListener('abort', onAbort)
      this.#schedule()
    })
  }

  /**
   * Resolves when etcd answers what it was asked after `since`, however often it fails to do so before; rejects with the
   * signal's reason.
   */
  async answer(since: number, signal: AbortSignal): Promise<void> {
    for (;;) {
      try {
        if ((await this.wait(signal)) > since) return
      } catch {
        signal.throwIfAborted()
      }
    }
  }

  /** etcd has answered something else, which it was asked at `asked`: all that wait for it to be there may go. */
  end(asked: number): void {
    this.#away = false
    this.#rest()
    for (const { resolve } of [...this.#waiters]) resolve(asked)
  }

  #schedule(): void {
    if (this.#timer !== undefined || this.#waiters.size === 0 || this.#open >= MOST_OPEN) return
    this.#timer = setTimeout(() => this.#next(), Math.max(0, this.#nextAt - this.#now()))
  }

  #next(): void {
    this.#timer = undefined
    if (this.#waiters.size === 0) return
    const asked = this.#now()
    this.#nextAt = asked + this.#pace()
    this.#open++
    const { signal } = this.#questions
    this.#ask(signal).then(
      () => {
        if (!signal.aborted) this.end(asked)
      },
      (error: unknown) => this.#failed(error, signal),
    )
    this.#schedule()
  }

  #failed(error: unknown, signal: AbortSignal): void {
    if (signal.aborted) return
    this.#open--
    for (const { reject } of [...this.#waiters]) reject(error)
  }

  /** Gives up all questions. */
  #rest(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#questions.abort()
    this.#questions = new AbortController()
    this.#open = 0
  }

  #pace(): number {
    return this.#paceMs * (1 + Math.random() / 4)
  }
}
