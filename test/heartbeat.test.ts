import { expect, test } from 'vitest'
import { Heartbeat, stuck } from '../src/heartbeat.ts'
import { ManualClock } from './masq/manual-clock.ts'

const GRACE = 30_000

function late(heart: Heartbeat, clock: ManualClock): boolean {
  return stuck([heart], clock.now()).length > 0
}

test('a loop that has not begun is not watched', async () => {
  const clock = new ManualClock()
  const heart = new Heartbeat('x', clock, 1000)
  await clock.advance(1e9)
  expect(heart.last).toBeUndefined()
  expect(late(heart, clock)).toBe(false)
})

test('asleep it is due when the sleep is over, busy when the round must be', async () => {
  const clock = new ManualClock()
  const heart = new Heartbeat('x', clock, 1000)
  const asleep = heart.sleep(3_600_000)
  await clock.advance(3_599_999)
  expect(late(heart, clock)).toBe(false)
  await clock.advance(1)
  await asleep
  expect(heart.last).toBe(clock.now())
  await clock.advance(1000 + GRACE)
  expect(late(heart, clock)).toBe(false)
  await clock.advance(1)
  expect(late(heart, clock)).toBe(true)
  void heart.sleep(5)
  expect(late(heart, clock)).toBe(false)
})

test('a sleep that is cut short counts as being awake', async () => {
  const clock = new ManualClock()
  const heart = new Heartbeat('x', clock, 1000)
  const controller = new AbortController()
  const asleep = heart.sleep(3_600_000, controller.signal)
  controller.abort()
  await asleep
  await clock.advance(1001 + GRACE)
  expect(late(heart, clock)).toBe(true)
})

test('while one of two sleeps goes on, the loop is asleep', async () => {
  const clock = new ManualClock()
  const heart = new Heartbeat('x', clock, 0)
  const short = heart.sleep(10)
  void heart.sleep(3_600_000)
  await clock.advance(10)
  await short
  await clock.advance(GRACE + 1)
  expect(late(heart, clock)).toBe(false)
})
