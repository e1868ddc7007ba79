import type { IncomingMessage } from 'node:http'
import { isIPv6 } from 'node:net'
import { dispatch, type Routes, sendJson, sendText } from './http.ts'
import type { Logger } from './log.ts'

/** The health endpoint cannot listen; the message names address, cause and remedy. */
export class HealthEndpointError extends Error {
  override readonly name = 'HealthEndpointError'
  readonly code: string

  constructor(message: string, code: string) {
    super(message)
    this.code = code
  }
}

export interface HealthEndpoint {
  /** The port it listens on, also when 0 was asked for. */
  readonly port: number
  close(): Promise<void>
}

/** What is asked: `View` is the real one. */
export interface Healthy {
  health(): {
    readonly alive: boolean
    readonly ready: boolean
    readonly stuckLoops: readonly string[]
    readonly reasons: readonly string[]
  }
}

/**
 * `/healthz` is flannel's: 200 and `flanneld is running` as long as every loop goes round, else 500 with the loop's name.
 * `/readyz` is 200 while pods can count on the network, else 503 with the reasons. Whoever accepts JSON gets that.
 */
export function healthRoutes(view: Healthy): Routes {
  const wantsJson = ({ headers }: IncomingMessage): boolean =>
    headers.accept?.includes('application/json') === true
  return {
    '/healthz': (request, response) => {
      const health = view.health()
      const status = health.alive ? 200 : 500
      const text = health.alive
        ? 'flanneld is running'
        : `flanneld is stuck in: ${health.stuckLoops.join(', ')}\n`
      if (wantsJson(request)) sendJson(response, status, health)
      else sendText(response, status, text)
    },
    '/readyz': (request, response) => {
      const health = view.health()
      const status = health.ready ? 200 : 503
      const text = health.ready ? 'flanneld is ready' : `${health.reasons.join('\n')}\n`
      if (wantsJson(request)) sendJson(response, status, health)
      else sendText(response, status, text)
    },
  }
}

/**
 * Serves `routes` over HTTP; `flag` names in errors the flags that choose the address. An empty `ip` means all addresses.
 * Rejects with HealthEndpointError when it cannot listen.
 */
export async function openHealthEndpoint(
  {
    ip,
    port,
    flag = 'healthz',
  }: { readonly ip: string; readonly port: number; readonly flag?: 'healthz' | 'metrics' },
  log: Logger,
  routes: Routes,
): Promise<HealthEndpoint> {
  // Loading it costs every start some milliseconds, and few ask for the endpoint.
  const { createServer } = await import('node:http')
  const server = createServer(dispatch(routes, (error) => log.warn(`${flag} server: ${error}`)))
  const shown = isIPv6(ip) ? `[${ip}]:${port}` : `${ip}:${port}`
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      const code = error.code ?? 'unknown'
      const remedy = code === 'EADDRINUSE' ? 'another process has the port; choose one with' : 'check'
      reject(
        new HealthEndpointError(
          `Cannot start ${flag} server on ${shown}: ${code}: ${remedy} -${flag}-ip and -${flag}-port`,
          code,
        ),
      )
    })
    server.listen({ port, ...(ip === '' ? {} : { host: ip }) }, resolve)
  })
  server.on('error', (error) => log.warn(`${flag} server on ${shown}: ${error.message}`))
  log.info(`Start ${flag} server on ${shown}`)

  const address = server.address()
  return {
    port: typeof address === 'object' && address !== null ? address.port : port,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}
