import { afterEach, beforeEach, expect, it, vi } from 'vitest'
import { Memory } from '../src/memory.ts'

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

function counted(): { readonly memory: Memory; readonly trims: () => number } {
  let trims = 0
  return { memory: new Memory(() => trims++), trims: () => trims }
}

it('gives back after the start, once it has been quiet', () => {
  const { memory, trims } = counted()
  memory.used(0)
  vi.advanceTimersByTime(999)
  memory.used(1)
  vi.advanceTimersByTime(999)
  expect(trims()).toBe(0)
  vi.advanceTimersByTime(1)
  expect(trims()).toBe(1)
})

it('then only after bursts', () => {
  const { memory, trims } = counted()
  memory.used(0)
  vi.advanceTimersByTime(1000)
  memory.used(499)
  vi.advanceTimersByTime(10_000)
  expect(trims()).toBe(1)
  memory.used(1)
  vi.advanceTimersByTime(1000)
  expect(trims()).toBe(2)
})

it('does nothing any more once closed', () => {
  const { memory, trims } = counted()
  memory.used(1000)
  memory.close()
  vi.advanceTimersByTime(10_000)
  expect(trims()).toBe(0)
})
