import { existsSync } from 'node:fs'
import { get, type IncomingMessage, request } from 'node:http'
import { createInterface } from 'node:readline'
import { optionTable } from '../options.ts'

/** The daemon cannot be asked; one line that says why, and what to do. */
export class NoDaemonError extends Error {
  override readonly name = 'NoDaemonError'
}

/** Milliseconds in which a daemon that is well begins to answer. */
const PATIENCE = 5_000

/** The running daemon, as the commands ask it: over its control socket (src/control.ts). */
export class DaemonClient {
  readonly socketPath: string
  readonly #flag: string

  /** The socket that `flag` names, else the one that the daemon's variable names, else the usual one. */
  constructor(
    named: string | undefined,
    env: Readonly<Record<string, string | undefined>>,
    flag = '-socket',
  ) {
    this.#flag = flag
    this.socketPath = named || env.FLANNELD_CONTROL_SOCKET || optionTable['control-socket'].default
  }

  /** Parses what the daemon sends; rejects with NoDaemonError. */
  async json<T>(path: string): Promise<T> {
    const text = await textOf(await this.#answer({ path }))
    try {
      // The daemon of the same version wrote it; another version's `version` field tells.
      return JSON.parse(text) as T
    } catch {
      throw new NoDaemonError(`${this.socketPath} answered something that is no JSON: is it flanneld's?`)
    }
  }

  /** The lines of an answer, as they come. */
  async lines(path: string): Promise<AsyncIterable<string>> {
    return createInterface({ input: await this.#answer({ path }), crlfDelay: Number.POSITIVE_INFINITY })
  }

  /** GETs, or PUTs a body; returns the answer's text. */
  async text(path: string, body?: string): Promise<string> {
    return await textOf(await this.#answer(body === undefined ? { path } : { path, method: 'PUT' }, body))
  }

  #answer(
    options: { readonly path: string; readonly method?: string },
    body?: string,
  ): Promise<IncomingMessage> {
    const { socketPath } = this
    return new Promise((resolve, reject) => {
      const ask = options.method === undefined ? get : request
      const asked = ask({ ...options, socketPath, agent: false, timeout: PATIENCE }, (response) => {
        if (response.statusCode === 200) return resolve(response)
        void textOf(response).then((text) => reject(new NoDaemonError(text.trim())))
      })
      asked.on('timeout', () => asked.destroy(new Error(`no answer within ${PATIENCE / 1000} s`)))
      asked.on('error', (error: NodeJS.ErrnoException) => reject(new NoDaemonError(this.#explain(error))))
      asked.end(body)
    })
  }

  #explain({ code, message }: NodeJS.ErrnoException): string {
    const { socketPath } = this
    const elsewhere = `if its -control-socket is another, name that with ${this.#flag}`
    switch (code) {
      case 'ENOENT':
      case 'ECONNREFUSED':
        return `no flanneld is running here: ${existsSync(socketPath) ? 'nobody serves' : 'there is no'} ${socketPath}; ${elsewhere}`
      case 'EACCES':
        return `${socketPath} is for root only: run this as root`
      default:
        return `cannot ask flanneld at ${socketPath}: ${message}; ${elsewhere}`
    }
  }
}

async function textOf(response: IncomingMessage): Promise<string> {
  let text = ''
  response.setEncoding('utf8')
  for await (const part of response) text += String(part)
  return text
}
