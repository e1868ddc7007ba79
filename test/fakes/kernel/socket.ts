import { constants } from 'node:os'
import { NetlinkError } from '../../../src/netlink/errors.ts'
import type { NetlinkSocket } from '../../../src/netlink/socket.ts'

/** A socket of the fake kernel: what it sends is handled at once, what the kernel says is queued. */
export class FakeSocket implements NetlinkSocket {
  readonly portId: number
  readonly #handle: (datagram: Uint8Array, socket: FakeSocket) => void
  readonly #onClose: (socket: FakeSocket) => void
  readonly #queue: (Uint8Array | NetlinkError)[] = []
  #readable: (() => void) | undefined
  #scheduled = false
  #closed = false

  constructor(
    portId: number,
    handle: (datagram: Uint8Array, socket: FakeSocket) => void,
    onClose: (socket: FakeSocket) => void = () => undefined,
  ) {
    this.portId = portId
    this.#handle = handle
    this.#onClose = onClose
  }

  send(bytes: Uint8Array): void {
    this.#open()
    this.#handle(bytes.slice(), this)
  }

  receive(): Uint8Array | undefined {
    this.#open()
    const next = this.#queue.shift()
    if (next instanceof NetlinkError) throw next
    return next
  }

  onReadable(callback: () => void): void {
    this.#open()
    if (this.#readable !== undefined) throw new NetlinkError('watch rtnetlink', constants.errno.EALREADY)
    this.#readable = callback
    this.#schedule()
  }

  close(): void {
    if (!this.#closed) this.#onClose(this)
    this.#closed = true
  }

  push(datagram: Uint8Array): void {
    if (this.#closed) return
    this.#queue.push(datagram)
    this.#schedule()
  }

  /** Forgets what is queued and, as the kernel does, says so once. */
  overrun(): void {
    this.#queue.length = 0
    this.#queue.push(new NetlinkError('receive from rtnetlink', constants.errno.ENOBUFS))
    this.#schedule()
  }

  #schedule(): void {
    if (this.#readable === undefined || this.#scheduled || this.#queue.length === 0) return
    this.#scheduled = true
    setImmediate(() => {
      this.#scheduled = false
      if (this.#closed || this.#queue.length === 0) return
      this.#readable?.()
      this.#schedule()
    })
  }

  #open(): void {
    if (this.#closed) throw new Error('the socket is closed')
  }
}
