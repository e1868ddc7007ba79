import { expect, it } from 'vitest'
import type { PeerStatus } from '../src/backend/model.ts'
import { type Level, openLog } from '../src/log.ts'
import type { Lease } from '../src/subnet/lease.ts'
import { View } from '../src/view.ts'
import { ManualClock } from './masq/manual-clock.ts'

const about = { version: 'v1', pid: 1, etcdPrefix: '/x', masquerade: true, forwardRules: true }
const subnet = (n: number) => ({ address: 0x0a010000 + n * 256, length: 24 })

function lease(n: number): Lease {
  const attributes = { publicIP: 0xc0000200 + n, backendType: 'vxlan', backendData: undefined }
  return { subnet: subnet(n), attributes, ttl: 60, modifiedIndex: n }
}

function peer(n: number, more: Partial<PeerStatus> = {}): PeerStatus {
  const entries = { route: 'ok' } as const
  return { subnet: subnet(n), publicIP: 1, mac: undefined, route: 'plain', entries, ...more }
}

it('lists peers with something amiss first, and no more than are asked for', () => {
  const view = new View(new ManualClock(), about)
  const all = [
    peer(1),
    peer(2, { entries: { route: 'missing' } }),
    peer(3),
    peer(4, { route: 'none', entries: {} }),
  ]
  let looked = 0
  function* peers(): Generator<PeerStatus> {
    for (const each of all) {
      looked++
      yield each
    }
  }
  // Only what the view looks at is there.
  Object.assign(view.parts, { network: { peers } })
  const thirds = (limit?: number) => [...view.peers(limit)].map((line) => line.subnet.split('.')[2])
  expect(thirds()).toEqual(['2', '4', '1', '3'])
  expect(thirds(3)).toEqual(['2', '4', '1'])
  looked = 0
  expect(thirds(1)).toEqual(['2'])
  expect(looked).toBeLessThan(4)
  expect(thirds(0)).toEqual([])
})

it('lists what the leases say where a backend has no entries', () => {
  const view = new View(new ManualClock(), about)
  Object.assign(view.parts, { network: {}, table: { leases: () => [lease(7)] } })
  expect([...view.peers()]).toEqual([
    {
      subnet: '10.1.7.0/24',
      publicIP: '192.0.2.7',
      mac: null,
      route: 'other',
      entries: {},
      changedAt: null,
      probe: null,
    },
  ])
})

it('remembers when a lease changed, until it goes', async () => {
  const clock = new ManualClock()
  const view = new View(clock, about)
  Object.assign(view.parts, { network: { peers: () => [peer(1)] } })
  const changed = () => [...view.peers()][0]?.changedAt
  expect(changed()).toBeNull()
  await clock.advance(5_000)
  view.leasesChanged({ put: [lease(1)], removed: [] })
  expect(changed()).toBe('1970-01-01T00:00:05.000Z')
  view.leasesChanged({ put: [], removed: [subnet(1)] })
  expect(changed()).toBeNull()
  expect([...view.events.since(0)].map(({ text }) => text)).toEqual([
    'put lease 10.1.1.0/24 of 192.0.2.1',
    'delete lease 10.1.1.0/24',
  ])
})

it('makes one event of thousands of changes at once', () => {
  const view = new View(new ManualClock(), about)
  const put = Array.from({ length: 5_000 }, (_, n) => lease(n))
  view.leasesChanged({ put, removed: [subnet(9_000)] })
  expect([...view.events.since(0)].map(({ text }) => text)).toEqual(['5000 leases put, 1 deleted at once'])
})

it.each<[Level, Level[]]>([
  ['info', ['debug', 'info', 'debug']],
  ['error', ['debug', 'error', 'debug']],
  ['debug', ['info', 'debug', 'info']],
  ['trace', ['info', 'debug', 'info']],
])('toggles from %s through %j', async (level, expected) => {
  const clock = new ManualClock()
  const view = new View(clock, about)
  const sink = { write: () => 0, journal: false, colour: false }
  view.watchLog(await openLog({ format: 'text', level, sink, clock }))
  const seen = expected.map(() => {
    view.toggleDebug()
    return view.logLevel
  })
  expect(seen).toEqual(expected)
})
