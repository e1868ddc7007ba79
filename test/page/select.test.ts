import { expect, it, test } from 'vitest'
import { PAGE_SIZE, type Query, readQuery, select, stateOf, writeQuery } from '../../src/page/select.ts'
import { renderTable } from '../../src/page/table.ts'
import { peer, peers, status } from './world.ts'

it.each<[string, Query]>([
  ['/', { text: '', state: 'all', page: 1 }],
  ['/?q=100.64&state=amiss&page=3', { text: '100.64', state: 'amiss', page: 3 }],
  ['/?q=+a%20b+&state=odd&page=-1', { text: 'a b', state: 'all', page: 1 }],
  ['/?page=1e9&page=2', { text: '', state: 'all', page: 1 }],
  [`/?q=${'x'.repeat(5000)}`, { text: 'x'.repeat(64), state: 'all', page: 1 }],
  ['/?q=%E0%A4%A', { text: '\ufffd%A', state: 'all', page: 1 }],
])('reads the query of %s', (url, query) => {
  expect(readQuery(url)).toEqual(query)
  expect(readQuery(`/${writeQuery(query)}`)).toEqual(query)
})

const CROWD = [
  ...peers(60),
  peer(60, { entries: { neighbour: 'ok', fdb: 'missing', route: 'differs' } }),
  peer(61, { route: 'none' }),
  peer(62, { mac: null, route: 'other', entries: {} }),
]

it.each([
  ['', 'all', 63],
  ['', 'amiss', 2],
  ['', 'ok', 61],
  ['100.64.6', 'all', 4],
  ['198.18.0.62', 'all', 1],
  ['02:00:00:00:00:0A', 'all', 1],
  ['other', 'all', 1],
  // An address of a pod finds the node that it is on.
  ['100.64.17.201', 'all', 1],
  ['100.64.17.201', 'amiss', 0],
  ['100.64.17.999', 'all', 0],
] as const)('finds by %j of %s', (text, state, found) => {
  expect(select(CROWD, { text, state, page: 1 }).found).toBe(found)
})

test('pages are cut to size, those amiss come first, and a page beyond the last is the last', () => {
  const first = select(CROWD, { text: '', state: 'all', page: 1 })
  expect(first.rows.slice(0, 3).map(({ subnet }) => subnet)).toEqual([
    '100.64.60.0/24',
    '100.64.61.0/24',
    '100.64.0.0/24',
  ])
  expect([first.rows.length, first.pages]).toEqual([PAGE_SIZE, 3])
  const last = select(CROWD, { text: '', state: 'all', page: 9 })
  expect([last.query.page, last.rows.length]).toEqual([3, 63 - 2 * PAGE_SIZE])
})

it.each([
  [peer(0), 'ok'],
  [peer(0, { entries: {} }), 'ok'],
  [peer(0, { entries: { a: 'ok', b: 'differs' } }), 'differs'],
  [peer(0, { entries: { a: 'missing', b: 'differs' } }), 'missing'],
  [peer(0, { route: 'none', entries: { a: 'missing' } }), 'none'],
])('the state of a peer', (line, state) => expect(stateOf(line)).toBe(state))

const shown = (query: Query, lines = CROWD, now = status()): string =>
  renderTable(select(lines, query), now).text

test('the table says what is wrong, and its pages are links', () => {
  const table = shown({ text: '100.64', state: 'all', page: 2 })
  expect(table).toContain('63 peers for &ldquo;100.64&rdquo;, 26 to 50 shown')
  expect(table).toContain('<a href="/?q=100.64" rel="prev">')
  expect(table).toContain('<a href="/?q=100.64&amp;page=3" rel="next">')
  const first = shown({ text: '', state: 'amiss', page: 1 })
  expect(first).toContain('fdb missing, route differs')
  expect(first).toContain('another peer has its place')
  expect(first).not.toContain('class="pager"')
})

it.each<[string, Query, Parameters<typeof status>[0], string]>([
  ['a search', { text: 'x', state: 'all', page: 1 }, {}, 'No peer matches &ldquo;x&rdquo;.'],
  ['nothing amiss', { text: '', state: 'amiss', page: 1 }, {}, 'No peer is amiss.'],
  ['both', { text: 'x', state: 'amiss', page: 1 }, {}, 'No peer is amiss and matches &ldquo;x&rdquo;.'],
  [
    'an empty cluster',
    { text: '', state: 'all', page: 1 },
    { leases: { inUse: 0, skipped: 0, skippedList: [] } },
    'No other node has a lease in etcd yet.',
  ],
  [
    'leases that are not applied yet',
    { text: '', state: 'all', page: 1 },
    { leases: { inUse: 3, skipped: 0, skippedList: [] } },
    'The list of leases has not been applied yet.',
  ],
])('an empty table has a reason: %s', (_, query, changes, words) => {
  expect(shown(query, [], status(changes))).toContain(words)
})
