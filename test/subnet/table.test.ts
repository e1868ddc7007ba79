import fc from 'fast-check'
import { beforeEach, describe, expect, it } from 'vitest'
import { formatSubnet, overlaps } from '../../src/ip.ts'
import type { Lease, LeaseEvent } from '../../src/subnet/lease.ts'
import { leaseKey } from '../../src/subnet/leasecodec.ts'
import { type LeaseChanges, LeaseTable } from '../../src/subnet/table.ts'
import { attributes, ip, LogLines, lease, ManualClock, subnet } from './support.ts'

const rules = {
  network: subnet('10.5.0.0/16'),
  own: subnet('10.5.33.0/24'),
  publicIP: ip('192.168.0.1'),
  underlay: [{ address: ip('192.168.0.1'), length: 24 }],
}
const OWN = lease('10.5.33.0/24', '192.168.0.1')

let log: LogLines
let clock: ManualClock
let table: LeaseTable

beforeEach(() => {
  log = new LogLines()
  clock = new ManualClock()
  table = new LeaseTable({ rules, subnetLen: 24, clock, log })
})

const changed = ({ put, removed }: LeaseChanges) => put.length + removed.length > 0
const put = (value: Lease): LeaseEvent => ({ kind: 'put', lease: value })
const gone = (cidr: string): LeaseEvent => ({ kind: 'delete', subnet: subnet(cidr), expired: false })
const bad = (key: string, reason = 'garbage'): LeaseEvent => ({ kind: 'bad', bad: { key, reason } })
const shown = (of = table) => [...of.leases()].map((each) => formatSubnet(each.subnet)).sort()

describe('snapshots', () => {
  it('leave the own lease out, and say whether anything changed', () => {
    const leases = [OWN, lease('10.5.1.0/24', '192.168.0.2'), lease('10.5.2.0/24', '192.168.0.3')]
    expect(changed(table.replace(leases, []))).toBe(true)
    expect(shown()).toEqual(['10.5.1.0/24', '10.5.2.0/24'])
    expect(changed(table.replace([...leases].reverse(), []))).toBe(false)
    expect(changed(table.replace(leases.slice(0, 2), []))).toBe(true)
    expect(shown()).toEqual(['10.5.1.0/24'])
    expect(changed(table.replace([OWN], []))).toBe(true)
    expect(shown()).toEqual([])
  })

  it('compare values, not only keys', () => {
    const at = (publicIP: string, mac?: string, modifiedIndex = 1) =>
      changed(
        table.replace(
          [{ ...lease('10.5.1.0/24', publicIP), attributes: attributes(publicIP, mac), modifiedIndex }],
          [],
        ),
      )
    at('192.168.0.2', 'aa:aa:aa:aa:aa:aa')
    expect(at('192.168.0.2', 'aa:aa:aa:aa:aa:aa')).toBe(false)
    expect(at('192.168.0.2', 'aa:aa:aa:aa:aa:aa', 2)).toBe(true)
    expect(at('192.168.0.2', 'bb:bb:bb:bb:bb:bb')).toBe(true)
    expect(at('192.168.0.3', 'bb:bb:bb:bb:bb:bb')).toBe(true)
    expect(at('192.168.0.3')).toBe(true)
  })

  it('keep a lease whose value has become unreadable, and drop one whose key is gone', () => {
    table.replace([OWN, lease('10.5.1.0/24', '192.168.0.2'), lease('10.5.2.0/24', '192.168.0.3')], [])
    expect(changed(table.replace([OWN], [{ key: '10.5.1.0-24', reason: 'garbage' }]))).toBe(true)
    expect(shown()).toEqual(['10.5.1.0/24'])
    expect(changed(table.replace([OWN], []))).toBe(true)
    expect(shown()).toEqual([])
  })
})

describe('a store that lost its leases', () => {
  const A = lease('10.5.1.0/24', '192.168.0.2', { modifiedIndex: 11 })
  const B = lease('10.5.2.0/24', '192.168.0.3', { modifiedIndex: 12 })
  const both = ['10.5.1.0/24', '10.5.2.0/24']
  const anew = (old: Lease): Lease => ({ ...old, modifiedIndex: old.modifiedIndex + 100 })
  const DAY = 86_400_000
  beforeEach(() => void table.replace([OWN, A, B], []))

  it.each<[string, Lease[], boolean]>([
    ['is empty', [], false],
    ['is empty and older', [], true],
    ['holds nothing as it was', [anew(OWN)], false],
    ['is an older state', [OWN], true],
  ])('and %s: they stay, are said once, and go when their term is over', (_, leases, replaced) => {
    expect(changed(table.replace(leases, [], replaced))).toBe(false)
    table.replace([anew(OWN)], [])
    expect(shown()).toEqual(both)
    expect(table.orphanCount).toBe(2)
    expect(log.matching(/^warn etcd has lost 2 subnet leases .* 24 h at most/)).toHaveLength(1)
    clock.advance(DAY - 1)
    expect(changed(table.dropOrphans())).toBe(false)
    clock.advance(1)
    expect(table.dropOrphans().removed.map(formatSubnet).sort()).toEqual(both)
    expect(shown()).toEqual([])
    expect(table.orphanCount).toBe(0)
  })

  it('but not its history: what is missing in its term was deleted', () => {
    expect(table.replace([OWN, B], []).removed.map(formatSubnet)).toEqual(['10.5.1.0/24'])
    expect(table.orphanCount).toBe(0)
  })

  it('gets them back from their owners', () => {
    table.replace([], [])
    table.update([put(anew(OWN)), put(anew(A))])
    expect(table.orphanCount).toBe(1)
    expect(changed(table.replace([anew(OWN), anew(A), anew(B)], []))).toBe(true)
    expect(table.orphanCount).toBe(0)
    expect(table.replace([anew(OWN), anew(A)], []).removed.map(formatSubnet)).toEqual(['10.5.2.0/24'])
  })

  it.each<[string, () => LeaseChanges]>([
    ['an event', () => table.update([put(lease('10.5.9.0/24', '192.168.0.2'))])],
    ['a list', () => table.replace([anew(OWN), lease('10.5.9.0/24', '192.168.0.2')], [])],
  ])('lets go of a node that claims another subnet, by %s', (_, claim) => {
    table.replace([], [])
    expect(claim().removed.map(formatSubnet)).toEqual(['10.5.1.0/24'])
    expect(shown()).toEqual(['10.5.2.0/24', '10.5.9.0/24'])
    expect(table.orphanCount).toBe(1)
  })

  it('lets go of what another node claims, and of what is deleted', () => {
    table.replace([], [])
    table.update([put(lease('10.5.1.0/24', '192.168.0.7')), gone('10.5.2.0/24')])
    expect([...table.leases()].map(({ attributes }) => attributes.publicIP)).toEqual([ip('192.168.0.7')])
    expect(table.orphanCount).toBe(0)
  })
})

describe('a term that ran out', () => {
  const A = lease('10.5.1.0/24', '192.168.0.2', { modifiedIndex: 11, ttl: 3_600 })
  const B = lease('10.5.2.0/24', '192.168.0.3', { modifiedIndex: 12 })
  const again: Lease = { ...A, modifiedIndex: 20, ttl: 86_400 }
  const expired: LeaseEvent = { kind: 'delete', subnet: A.subnet, expired: true }
  const both = ['10.5.1.0/24', '10.5.2.0/24']
  beforeEach(() => void table.replace([OWN, A, B], []))

  type Way = readonly [what: string, happen: () => LeaseChanges]
  const ways: readonly Way[] = [
    ['an event says', () => table.update([expired])],
    [
      'a list shows',
      () => {
        clock.advance(3_600_000)
        return table.replace([OWN, B], [])
      },
    ],
    [
      'a list shows after a suspension',
      () => {
        clock.jump(3_600_000)
        return table.replace([OWN, B], [])
      },
    ],
  ]

  it.each(ways)('as %s: it stays for a while, is said once, and goes then', (_, happen) => {
    expect(changed(happen())).toBe(false)
    expect(changed(table.replace([OWN, B], []))).toBe(false)
    expect(shown()).toEqual(both)
    expect(log.matching(/^info .* expired; keeping the routes .* 180 s/)).toHaveLength(1)
    clock.advance(179_999)
    expect(changed(table.dropOrphans())).toBe(false)
    clock.advance(1)
    expect(table.dropOrphans().removed.map(formatSubnet)).toEqual(['10.5.1.0/24'])
    expect(shown()).toEqual(['10.5.2.0/24'])
  })

  it.each(ways)('as %s: its node claims it again, and a delete counts at once as ever', (_, happen) => {
    happen()
    expect(changed(table.update([put(again)]))).toBe(true)
    expect(table.orphanCount).toBe(0)
    expect(table.update([gone('10.5.1.0/24')]).removed.map(formatSubnet)).toEqual(['10.5.1.0/24'])
  })

  it.each(ways)('as %s: its node claims another subnet instead', (_, happen) => {
    happen()
    const elsewhere = put(lease('10.5.9.0/24', '192.168.0.2'))
    expect(table.update([elsewhere]).removed.map(formatSubnet)).toEqual(['10.5.1.0/24'])
  })

  it('is no reason to keep our own lease', () => {
    table.update([{ kind: 'delete', subnet: OWN.subnet, expired: true }])
    expect(table.orphanCount).toBe(0)
  })

  it('counts from the last renewal', () => {
    clock.advance(3_000_000)
    table.update([put({ ...A, modifiedIndex: 13 })])
    clock.advance(3_000_000)
    expect(table.replace([OWN, B], []).removed.map(formatSubnet)).toEqual(['10.5.1.0/24'])
  })
})

describe('events', () => {
  it('add, change and remove, and a renewal changes nothing', () => {
    expect(changed(table.update([put(lease('10.5.1.0/24', '192.168.0.2'))]))).toBe(true)
    expect(changed(table.update([put(lease('10.5.1.0/24', '192.168.0.2', { modifiedIndex: 99 }))]))).toBe(
      true,
    )
    expect(changed(table.update([put(lease('10.5.1.0/24', '192.168.0.4'))]))).toBe(true)
    expect(changed(table.update([put(OWN)]))).toBe(false)
    expect(changed(table.update([gone('10.5.9.0/24')]))).toBe(false)
    expect(changed(table.update([gone('10.5.1.0/24')]))).toBe(true)
    expect(shown()).toEqual([])
  })

  it('keep the last good lease under garbage until a delete or a good value', () => {
    table.update([put(lease('10.5.1.0/24', '192.168.0.2')), bad('10.5.1.0-24')])
    expect(shown()).toEqual(['10.5.1.0/24'])
    expect(table.badCount).toBe(1)
    table.update([put(lease('10.5.1.0/24', '192.168.0.2'))])
    expect(table.badCount).toBe(0)
    table.update([bad('10.5.1.0-24'), gone('10.5.1.0/24')])
    expect(shown()).toEqual([])
    expect(table.badCount).toBe(0)
  })
})

describe('bad leases', () => {
  it('are named once, and again only after they were mended', () => {
    const foreign = lease('10.6.1.0/24', '192.168.0.2')
    table.update([bad('foo'), put(foreign), put(lease('10.5.1.0/24', '192.168.0.2'))])
    table.update([bad('foo'), put(foreign)])
    table.replace([foreign, lease('10.5.1.0/24', '192.168.0.2')], [{ key: 'foo', reason: 'garbage' }])
    expect(log.lines).toEqual([
      'warn Ignoring bad subnet node: foo: garbage',
      expect.stringMatching(/^warn Ignoring bad subnet node: 10\.6\.1\.0-24: .*not within the network/),
    ])
    expect(shown()).toEqual(['10.5.1.0/24'])
    expect(table.badCount).toBe(2)
    table.update([{ kind: 'mended', key: 'foo' }, gone('10.6.1.0/24')])
    expect(table.badCount).toBe(0)
    table.update([bad('foo')])
    expect(log.matching(/: foo: garbage/)).toHaveLength(2)
  })

  it('in a folder are mended with the folder', () => {
    table.update([bad('10.5.1.0-24/a'), bad('x/b'), bad('x/c'), bad('xy')])
    table.update([gone('10.5.1.0/24'), { kind: 'mended', key: 'x' }])
    expect([...table.bad()].map(({ key }) => key)).toEqual(['xy'])
  })

  it('withdraw what stood there before, when it became refusable', () => {
    table.update([put(lease('10.5.1.0/24', '192.168.0.2'))])
    expect(changed(table.update([put(lease('10.5.1.0/24', '192.168.0.1'))]))).toBe(true)
    expect(shown()).toEqual([])
  })

  it('are judged anew under other rules', () => {
    table.replace([OWN, lease('10.5.1.0/24', '192.168.0.2')], [])
    expect(changed(table.setRules({ ...rules, own: subnet('10.5.1.0/24') }))).toBe(true)
    expect(shown()).toEqual([])
    expect(table.setRules(rules).put.map((each) => formatSubnet(each.subnet))).toEqual(['10.5.1.0/24'])
    expect(shown()).toEqual(['10.5.1.0/24'])
  })
})

describe('overlaps', () => {
  const wide = lease('10.5.64.0/22', '192.168.0.3')
  const right = lease('10.5.65.0/24', '192.168.0.4')
  const narrow = lease('10.5.65.128/26', '192.168.0.5')

  it.each([
    ['the configured length beats a wider one', [wide, right], ['10.5.65.0/24']],
    ['and a narrower one', [right, narrow], ['10.5.65.0/24']],
    ['else the narrower one counts', [wide, narrow], ['10.5.65.128/26']],
    ['all three', [wide, right, narrow], ['10.5.65.0/24']],
    ['no overlap', [wide, lease('10.5.1.0/24', '192.168.0.6')], ['10.5.1.0/24', '10.5.64.0/22']],
  ])('%s, in whatever order they come', (_, leases, expected) => {
    for (const order of [leases, [...leases].reverse()]) {
      const one = new LeaseTable({ rules, subnetLen: 24, clock, log })
      one.replace(order, [])
      expect(shown(one)).toEqual(expected)
      const other = new LeaseTable({ rules, subnetLen: 24, clock, log })
      for (const each of order) other.update([put(each)])
      expect(shown(other)).toEqual(expected)
    }
  })

  it('are said once, in whatever order the leases come', () => {
    const leases = [wide, right, lease('10.5.66.0/24', '192.168.0.6')]
    table.replace(leases, [])
    table.replace([...leases].reverse(), [])
    expect(log.lines).toEqual([
      'warn Ignoring bad subnet node: 10.5.64.0-22: overlaps the lease 10.5.65.0-24',
    ])
  })

  it('bring the other back when the one that counted is gone', () => {
    table.replace([wide, right], [])
    expect(changed(table.update([gone('10.5.65.0/24')]))).toBe(true)
    expect(shown()).toEqual(['10.5.64.0/22'])
    expect(table.badCount).toBe(0)
  })

  it('bring the other back, too, when the one that counted has had its time of grace', () => {
    table.replace([wide, right], [])
    table.update([{ kind: 'delete', subnet: right.subnet, expired: true }])
    expect(shown()).toEqual(['10.5.65.0/24'])
    clock.advance(180_000)
    const { put, removed } = table.dropOrphans()
    expect([put, removed]).toEqual([[wide], [right.subnet]])
    expect([shown(), table.badCount]).toEqual([['10.5.64.0/22'], 0])
  })
})

describe('properties', () => {
  const cidr = fc.constantFrom(
    '10.5.1.0/24',
    '10.5.2.0/24',
    '10.5.0.0/22',
    '10.5.1.128/25',
    '10.6.0.0/24',
    '10.5.33.0/24',
  )
  const change = fc.oneof(
    fc
      .tuple(cidr, fc.constantFrom('192.168.0.1', '192.168.0.2', '192.168.0.3'))
      .map(([at, by]) => put(lease(at, by))),
    cidr.map(gone),
    cidr.map((at) => bad(at.replace('/', '-'))),
  )

  it('events one by one, events at once and a snapshot of the outcome all end the same, without overlaps', () => {
    fc.assert(
      fc.property(fc.array(change, { maxLength: 30 }), (events) => {
        const single = new LeaseTable({ rules, subnetLen: 24, clock, log })
        let after = ''
        for (const event of events) {
          const before = JSON.stringify(
            [...single.leases()]
              .map(({ subnet, attributes, modifiedIndex }) => ({ subnet, attributes, modifiedIndex }))
              .sort(byText),
          )
          const said = changed(single.update([event]))
          after = JSON.stringify(
            [...single.leases()]
              .map(({ subnet, attributes, modifiedIndex }) => ({ subnet, attributes, modifiedIndex }))
              .sort(byText),
          )
          expect(said).toBe(before !== after)
        }
        const batch = new LeaseTable({ rules, subnetLen: 24, clock, log })
        batch.update(events)
        expect(shown(batch)).toEqual(shown(single))
        const outcome = new Map<string, Lease>()
        const unreadable = new Map<string, string>()
        for (const event of events) {
          if (event.kind === 'put') {
            outcome.set(leaseKey(event.lease.subnet), event.lease)
            unreadable.delete(leaseKey(event.lease.subnet))
          } else if (event.kind === 'delete') {
            outcome.delete(leaseKey(event.subnet))
            unreadable.delete(leaseKey(event.subnet))
          } else if (event.kind === 'bad') unreadable.set(event.bad.key, event.bad.reason)
        }
        const snapshot = new LeaseTable({ rules, subnetLen: 24, clock, log })
        snapshot.replace(
          [...outcome.values()],
          [...unreadable].map(([key, reason]) => ({ key, reason })),
        )
        expect(shown(snapshot)).toEqual(shown(single))
        const held = [...single.leases()]
        for (const a of held)
          for (const b of held) if (a !== b) expect(overlaps(a.subnet, b.subnet)).toBe(false)
      }),
    )
  })
})

function byText(a: unknown, b: unknown): number {
  return JSON.stringify(a) < JSON.stringify(b) ? -1 : 1
}
