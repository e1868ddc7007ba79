import { type Agent, type ClientRequest, type IncomingMessage, request } from 'node:http'

/**
 * Milliseconds of silence on a connection after which the kernel asks whether the other side is there still, once a second.
 * A long poll says nothing for a minute, and a machine that lost its power takes no leave.
 */
export const KEEP_ALIVE_MS = 2_000
/**
 * Bytes of a body that count as progress: about as much as TCP sends before it hears from the other side for the first time
 * (RFC 6928). What comes slower than this in each time limit, or in the second after which it is doubted, is as good as silent.
 */
const PROGRESS_BYTES = 16_384

export interface ExchangeOptions {
  readonly method: string
  readonly url: URL
  readonly headers: Readonly<Record<string, string>>
  readonly body: string | undefined
  /** An `https.Agent` for https URLs. */
  readonly agent: Agent
  readonly signal: AbortSignal
}

export interface BodyOptions {
  /** Milliseconds to the end of the body, or to the next PROGRESS_BYTES of it. */
  readonly ms: number
  /** Bytes that the caller is ready to hold. */
  readonly limit: number
  readonly onProgress?: () => void
}

export interface Head {
  readonly status: number
  /** The value of the first header of that name, which is given in lower case. */
  readonly header: (name: string) => string | undefined
}

/** An answer's body grew beyond what the caller is ready to hold. */
export class AnswerTooLong extends Error {
  override readonly name = 'AnswerTooLong'
}

/**
 * One HTTP request and its answer, taken in two steps so that each can have its own time limit, and so that a long
 * poll's headers can be looked at while its body is still to come. `close` is to be called in the end.
 */
export class Exchange {
  readonly #request: ClientRequest
  readonly #signal: AbortSignal
  readonly #onAbort = (): void => this.#fail(this.#signal.reason)
  #response: IncomingMessage | undefined
  #failure: { readonly error: unknown } | undefined
  #reject: (error: unknown) => void = () => undefined
  #timer: NodeJS.Timeout | undefined
  #lastTurn: NodeJS.Immediate | undefined
  /** Whether a time limit ended it. */
  timedOut = false
  /** Whether any of the body has come. */
  begun = false

  /** It failed because the other side had closed a kept connection before it was used: the same request may be sent anew. */
  get stale(): boolean {
    return (
      this.#failure !== undefined &&
      !this.timedOut &&
      this.#request.reusedSocket &&
      this.#response === undefined
    )
  }

  constructor({ method, url, headers, body, agent, signal }: ExchangeOptions) {
    this.#request = request({
      method,
      protocol: url.protocol,
      hostname: url.hostname.replace(/^\[(.*)\]$/, '$1'),
      port: url.port,
      path: url.pathname + url.search,
      headers:
        body === undefined ? headers : { ...headers, 'Content-Length': String(Buffer.byteLength(body)) },
      agent,
    })
    this.#request.on('error', (error) => this.#fail(error))
    this.#signal = signal
    if (signal.aborted) this.#onAbort()
    else signal.addEventListener('abort', this.#onAbort)
    this.#request.end(body)
  }

  /** Connects, sends, and waits for the headers. */
  async head(ms: number): Promise<Head> {
    const response = await this.#within<IncomingMessage>(ms, (resolve) =>
      this.#request.once('response', resolve),
    )
    this.#response = response
    // Of a dozen headers two are of interest: node's object of all of them is made for nothing, with each answer.
    const { rawHeaders: raw } = response
    const header = (name: string): string | undefined => {
      const i = raw.findIndex((word, at) => at % 2 === 0 && word.toLowerCase() === name)
      return i < 0 ? undefined : raw[i + 1]
    }
    return { status: response.statusCode ?? 0, header }
  }

  /** Waits for the body, for as long as it comes. */
  async body({ ms, limit, onProgress }: BodyOptions): Promise<Buffer> {
    const response = this.#response
    if (response === undefined) throw new Error('the body is read after the head')
    return await this.#within<Buffer>(ms, (resolve) => {
      const chunks: Buffer[] = []
      let length = 0
      let noted = 0
      response.on('data', (chunk: Buffer) => {
        this.begun = true
        chunks.push(chunk)
        length += chunk.length
        if (length > limit) return this.#fail(new AnswerTooLong(`the answer is longer than ${limit} bytes`))
        if (length - noted < PROGRESS_BYTES) return
        noted = length
        this.#limit(ms)
        onProgress?.()
      })
      response.once('error', (error) => this.#fail(error))
      response.once('end', () => resolve(Buffer.concat(chunks)))
    })
  }

  /** Ends it with an error. */
  giveUp(error: Error): void {
    this.#fail(error)
  }

  /** Gives the connection back to the pool if the answer was read to its end, and drops it otherwise. */
  close(): void {
    this.#signal.removeEventListener('abort', this.#onAbort)
    if (this.#response?.readableEnded !== true) this.#request.destroy()
  }

  #within<T>(ms: number, begin: (resolve: (value: T) => void) => void): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.#failure !== undefined) return reject(this.#failure.error)
      this.#limit(ms)
      this.#reject = (error) => {
        this.#unlimit()
        reject(error)
      }
      begin((value) => {
        this.#unlimit()
        resolve(value)
      })
    })
  }

  /** Fails after `ms` from now on, and not from an earlier time. */
  #limit(ms: number): void {
    this.#unlimit()
    this.#timer = setTimeout(() => {
      // A process that stood still runs its timers before it reads what came meanwhile, which it does in the same turn.
      this.#lastTurn = setImmediate(() => {
        this.timedOut = true
        this.#fail(new Error('time is up'))
      })
    }, ms)
  }

  #unlimit(): void {
    clearTimeout(this.#timer)
    clearImmediate(this.#lastTurn)
  }

  #fail(error: unknown): void {
    this.#failure ??= { error }
    this.#reject(error)
    this.#request.destroy()
  }
}

/** Closes what waits in the pool; requests under way keep their connection. */
export function closeIdle(agent: Agent): void {
  for (const sockets of Object.values(agent.freeSockets)) for (const socket of sockets ?? []) socket.destroy()
}
