import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it, test } from 'vitest'
import { html } from '../../src/page/html.ts'
import { arrange, type Look } from '../../src/page/look.ts'
import { renderMap } from '../../src/page/map.ts'
import { renderTiles, renderTimeline, verdictOf } from '../../src/page/parts.ts'
import { renderPage } from '../../src/page/render.ts'
import { type Query, select } from '../../src/page/select.ts'
import { renderTable } from '../../src/page/table.ts'
import type { PeerLine, Status } from '../../src/status.ts'
import { peer, peers, status } from './world.ts'

const EVERYONE: Query = { text: '', state: 'all', page: 1 }
const EVIL = `"><script>alert('x')</script><img src=x onerror=alert(1)>&`

function look(now: Status = status(), lines: readonly PeerLine[] = peers(3)): Look {
  return { status: now, peers: arrange(lines), events: [] }
}

const text = (html: string): string => html.replaceAll(/<[^>]*>/g, ' ').replaceAll(/\s+/g, ' ')

test('html escapes what it is given, and joins lists', () => {
  expect(html`<p title="${EVIL}">${['a', html`<b>${'<'}</b>`, 7, false, null]}</p>`.text).toBe(
    '<p title="&quot;&gt;&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;&amp;">a<b>&lt;</b>7</p>',
  )
})

test('control and direction characters do not reach the reader', () => {
  expect(html`${'a\u0000b\u001b[31mc\u202ed\ne'}`.text).toBe('a\ufffdb\ufffd[31mc\ufffdd e')
})

/** Every text of a value becomes hostile; numbers, and the words that the code switches on, stay. */
function poison(value: unknown, key = ''): unknown {
  if (typeof value === 'string') return ['phase', 'state', 'startedAt'].includes(key) ? value : EVIL
  if (Array.isArray(value)) return value.map((each) => poison(each))
  if (value === null || typeof value !== 'object') return value
  return Object.fromEntries(
    Object.entries(value).map(([name, each]) => [
      key === 'tables' || key === 'details' || key === 'entries' ? EVIL : name,
      poison(each, name),
    ]),
  )
}

test('whatever etcd, kernel or log say, no tag comes of it', () => {
  const kernel = { ...status().kernel, refusals: ['x'], trouble: 'x' } as Status['kernel']
  const failing = { ...status().etcd.endpoints[0], state: 'failing', lastError: 'x' }
  const now = poison(
    status({
      kernel,
      health: { alive: true, ready: false, stuckLoops: ['x'], reasons: ['x'] },
      firewall: { ...status().firewall, lastError: 'x' },
      leases: { inUse: 1, skipped: 1, skippedList: [{ key: 'x', reason: 'x' }] },
      etcd: { ...status().etcd, endpoints: [failing] } as Status['etcd'],
    }),
  ) as Status
  const lines = [poison(peer(0)) as PeerLine, poison(peer(1, { entries: { fdb: 'missing' } })) as PeerLine]
  for (const each of lines) Object.assign(each, { changedAt: null })
  const events = (['info', 'warn', 'error', 'lease'] as const).map((kind, seq) => ({
    ...{ seq, at: 0, kind, text: EVIL },
  }))
  const page = renderPage({ status: now, peers: arrange(lines), events }, { ...EVERYONE, text: '' }).text
  const clean = renderPage(look(), EVERYONE).text
  expect(page).not.toMatch(/<script>|<img src=x|onerror=alert\(1\)>/)
  expect(page.match(/&lt;script&gt;alert\(&#39;x&#39;\)&lt;\/script&gt;/g)?.length).toBeGreaterThan(30)
  const scripts = (of: string) => of.match(/<script/g)?.length
  expect([scripts(page), scripts(clean)]).toEqual([1, 1])
  // What was searched for stands in an attribute and in the text.
  const searched = renderPage(look(), { ...EVERYONE, text: EVIL }).text
  expect(searched).not.toContain('<script>')
  expect(searched).toContain('value="&quot;&gt;&lt;script')
})

test('all that is not ASCII is an entity or an escape, for the bundle is read as Latin-1', () => {
  const folder = join(import.meta.dirname, '../../src/page')
  for (const name of readdirSync(folder).filter((each) => each.endsWith('.ts'))) {
    expect(readFileSync(join(folder, name), 'latin1'), name).toMatch(/^[\n\x20-\x7e]*$/)
  }
})

test('nothing on the page is inline or from elsewhere', () => {
  const page = renderPage(look(), EVERYONE).text
  expect(page).not.toMatch(/ style=| on[a-z]+=|<style|javascript:|data:/)
  for (const [, address] of page.matchAll(/(?:src|href|action)="([^"]*)"/g)) expect(address).toMatch(/^[/#]/)
})

describe('the verdict', () => {
  const { daemon, etcd, kernel } = status()
  const endpoint = etcd.endpoints[0]
  const failing = { ...endpoint, state: 'failing', lastError: 'connect ECONNREFUSED' }
  const health = (reason: string, alive = true) => ({
    ...{ alive, ready: false, stuckLoops: [], reasons: [reason] },
  })
  it.each<[string, Partial<Status>, readonly PeerLine[], string, string, RegExp]>([
    ['all is well', {}, peers(3), 'ok', 'Ready', /^All 3 peers are in the kernel/],
    ['one peer', {}, peers(1), 'ok', 'Ready', /^The one peer is in the kernel/],
    ['no peers', {}, [], 'ok', 'Ready', /^No other node has a lease yet/],
    [
      'an entry is missing',
      {},
      [peer(0), peer(1, { entries: { fdb: 'missing' } })],
      'warn',
      'Ready, with remarks',
      /^1 of 2 peers are not/,
    ],
    [
      'etcd is away',
      { etcd: { ...etcd, endpoints: [failing] } as Status['etcd'] },
      peers(3),
      'warn',
      'Ready, with remarks',
      /^etcd does not answer\. Peers stay/,
    ],
    [
      'one endpoint is away',
      { etcd: { ...etcd, endpoints: [failing, endpoint] } as Status['etcd'] },
      peers(3),
      'warn',
      'Ready, with remarks',
      /^1 of 2 etcd endpoints failing/,
    ],
    [
      'leases are skipped',
      { leases: { inUse: 3, skipped: 2, skippedList: [] } },
      peers(3),
      'warn',
      'Ready, with remarks',
      /^2 leases skipped/,
    ],
    [
      'a table fails',
      {
        health: health('1 entries of table route are refused'),
        kernel: { ...kernel, refusals: ['write route x: EINVAL'] } as Status['kernel'],
      },
      peers(3),
      'bad',
      'Not ready',
      /1 entries of table route are refused\nRefused: write route x: EINVAL$/,
    ],
    ['a loop is stuck', { health: health('loop x is stuck', false) }, peers(3), 'bad', 'Stuck', /^loop x/],
    [
      'it starts',
      {
        daemon: { ...daemon, phase: 'waiting for config' },
        health: health('not running yet'),
        kernel: null,
        lease: null,
      },
      [],
      'wait',
      'Starting',
      /^Waiting for the network config in etcd/,
    ],
  ])('%s', (_, changes, lines, tone, title, words) => {
    const verdict = verdictOf(look(status(changes), lines))
    expect([verdict.tone, verdict.title]).toEqual([tone, title])
    expect(verdict.lines.join('\n')).toMatch(words)
    // And each of these makes a page.
    expect(renderPage(look(status(changes), lines), EVERYONE).text).toContain(`</i> ${title}</h1>`)
  })
})

test('a daemon that knows nothing yet has a page without a table', () => {
  const now = status({
    ...{ network: null, lease: null, interface: null, device: null, kernel: null, loops: [] },
    daemon: { ...status().daemon, phase: 'starting' },
    etcd: { endpoints: [], watch: null },
    leases: { inUse: 0, skipped: 0, skippedList: [] },
  })
  const page = renderPage(look(now, []), EVERYONE).text
  expect(text(page)).toContain('Peers appear when the daemon is running.')
  expect(page).not.toContain('<table class="peers"')
  expect(text(renderTiles(look(now, [])).text)).toMatch(/Peers 0 not known yet Own lease none yet/)
})

test('events tell by a word and a class what they are', () => {
  const shown = renderTimeline([
    { seq: 4, at: 0, kind: 'warn', text: 'repaired what was changed behind our back: write route x' },
    { seq: 3, at: 0, kind: 'lease', text: 'delete lease 100.64.1.0/24' },
    { seq: 2, at: 0, kind: 'lease', text: 'put lease 100.64.1.0/24 of 192.0.2.2' },
    { seq: 1, at: 0, kind: 'error', text: 'x'.repeat(1000) },
  ]).text
  expect([...shown.matchAll(/<li class="(\w+)">.*?<b>(\w+)/g)].map(([, ...both]) => both)).toEqual([
    ['repair', 'repair'],
    ['left', 'left'],
    ['joined', 'lease'],
    ['error', 'error'],
  ])
  expect(shown).toContain('<time datetime="1970-01-01T00:00:00.000Z">00:00:00Z</time>')
  expect(shown).toContain(`${'x'.repeat(400)}…`)
  expect(text(renderTimeline([]).text)).toContain('Nothing has happened yet')
})

test('the map has each peer with its state, in the order of the subnets', () => {
  const lines = [
    peer(300, { route: 'none' }),
    peer(2, { entries: { fdb: 'differs', route: 'missing' } }),
    peer(10, { changedAt: '1970-01-01T00:00:01.000Z' }),
    peer(11, { probe: { reachable: true, rttMs: 0.25 } }),
    peer(12, { probe: { reachable: false, rttMs: 3 } }),
  ]
  expect(JSON.parse(renderMap(look(status(), lines)))).toEqual({
    edition: 1,
    states: ['ok', 'missing', 'differs', 'none', 'unreachable'],
    peers: [
      ['100.64.2.0/24', '198.18.0.3', 1, 0, null],
      ['100.64.10.0/24', '198.18.0.11', 0, 1000, null],
      ['100.64.11.0/24', '198.18.0.12', 0, 0, 0.25],
      ['100.64.12.0/24', '198.18.0.13', 4, 0, 3],
      ['100.65.44.0/24', '198.18.1.45', 3, 0, null],
    ],
  })
})

test('where peers are pinged, there is a tile and a column of round trips', () => {
  const probes = {
    ...{ intervalSeconds: 10, rounds: 2, reachable: 1, unreachable: 1, pending: 1 },
    rttMs: { least: 0.1, median: 0.25, most: 12.3 },
  }
  const lines = [
    peer(1, { probe: { reachable: true, rttMs: 0.25 } }),
    peer(2, { probe: { reachable: false, rttMs: 3 } }),
    peer(3, { probe: { reachable: null, rttMs: null } }),
  ]
  const seen = look(status({ probes }), lines)
  expect(text(renderTiles(seen).text)).toContain(
    'Answer pings 1 of 3 1 lost, 1 not known yet, 0.25 ms, at most 12.3 ms',
  )
  expect(verdictOf(seen).lines).toEqual(['1 of 3 peers are not as they should be.'])
  const table = renderTable(select(lines, EVERYONE), seen.status).text
  const rows = table
    .split('<tr class=')
    .slice(1)
    .map((row) => text(`<tr class=${row}`).trim())
  expect(rows.map((row) => row.split(' 198')[0])).toEqual([
    '100.64.2.0/24 does not answer lost',
    '100.64.1.0/24 ok 0.25 ms',
    '100.64.3.0/24 ok &ndash;',
  ])
  expect(renderTable(select(lines, EVERYONE), status()).text).not.toContain('Ping')
})
