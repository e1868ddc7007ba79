import { afterEach, beforeEach, expect, it, vi } from 'vitest'
import { Memory } from '../src/memory.ts'

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

function counted(): { readonly memory: Memory; readonly trims: () => number } {
  let trims = 0
  return { memory: new Memory(() => trims++), trims: () => trims }
}

/** Lets a release that is due happen: it loads two modules first. */
async function released(trims: () => number, count: number): Promise<void> {
  vi.useRealTimers()
  await vi.waitFor(() => expect(trims()).toBe(count))
  vi.useFakeTimers()
}

it('gives back after the start, once it has been quiet', async () => {
  const { memory, trims } = counted()
  memory.used(0)
  vi.advanceTimersByTime(999)
  expect(trims()).toBe(0)
  memory.used(1)
  vi.advanceTimersByTime(999)
  expect(trims()).toBe(0)
  vi.advanceTimersByTime(1)
  await released(trims, 1)
})

it('then only after bursts', async () => {
  const { memory, trims } = counted()
  memory.used(0)
  vi.advanceTimersByTime(1000)
  await released(trims, 1)
  memory.used(499)
  vi.advanceTimersByTime(10_000)
  expect(vi.getTimerCount()).toBe(0)
  memory.used(1)
  vi.advanceTimersByTime(1000)
  await released(trims, 2)
})

it('does nothing any more once closed', () => {
  const { memory, trims } = counted()
  memory.used(1000)
  memory.close()
  vi.advanceTimersByTime(10_000)
  expect(vi.getTimerCount()).toBe(0)
  expect(trims()).toBe(0)
})
