import { NetlinkError } from '../../src/netlink/errors.ts'
import type { NetlinkSocket } from '../../src/netlink/socket.ts'
import { type NetlinkMessage, readMessages } from '../../src/netlink/wire.ts'
import { encodeMessage } from './payload.ts'

/** A datagram to receive, as its messages, or the errno that receiving fails with. */
export type Received = readonly NetlinkMessage[] | number

/** A socket that answers each datagram as a test says, and remembers what was sent. */
export class ScriptedSocket implements NetlinkSocket {
  readonly portId = 4711
  /** The messages of each datagram sent. */
  readonly sent: NetlinkMessage[][] = []
  readonly queue: Received[] = []
  closed = 0
  sendErrno = 0
  readable: () => void = () => undefined
  readonly #answer: (messages: NetlinkMessage[]) => readonly Received[]

  constructor(answer: (messages: NetlinkMessage[]) => readonly Received[] = () => []) {
    this.#answer = answer
  }

  send(bytes: Uint8Array): void {
    if (this.sendErrno !== 0) throw new NetlinkError('send to rtnetlink', this.sendErrno)
    const messages = [...readMessages(Uint8Array.from(bytes))]
    this.sent.push(messages)
    this.queue.push(...this.#answer(messages))
  }

  receive(): Uint8Array | undefined {
    const next = this.queue.shift()
    if (typeof next === 'number') throw new NetlinkError('receive from rtnetlink', next)
    return next && Buffer.concat(next.map(encodeMessage))
  }

  onReadable(callback: () => void): void {
    this.readable = callback
  }

  close(): void {
    this.closed++
  }
}

/** NLMSG_ERROR as the kernel answers with NETLINK_CAP_ACK and NETLINK_EXT_ACK set; errno 0 acknowledges. */
export function acknowledge(request: NetlinkMessage, errno = 0, text?: string): NetlinkMessage {
  const words = text === undefined ? undefined : Buffer.from(`${text}\0`)
  const payload = new Uint8Array(20 + (words ? 4 + words.length : 0))
  const view = new DataView(payload.buffer)
  view.setInt32(0, -errno, true)
  view.setUint32(4, 16 + request.payload.length, true)
  view.setUint16(8, request.type, true)
  view.setUint32(12, request.sequence, true)
  if (words) {
    view.setUint16(20, 4 + words.length, true)
    view.setUint16(22, 1, true)
    payload.set(words, 24)
  }
  return { type: 2, flags: 0x100 | (words ? 0x200 : 0), sequence: request.sequence, portId: 4711, payload }
}

/** NLMSG_DONE. */
export function done(request: NetlinkMessage, errno = 0, flags = 2): NetlinkMessage {
  const payload = new Uint8Array(4)
  new DataView(payload.buffer).setInt32(0, -errno, true)
  return { type: 3, flags, sequence: request.sequence, portId: 4711, payload }
}
