import { expect, test } from 'vitest'
import { EventRing } from '../src/events.ts'

const subnet = { address: 0x0a010200, length: 24 }

function ring(capacity?: number): EventRing {
  let now = 1000
  return new EventRing({ wall: () => now++, ...(capacity === undefined ? {} : { capacity }) })
}

test('lines of the log and changes of leases, in order', () => {
  const events = ring()
  events.note('warn', 'x')
  events.lease('put', subnet, 0xc0000201)
  events.lease('delete', subnet)
  expect([...events.since(0)]).toEqual([
    { seq: 1, at: 1000, kind: 'warn', text: 'x' },
    { seq: 2, at: 1001, kind: 'lease', text: 'put lease 10.1.2.0/24 of 192.0.2.1' },
    { seq: 3, at: 1002, kind: 'lease', text: 'delete lease 10.1.2.0/24' },
  ])
  expect([...events.since(2)].map(({ seq }) => seq)).toEqual([3])
  expect([...events.since(3)]).toEqual([])
})

test('it holds the last ones only, and a slot that is used again keeps nothing of before', () => {
  const events = ring(3)
  for (let i = 0; i < 4; i++) events.lease('put', subnet, 1)
  events.note('info', 'line')
  events.lease('delete', subnet)
  expect([...events.since(0)].map(({ seq, text }) => `${seq} ${text}`)).toEqual([
    '4 put lease 10.1.2.0/24 of 0.0.0.1',
    '5 line',
    '6 delete lease 10.1.2.0/24',
  ])
})
