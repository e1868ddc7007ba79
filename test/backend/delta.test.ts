import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { DeltaTracker } from '../../src/backend/delta.ts'

const tracker = (): DeltaTracker<string, number> => new DeltaTracker((a, b) => a === b)
const delta = (t: DeltaTracker<string, number>) => ({
  missing: Array.from(t.missing(), ({ key, wanted, held }) => [key, wanted, held]),
  extra: Array.from(t.extra(), ({ key, held }) => [key, held]),
})

/** A dump whose last attempt shows all there is; those before were interrupted. */
const dump =
  (...attempts: readonly (readonly number[])[]) =>
  (begin: () => (entry: number) => void): void => {
    for (const entries of attempts) entries.forEach(begin())
  }

/** A dump that breaks off when it has shown this. */
const failing =
  (entry: number) =>
  (begin: () => (entry: number) => void): void => {
    begin()(entry)
    throw new Error('EINTR')
  }

describe('DeltaTracker', () => {
  it('asks for what is wanted and not held', () => {
    const t = tracker()
    t.want('a', 1)
    expect(delta(t)).toEqual({ missing: [['a', 1, undefined]], extra: [] })
    t.hold('a', 1)
    expect(delta(t)).toEqual({ missing: [], extra: [] })
  })

  it('asks again when the value held differs', () => {
    const t = tracker()
    t.want('a', 1)
    t.hold('a', 2)
    expect(delta(t)).toEqual({ missing: [['a', 1, 2]], extra: [] })
  })

  it('names as extra what is held and not wanted', () => {
    const t = tracker()
    t.hold('a', 1)
    expect(delta(t)).toEqual({ missing: [], extra: [['a', 1]] })
    t.lose('a')
    expect(delta(t)).toEqual({ missing: [], extra: [] })
  })

  it('names what a complete dump shows otherwise than believed', () => {
    const t = tracker()
    t.hold('gone', 1)
    t.hold('same', 2)
    t.hold('changed', 3)
    const keys = new Map([
      [2, 'same'],
      [4, 'changed'],
      [5, 'new'],
    ])
    expect(t.holdExactly(dump([...keys.keys()]), (entry) => keys.get(entry) ?? '').sort()).toEqual([
      'changed',
      'gone',
      'new',
    ])
    expect(t.counts.held).toBe(3)
  })

  it('does not hold what only an interrupted attempt at a dump has shown', () => {
    const t = tracker()
    t.hold('gone', 1)
    const keys = new Map([
      [1, 'gone'],
      [2, 'same'],
    ])
    expect(t.holdExactly(dump([1, 2], [2]), (entry) => keys.get(entry) ?? '').sort()).toEqual([
      'gone',
      'same',
    ])
    expect([t.held('gone'), t.held('same')]).toEqual([undefined, 2])
    expect(t.counts.held).toBe(1)
    // Wrong in the first attempt and right in the second is as believed.
    expect(t.holdExactly(dump([3, 1], [2]), (entry) => (entry === 1 ? 'gone' : 'same'))).toEqual([])
  })

  it('believes nothing of a dump that fails, and is surprised by the next', () => {
    const t = tracker()
    t.hold('a', 1)
    expect(() => t.holdExactly(failing(2), () => 'a')).toThrow('EINTR')
    expect(t.held('a')).toBe(1)
    expect(t.holdExactly(dump([2]), () => 'a')).toEqual(['a'])
  })

  it('names what is missing to the end, though most of it is held while it is being named', () => {
    const t = tracker()
    const keys = Array.from({ length: 4000 }, (_, i) => String(i))
    for (const key of keys) t.want(key, 1)
    const named: string[] = []
    for (const row of t.missing()) {
      named.push(row.key)
      if (Number(row.key) % 1000 !== 999) t.acknowledge(row)
    }
    expect(named).toEqual(keys)
    const refused = ['999', '1999', '2999', '3999']
    expect(Array.from(t.missing(), ({ key }) => key)).toEqual(refused)
    t.want('new', 1)
    expect(Array.from(t.missing(), ({ key }) => key)).toEqual([...refused, 'new'])
    expect(t.counts.differing).toBe(5)
  })

  it('ends at the wanted state from any history, touching only keys that differ', () => {
    const step = fc.tuple(
      fc.constantFrom('want', 'unwant', 'hold', 'lose', 'dump', 'empty dump', 'broken dump'),
      fc.constantFrom('a', 'b', 'c'),
      fc.nat(2),
    )
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const t = tracker()
        const wanted = new Map<string, number>()
        const held = new Map<string, number>()
        for (const [what, key, value] of steps) {
          if (what === 'want') {
            t.want(key, value)
            wanted.set(key, value)
          } else if (what === 'unwant') {
            t.unwant(key)
            wanted.delete(key)
          } else if (what === 'hold') {
            t.hold(key, value)
            held.set(key, value)
          } else if (what === 'lose') {
            t.lose(key)
            held.delete(key)
          } else if (what === 'broken dump') {
            expect(() => t.holdExactly(failing(value), () => key)).toThrow('EINTR')
          } else {
            t.holdExactly(dump(what === 'dump' ? [value] : []), () => key)
            held.clear()
            if (what === 'dump') held.set(key, value)
          }
          const missing = [...wanted].filter(([k, v]) => held.get(k) !== v)
          const extra = [...held].filter(([k]) => !wanted.has(k))
          const told = [...t.missing()]
          expect(told.length).toBe(missing.length)
          expect(new Map(told.map((row) => [row.key, row.wanted]))).toEqual(new Map(missing))
          for (const row of told) expect(row.held).toBe(held.get(row.key))
          expect(new Map(Array.from(t.extra(), (row) => [row.key, row.held]))).toEqual(new Map(extra))
          expect(t.counts).toEqual({
            wanted: wanted.size,
            held: held.size,
            differing: missing.length + extra.length,
          })
        }
        for (const { key, wanted } of t.missing()) held.set(key, wanted)
        for (const { key } of t.extra()) held.delete(key)
        expect(held).toEqual(wanted)
      }),
    )
  })
})
