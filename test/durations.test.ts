import { expect, test } from 'vitest'
import { DURATION_BOUNDS, Durations } from '../src/durations.ts'

test('each falls into the first bucket that holds it, bounds included', () => {
  const durations = new Durations()
  for (const ms of [0, 1, 1.5, 10_000, 10_001, 1e6]) durations.add(ms)
  const cumulative = durations.cumulative()
  expect(cumulative).toHaveLength(DURATION_BOUNDS.length + 1)
  expect(cumulative.slice(0, 2)).toEqual([2, 3])
  expect(cumulative.slice(-2)).toEqual([4, 6])
  expect(durations.count).toBe(6)
  expect(durations.seconds).toBeCloseTo(1020.0035, 6)
})
