import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from 'node:http'
import type { Clock } from '../clock.ts'
import type { Look, Looks } from './look.ts'
import { renderParts } from './parts.ts'

/** Streams at the same time; one more is told to come back later. */
export const MOST_STREAMS = 16
/** Milliseconds between two looks for a stream, and so the most often that it gets anything. */
export const EVERY = 2_000
/** Rounds that a reader may leave what it was sent untaken. */
const PATIENCE = 15

/**
 * The changing parts of the page as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html):
 * `part` is `{id, html}`, what is to stand in the element of that id; `peers` is the edition of the list of peers, for
 * the reader to fetch it when it has another. A part is sent when it is not as it was sent last; a reader that does not
 * keep up skips rounds, and what is unsent never adds up.
 */
export class Live {
  readonly #looks: Looks
  readonly #clock: Clock
  readonly #headers: OutgoingHttpHeaders
  #streams = 0
  /** The parts of the last look, made once for all. */
  #made: { readonly look: Look; readonly events: ReadonlyMap<string, string> } | undefined

  constructor({
    looks,
    clock,
    headers,
  }: { readonly looks: Looks; readonly clock: Clock; readonly headers: OutgoingHttpHeaders }) {
    this.#looks = looks
    this.#clock = clock
    this.#headers = headers
  }

  /** Resolves when the reader is gone. */
  async serve({ method }: IncomingMessage, response: ServerResponse): Promise<void> {
    if (this.#streams >= MOST_STREAMS) {
      response.writeHead(503, { ...this.#headers, 'Content-Type': 'text/plain', 'Retry-After': '30' })
      response.end(`${MOST_STREAMS} others look at this page; try again later\n`)
      return
    }
    response.writeHead(200, { ...this.#headers, 'Content-Type': 'text/event-stream; charset=utf-8' })
    if (method === 'HEAD') {
      response.end()
      return
    }
    // Nothing tells any more of a reader that went away while this was being loaded.
    if (response.destroyed) return
    const gone = new AbortController()
    response.on('close', () => gone.abort())
    this.#streams++
    try {
      await this.#send(response, gone.signal)
    } finally {
      this.#streams--
      if (this.#streams === 0) this.#made = undefined
      response.destroy()
    }
  }

  async #send(response: ServerResponse, gone: AbortSignal): Promise<void> {
    const sent = new Map<string, string>()
    response.write(`retry: ${EVERY * 2}\n\n`)
    for (let waits = 0; !gone.aborted && waits < PATIENCE; await this.#clock.sleep(EVERY, gone)) {
      if (response.writableNeedDrain) {
        waits++
        continue
      }
      waits = 0
      const look = await this.#looks.take()
      if (gone.aborted) return
      let news = ''
      for (const [name, event] of this.#eventsOf(look)) {
        if (sent.get(name) === event) continue
        sent.set(name, event)
        news += event
      }
      // A comment, so that a reader that went away without a word is noticed.
      response.write(news === '' ? ':\n\n' : news)
    }
  }

  #eventsOf(look: Look): ReadonlyMap<string, string> {
    if (this.#made?.look !== look) {
      const events = new Map<string, string>()
      for (const [id, { text }] of Object.entries(renderParts(look))) {
        // JSON has no line ends in it, which would end the event.
        events.set(id, `event: part\ndata: ${JSON.stringify({ id, html: text })}\n\n`)
      }
      events.set('peers', `event: peers\ndata: ${look.peers.edition}\n\n`)
      this.#made = { look, events }
    }
    return this.#made.events
  }
}
