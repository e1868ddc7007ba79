import { ms } from '../commands/screen.ts'
import type { PeerLine, Status } from '../status.ts'
import { html, type Markup } from './html.ts'
import { count, mark, number, time } from './parts.ts'
import { PAGE_SIZE, type PeerState, type Query, type Selection, stateOf, writeQuery } from './select.ts'

const WORDS: Readonly<Partial<Record<PeerState, string>>> = {
  ok: 'ok',
  none: 'another peer has its place',
  unreachable: 'does not answer',
}

// Characters beyond ASCII are entities: the build cannot escape them inside a tagged template.
const NOTHING = html`&ndash;`

/** A page of the peers that were asked for, with the way to the other pages. */
export function renderTable({ query, rows, found, pages }: Selection, status: Status): Markup {
  if (rows.length === 0) return renderNobody(query, status)
  const first = (query.page - 1) * PAGE_SIZE + 1
  return html`<p class="found" id="found">${count(found, 'peer')}${query.text !== '' && html` for &ldquo;${query.text}&rdquo;`}${pages > 1 && html`, ${number(first)} to ${number(first + rows.length - 1)} shown`}</p>
<div class="scroll" role="region" aria-label="Peers" tabindex="0"><table class="peers">
<thead><tr><th scope="col">Subnet</th><th scope="col">State</th>${status.probes !== null && html`<th scope="col">Ping</th>`}<th scope="col">Public IP</th><th scope="col">VTEP MAC</th><th scope="col">Route</th><th scope="col">Lease changed</th></tr></thead>
<tbody>
${rows.map((row) => renderRow(row, status.probes !== null))}</tbody></table></div>
${pages > 1 && renderPager(query, pages)}`
}

function renderRow(peer: PeerLine, pinged: boolean): Markup {
  const state = stateOf(peer)
  const { subnet, publicIP, mac, route, changedAt } = peer
  const { reachable = null, rttMs = null } = peer.probe ?? {}
  const ping = reachable === false ? 'lost' : rttMs === null ? NOTHING : `${ms(rttMs)} ms`
  return html`<tr class="${state}"><th scope="row">${subnet}</th><td>${mark(state === 'ok' ? 'ok' : 'bad')} ${wordsOf(peer, state)}</td>${pinged && html`<td>${ping}</td>`}<td class="mono">${publicIP}</td><td class="mono">${mac ?? NOTHING}</td><td>${route}</td><td>${changedAt === null ? NOTHING : time(Date.parse(changedAt))}</td></tr>
`
}

/** Every entry that is not as it should be, by its table. */
function wordsOf({ entries }: PeerLine, state: PeerState): string {
  const word = WORDS[state]
  if (word !== undefined) return word
  return Object.entries(entries)
    .filter(([, each]) => each !== 'ok')
    .map(([table, each]) => `${table} ${each}`)
    .join(', ')
}

function renderNobody({ text, state }: Query, { daemon, kernel, leases, etcd }: Status): Markup {
  if (text !== '' || state !== 'all') {
    const what = state === 'amiss' ? 'No peer is amiss' : 'No peer'
    return html`<p class="empty" id="found">${text === '' ? `${what === 'No peer' ? 'There is no peer' : what}.` : html`${what}${state === 'amiss' ? ' and' : ''} matches &ldquo;${text}&rdquo;.`} <a href="/">Show all</a></p>`
  }
  const why =
    daemon.phase !== 'running'
      ? 'Peers appear when the daemon is running.'
      : leases.inUse > 0 || (kernel !== null && kernel.lastApply === null && etcd.watch === null)
        ? 'The list of leases has not been applied yet.'
        : 'No other node has a lease in etcd yet. Nodes appear here as they join.'
  return html`<p class="empty" id="found">${why}</p>`
}

function renderPager(query: Query, pages: number): Markup {
  const link = (page: number, text: Markup, rel: string): Markup =>
    page < 1 || page > pages
      ? html`<span aria-disabled="true">${text}</span>`
      : html`<a href="/${writeQuery({ ...query, page })}" rel="${rel}">${text}</a>`
  return html`<nav class="pager" aria-label="Pages of peers">${link(query.page - 1, html`&lsaquo; Previous`, 'prev')}<span>Page ${number(query.page)} of ${number(pages)}</span>${link(query.page + 1, html`Next &rsaquo;`, 'next')}</nav>`
}
