import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http'

/** Answers a request; one that throws is answered with 500. */
export type Handler = (request: IncomingMessage, response: ServerResponse) => void | Promise<void>

/** By path; handlers look at the method themselves where it matters. */
export type Routes = Readonly<Record<string, Handler>>

/** Sends each request to the handler of its path; all else is 404, in the words of Go's net/http. */
export function dispatch(routes: Routes, onError: (error: unknown) => void): RequestListener {
  return (request, response) => {
    request.resume()
    const path = request.url?.split('?', 1)[0] ?? ''
    const handler = Object.hasOwn(routes, path) ? routes[path] : undefined
    if (handler === undefined) return sendText(response, 404, '404 page not found\n')
    void (async () => {
      try {
        await handler(request, response)
      } catch (error) {
        onError(error)
        if (response.headersSent) response.destroy()
        else sendText(response, 500, 'internal error\n')
      }
    })()
  }
}

export function sendText(response: ServerResponse, status: number, body: string, type = 'text/plain'): void {
  response.writeHead(status, {
    'Content-Type': `${type}; charset=utf-8`,
    'Content-Length': Buffer.byteLength(body),
  })
  response.end(body)
}

export function sendJson(response: ServerResponse, status: number, value: unknown): void {
  sendText(response, status, `${JSON.stringify(value)}\n`, 'application/json')
}

/** A number out of the query; `fallback` when it is missing or none. */
export function queryNumber(request: IncomingMessage, name: string, fallback: number): number {
  const text = new URLSearchParams(request.url?.split('?')[1] ?? '').get(name) ?? ''
  return /^[0-9]{1,15}$/.test(text) ? Number(text) : fallback
}

/** Bytes that are gathered before they are sent. */
const CHUNK = 64 << 10

/**
 * One JSON object a line (https://jsonlines.org), made while it is sent: the next is asked for when the reader has taken the
 * ones before, and other work has its turn in between.
 */
export async function sendLines(response: ServerResponse, lines: Iterable<unknown>): Promise<void> {
  response.writeHead(200, { 'Content-Type': 'application/x-ndjson; charset=utf-8' })
  let chunk = ''
  for (const line of lines) {
    chunk += `${JSON.stringify(line)}\n`
    if (chunk.length < CHUNK) continue
    await taken(response, chunk)
    chunk = ''
    if (response.destroyed) return
  }
  response.end(chunk)
}

function taken(response: ServerResponse, chunk: string): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      response.off('drain', done).off('close', done)
      resolve()
    }
    if (response.write(chunk)) setImmediate(resolve)
    else response.on('drain', done).on('close', done)
  })
}
