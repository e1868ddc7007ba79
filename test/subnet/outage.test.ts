import { expect, it } from 'vitest'
import { Outage } from '../../src/subnet/outage.ts'
import { LogLines, ManualClock } from './support.ts'

it('is two lines, whatever happens in between, and one more for each other reason', () => {
  const log = new LogLines()
  const clock = new ManualClock()
  const outage = new Outage(log, clock)
  outage.recover('Back')
  for (let i = 0; i < 10; i++) {
    outage.fail(`Key not found [${i}]`)
    outage.fail('refused')
    clock.advance(1_000)
  }
  outage.recover('Back')
  outage.recover('Back')
  outage.fail('refused')
  expect(log.lines).toEqual([
    'error Key not found [0]',
    'error refused',
    'info Back after 20 failed attempts in 10 s',
    'error refused',
  ])
})

it('does not flood the log with ever new reasons', () => {
  const log = new LogLines()
  const outage = new Outage(log, new ManualClock())
  for (let i = 0; i < 100; i++) outage.fail(`port ${i}`)
  expect(log.lines).toHaveLength(8)
})
