import { expect, it } from 'vitest'
import { Backoff } from '../../src/backend/backoff.ts'

it('lets the free tries pass, then doubles up to a minute', () => {
  const backoff = new Backoff<string>(2)
  const waits: number[] = []
  let now = 0
  for (let i = 0; i < 10; i++) {
    backoff.note('k', now)
    const wait = backoff.wait('k', now)
    waits.push(wait)
    now += wait
  }
  expect(waits).toEqual([0, 0, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000])
})

it('starts afresh after a quiet spell, and keeps keys apart', () => {
  const backoff = new Backoff<string>(0)
  backoff.note('a', 0)
  expect(backoff.wait('b', 0)).toBe(0)
  expect(backoff.wait('a', 0)).toBe(1000)
  backoff.note('a', 20_000)
  expect(backoff.wait('a', 20_000)).toBe(1000)
})

it('does not remember ever more keys', () => {
  const backoff = new Backoff<number>(0)
  for (let i = 0; i < 10_000; i++) backoff.note(i, i * 100)
  expect(backoff.size).toBeLessThan(1100)
  expect(backoff.wait(9999, 999_900)).toBe(1000)
})
