/**
 * Something large on its way to the one who uses it. An async function that waits holds all its variables, those too that
 * it is done with, and some wait for as long as the daemon runs: with a list they would hold every lease as it once stood.
 */
export class Handover<T> {
  #content: { readonly value: T } | undefined

  constructor(value: T) {
    this.#content = { value }
  }

  /** Gives it out, once; to be called where nothing is awaited. */
  take(): T {
    const content = this.#content
    if (content === undefined) throw new Error('it was handed over before')
    this.#content = undefined
    return content.value
  }
}
