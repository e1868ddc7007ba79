import type { NetlinkError } from '../netlink/errors.ts'
import { Backoff } from './backoff.ts'

interface Refusal {
  readonly entry: unknown
  readonly error: NetlinkError
}

/** What the kernel refuses, by the id of its key, and when it may be tried again. */
export class Refusals {
  readonly #backoff = new Backoff<string>(0)
  readonly #current = new Map<string, Refusal>()

  get size(): number {
    return this.#current.size
  }

  ids(): Iterable<string> {
    return this.#current.keys()
  }

  /** One line each. */
  get messages(): string[] {
    return [...this.#current.values()].map(({ error }) => error.message)
  }

  /** Notes that this entry was refused; returns whether that is news. */
  note(id: string, { entry, error }: Refusal, now: number): boolean {
    const news = this.#current.get(id)?.entry !== entry
    this.#current.set(id, { entry, error })
    this.#backoff.note(id, now)
    return news
  }

  /**
   * Milliseconds until this entry may be tried again. Another one under the same key, such as a peer's new address, need
   * not wait for what the old one is in for.
   */
  wait(id: string, entry: unknown, now: number): number {
    const refusal = this.#current.get(id)
    if (refusal !== undefined && refusal.entry !== entry) this.#backoff.clear(id)
    return this.#backoff.wait(id, now)
  }

  /** What stood in the way may be gone: nothing waits any longer. What is refused again is no news. */
  retry(): void {
    for (const id of this.#current.keys()) this.#backoff.clear(id)
  }

  /** It works now, or need not be done any more. Returns whether it had been refused. */
  forget(id: string): boolean {
    if (!this.#current.delete(id)) return false
    this.#backoff.clear(id)
    return true
  }
}
