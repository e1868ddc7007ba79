/**
 * The control socket: HTTP over a unix socket, for root on this machine only. What it serves is the daemon's view (status.ts),
 * and the one thing it changes is the log level.
 *
 *   GET /status              the status object
 *   GET /peers?limit=N       a line of JSON for each peer, those with something amiss first
 *   GET /events?since=SEQ    the recent events after number SEQ
 *   GET, PUT /log-level      the level as text
 *
 * A daemon works the same without it: what keeps the socket from being opened is logged once.
 */
import { lstatSync, unlinkSync } from 'node:fs'
import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import { dirname } from 'node:path'
import { makeFolder } from './files.ts'
import { dispatch, queryNumber, type Routes, sendJson, sendLines, sendText } from './http.ts'
import { isLevel, LEVELS, type Level, type Logger } from './log.ts'

/** What is looked into, and what may be set: `View` is the real one. */
export interface Controlled {
  status(): unknown
  peers(limit?: number): Iterable<unknown>
  readonly events: { since(seq: number): Iterable<unknown> }
  readonly logLevel: Level
  setLogLevel(level: Level): void
}

export interface ControlSocket {
  close(): Promise<void>
}

/** Milliseconds in which a daemon that holds the socket would have answered. */
const PATIENCE = 1_000
/** Longest body of a request, in bytes. */
const LONGEST_BODY = 64

function controlRoutes(view: Controlled): Routes {
  return {
    '/status': (_, response) => sendJson(response, 200, view.status()),
    '/peers': (request, response) =>
      sendLines(response, view.peers(queryNumber(request, 'limit', Number.POSITIVE_INFINITY))),
    '/events': (request, response) =>
      sendJson(response, 200, [...view.events.since(queryNumber(request, 'since', 0))]),
    '/log-level': async (request, response) => await logLevel(request, response, view),
  }
}

async function logLevel(request: IncomingMessage, response: ServerResponse, view: Controlled): Promise<void> {
  if (request.method === 'PUT') {
    const level = (await bodyOf(request)).trim()
    if (!isLevel(level)) {
      return sendText(response, 400, `the log level must be one of ${LEVELS.join(', ')}\n`)
    }
    view.setLogLevel(level)
  }
  sendText(response, 200, `${view.logLevel}\n`)
}

/** No more than is needed to tell that it is too long. */
function bodyOf(request: IncomingMessage): Promise<string> {
  return new Promise((resolve) => {
    let text = ''
    request.setEncoding('utf8')
    request.on('data', (part: string) => {
      if (text.length <= LONGEST_BODY) text += part
    })
    request.on('close', () => resolve(text))
  })
}

/** Resolves to undefined, with the reason logged, when the socket cannot be had; never rejects. */
export async function openControlSocket(
  path: string,
  view: Controlled,
  log: Logger,
): Promise<ControlSocket | undefined> {
  try {
    const { createServer, get } = await import('node:http')
    const holder = await holderOf(path, get)
    if (holder !== undefined) {
      log.warn(
        `Another flanneld${holder} serves the control socket ${path}, so flanneld status shows that one: stop it, or give ` +
          'this one a -control-socket of its own',
      )
      return undefined
    }
    const server = createServer(
      dispatch(controlRoutes(view), (error) => log.warn(`control socket: ${error}`)),
    )
    await listen(server, path)
    server.on('error', (error) => log.warn(`control socket ${path}: ${error.message}`))
    return {
      close: () =>
        new Promise((resolve) => {
          server.close(() => resolve())
          server.closeAllConnections()
        }),
    }
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    log.warn(`Cannot open the control socket ${path}, so flanneld status will not work: ${reason}`)
    return undefined
  }
}

/** Undefined when nobody serves the socket; a file that a daemon left behind is removed. Else words for who it is. */
async function holderOf(path: string, get: typeof import('node:http').get): Promise<string | undefined> {
  const there = lstatSync(path, { throwIfNoEntry: false })
  if (there === undefined) return undefined
  if (!there.isSocket()) throw new Error('a file that is no socket has this name; remove it')
  const answer = await new Promise<string | undefined>((resolve) => {
    const request = get({ socketPath: path, path: '/status', timeout: PATIENCE }, (response) => {
      let text = ''
      response.setEncoding('utf8')
      response.on('data', (part) => (text += part))
      response.on('close', () => resolve(text))
    })
    request.on('timeout', () => request.destroy(new Error('timeout')))
    // Nobody listens any more, or somebody who is busy.
    request.on('error', (error: NodeJS.ErrnoException) =>
      resolve(error.code === 'ECONNREFUSED' || error.code === 'ENOENT' ? undefined : ''),
    )
  })
  if (answer === undefined) {
    unlinkSync(path)
    return undefined
  }
  const pid = /"pid":([0-9]+)/.exec(answer)?.[1]
  return pid === undefined ? '' : ` (pid ${pid})`
}

function listen(server: Server, path: string): Promise<void> {
  makeFolder(dirname(path))
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    // The file is made within the call, so there is no moment at which others may connect.
    const before = process.umask(0o177)
    try {
      server.listen(path, resolve)
    } finally {
      process.umask(before)
    }
  })
}
