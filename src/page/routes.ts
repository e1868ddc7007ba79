/**
 * The page: what `flanneld status` shows, drawn, for a browser. It only reads, comes without anything from elsewhere, and its
 * tables need no script.
 *
 *   GET /              the page; ?q=TEXT&state=ok|amiss&page=N choose among the peers
 *   GET /page/table    the table of peers alone, with the same query
 *   GET /page/map      all peers as JSON, for the map
 *   GET /page/live     the parts of the page as server-sent events, each when it changes
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Clock } from '../clock.ts'
import type { Handler, Routes } from '../http.ts'
import { pageFile } from './files.ts'
import { Live } from './live.ts'
import { type Look, Looks, type Viewed } from './look.ts'
import { renderMap } from './map.ts'
import type { PagePath } from './paths.ts'
import { renderPage } from './render.ts'
import { readQuery, select } from './select.ts'
import { renderTable } from './table.ts'

/**
 * Of everything on it a browser takes only what comes from here as a file of its own: whatever text from etcd might be made
 * to look like, no inline script or style runs. https://www.w3.org/TR/CSP3/
 */
export const POLICY = [
  "default-src 'none'",
  ...["script-src 'self'", "style-src 'self'", "img-src 'self'", "connect-src 'self'", "form-action 'self'"],
  ...["base-uri 'none'", "frame-ancestors 'none'"],
].join('; ')

const HEADERS = {
  'Content-Security-Policy': POLICY,
  'X-Content-Type-Options': 'nosniff',
  'Referrer-Policy': 'no-referrer',
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cache-Control': 'no-store',
}

export function pageRoutes(view: Viewed, clock: Clock): Routes {
  const looks = new Looks(view, clock)
  const live = new Live({ looks, clock, headers: HEADERS })
  const html = (render: (look: Look, request: IncomingMessage) => { readonly text: string }): Handler =>
    reading(async (request, response) => {
      send(response, 'text/html', render(await looks.take(), request).text)
    })
  const file = (type: string, name: Parameters<typeof pageFile>[0]): Handler =>
    reading((_, response) => send(response, type, pageFile(name)))
  const query = ({ url = '' }: IncomingMessage) => readQuery(url)
  const routes: Record<PagePath, Handler> = {
    '/': html((look, request) => renderPage(look, query(request))),
    '/page/table': html(({ status, peers }, request) =>
      renderTable(select(peers.lines, query(request)), status),
    ),
    '/page/map': reading(async (_, response) => {
      send(response, 'application/json', renderMap(await looks.take()))
    }),
    '/page/live': reading(async (request, response) => await live.serve(request, response)),
    '/page/style.css': file('text/css', 'style.css'),
    '/page/client.js': file('text/javascript', 'client.js'),
    '/page/icon.svg': file('image/svg+xml', 'icon.svg'),
  }
  return routes
}

/** Nothing can be changed here. */
function reading(handler: Handler): Handler {
  return (request, response) => {
    if (request.method === 'GET' || request.method === 'HEAD') return handler(request, response)
    response.writeHead(405, { ...HEADERS, Allow: 'GET, HEAD' }).end('read-only\n')
  }
}

function send(response: ServerResponse, type: string, body: string): void {
  response.writeHead(200, {
    ...HEADERS,
    'Content-Type': `${type}; charset=utf-8`,
    'Content-Length': Buffer.byteLength(body),
  })
  response.end(body)
}
