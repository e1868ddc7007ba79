import { isIPv6 } from 'node:net'
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

/**
 * Answers `/healthz` with 200 and `flanneld is running`, all else with 404, as flannel does: it tells that the
 * process is there. An empty `ip` means all addresses. Rejects with HealthEndpointError when it cannot listen.
 */
export async function openHealthEndpoint(
  { ip, port }: { readonly ip: string; readonly port: number },
  log: Logger,
): Promise<HealthEndpoint> {
  // Loading it costs every start some milliseconds, and few ask for the endpoint.
  const { createServer } = await import('node:http')
  const server = createServer((request, response) => {
    request.resume()
    const found = request.url?.split('?', 1)[0] === '/healthz'
    const body = found ? 'flanneld is running' : '404 page not found\n'
    response.writeHead(found ? 200 : 404, {
      'Content-Type': 'text/plain; charset=utf-8',
      'Content-Length': body.length,
    })
    response.end(body)
  })
  const shown = isIPv6(ip) ? `[${ip}]:${port}` : `${ip}:${port}`
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      const code = error.code ?? 'unknown'
      const remedy = code === 'EADDRINUSE' ? 'another process has the port; choose one with' : 'check'
      reject(
        new HealthEndpointError(
          `Cannot start healthz server on ${shown}: ${code}: ${remedy} -healthz-ip and -healthz-port`,
          code,
        ),
      )
    })
    server.listen({ port, ...(ip === '' ? {} : { host: ip }) }, resolve)
  })
  server.on('error', (error) => log.warn(`healthz server on ${shown}: ${error.message}`))
  log.info(`Start healthz server on ${shown}`)

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
