import { describe, expect, it } from 'vitest'
import { probe } from '../src/arp.ts'
import { ip, ManualClock, until } from './subnet/support.ts'

const MAC = '02:00:00:00:00:01'
const OTHER = '02:00:00:00:00:02'
const ADDRESS = ip('10.77.1.2')

// RFC 5227, 2.1.1: to all, a request from our MAC that names no sender's address.
const PROBE = 'ffffffffffff02000000000108060001080006040001020000000001000000000000000000000a4d0102'

/** An ARP packet as it comes from the link. */
function packet({ operation = 2, sender = OTHER, address = ADDRESS, length = 60 }): Buffer {
  const hex = sender.replaceAll(':', '')
  const frame = Buffer.alloc(60)
  frame.write(`020000000001${hex}0806000108000604`, 'hex')
  frame.writeUInt16BE(operation, 20)
  frame.write(hex, 22, 'hex')
  frame.writeUInt32BE(address, 28)
  return frame.subarray(0, length)
}

class Link {
  readonly sent: string[] = []
  readonly #queue: Buffer[] = []
  #readable: () => void = () => undefined

  send(frame: Uint8Array): number {
    this.sent.push(Buffer.from(frame).toString('hex'))
    return 0
  }

  receive(buffer: Uint8Array): number {
    const frame = this.#queue.shift()
    if (frame === undefined) return -11
    buffer.set(frame.subarray(0, buffer.length))
    return frame.length
  }

  watch(callback: () => void): number {
    this.#readable = callback
    return 0
  }

  deliver(...frames: readonly Buffer[]): void {
    this.#queue.push(...frames)
    this.#readable()
  }
}

describe('a probe', () => {
  const clock = new ManualClock()
  const start = (link: Link, signal = new AbortController().signal): Promise<string | undefined> =>
    probe({
      socket: link,
      mac: MAC,
      address: ADDRESS,
      own: new Set([MAC, '02:00:00:00:00:03']),
      clock,
      signal,
    })

  it('is sent three times, and nobody answers', async () => {
    const link = new Link()
    const found = start(link)
    for (const times of [1, 2, 3]) {
      await until('a probe', () => link.sent.length === times && clock.sleeping === 1)
      clock.advance(200)
    }
    expect(await found).toBeUndefined()
    expect(link.sent).toEqual([PROBE, PROBE, PROBE])
  })

  it.each([
    ['a reply', packet({})],
    ['a request', packet({ operation: 1 })],
  ])('ends with %s of somebody else', async (_, frame) => {
    const link = new Link()
    const found = start(link)
    link.deliver(frame)
    expect(await found).toBe(OTHER)
    expect(link.sent).toHaveLength(1)
  })

  it.each([
    ['another interface of this machine', packet({ sender: '02:00:00:00:00:03' })],
    ['the owner of another address', packet({ address: ip('10.77.1.9') })],
    ['a frame that is cut short', packet({ length: 41 })],
    ['another protocol than ARP for IPv4', Buffer.alloc(60, 0x0a)],
  ])('takes no answer from %s', async (_, frame) => {
    const link = new Link()
    const stop = new AbortController()
    const found = start(link, stop.signal)
    link.deliver(frame)
    stop.abort()
    expect(await found).toBeUndefined()
  })
})
