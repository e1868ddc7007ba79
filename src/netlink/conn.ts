/**
 * The connection that requests go through.
 *
 * It is synchronous: rtnetlink handles a request within the sendmsg(2) that brings it, so when that returns
 * the answer is queued, and for a dump each recvmsg(2) makes the next part. There is nothing to wait for.
 *
 * Writing thousands of entries one by one costs a system call each way for every one. A batch puts as many
 * messages as fit into one datagram and asks for an acknowledgement of the last only: the kernel handles them
 * in order, goes on after one it refuses, reports every refusal by its sequence number, and the final
 * acknowledgement says that all before it have been handled. No error and the final acknowledgement is success.
 */
import { constants } from 'node:os'
import { type Ack, decodeDone, decodeError } from './ack.ts'
import {
  NLM_F_ACK,
  NLM_F_DUMP_INTR,
  NLM_F_REQUEST,
  NLMSG_DONE,
  NLMSG_ERROR,
  NLMSG_NOOP,
  NLMSG_OVERRUN,
} from './constants.ts'
import { errnoName, NetlinkError } from './errors.ts'
import type { Begin, DumpRequest, NetlinkRequest, Take } from './request.ts'
import type { NetlinkSocket } from './socket.ts'
import { noTrace, type Tracing, traceDatagram } from './trace.ts'
import { MessageReader, MessageWriter, setU16 } from './wire.ts'

const CHUNK = 64 << 10
/** All connections share it: what is put into it is sent before anything else is. */
const chunk = new Uint8Array(CHUNK)
const writer = new MessageWriter(chunk)

/** Behind it are enough for the messages of a chunk, so that theirs follow each other without a jump over 0. */
const LAST_SEQUENCE = 0xffffffff - CHUNK

/** A table that changes all the time interrupts dumps; after this many the answer is "cannot tell". */
const DUMP_ATTEMPTS = 10

/** Bytes of dumps that are made ahead: 65,000 peers are 22 MB, and a machine may have a million routes of others. */
const MAX_AHEAD = 64 << 20

/** Errors of the socket in a row before it is given up: each loss of datagrams is reported once. */
const MAX_RECEIVE_ERRORS = 8

const { EBADMSG, EINTR, ENOBUFS } = constants.errno
const LOST = "the kernel's answer was lost"

/** Totals since start. */
export interface RtnlCounters {
  /** Datagrams of writes, each with any number of requests. */
  batches: number
  /** Requests in them. */
  requests: number
  dumps: number
  /** Requests refused, or whose outcome was lost. */
  errors: number
}

/** The datagrams of a dump that was made before anybody asked for it. */
interface Ahead {
  readonly sequence: number
  readonly datagrams: readonly Uint8Array[]
}

export class Rtnl {
  readonly counters: RtnlCounters = { batches: 0, requests: 0, dumps: 0, errors: 0 }
  readonly #socket: NetlinkSocket
  readonly #trace: Tracing
  readonly #maxAhead: number
  /** By the request's own bytes. */
  readonly #ahead = new Map<string, Ahead>()
  #sequence = 0

  constructor(socket: NetlinkSocket, options: { readonly trace?: Tracing; readonly maxAhead?: number } = {}) {
    this.#socket = socket
    this.#trace = options.trace ?? noTrace
    this.#maxAhead = options.maxAhead ?? MAX_AHEAD
  }

  /** The notifications of what is done here carry it. */
  get portId(): number {
    return this.#socket.portId
  }

  close(): void {
    this.#socket.close()
  }

  /** Does one request. Throws a NetlinkError when the kernel refuses it, or its answer is lost. */
  execute(request: NetlinkRequest): void {
    const [error] = this.batch([request])
    if (error !== undefined) throw error
  }

  /**
   * Does all requests, in order; one that is refused does not stop the rest. Returns for each of them, at its
   * index, undefined when the kernel acknowledged it, or why it must be taken as not done: an acknowledgement
   * that is lost makes an error of every request it was to speak for.
   */
  batch(requests: readonly NetlinkRequest[]): (NetlinkError | undefined)[] {
    this.forget()
    const errors = new Array<NetlinkError | undefined>(requests.length).fill(undefined)
    for (let first = 0; first < requests.length; ) first += this.#doChunk(requests, first, errors)
    return errors
  }

  /**
   * All entries, from one dump that nothing interrupted; entries that cannot be read are left out. Throws a
   * NetlinkError when the kernel refuses, or with EINTR when the table would not hold still.
   */
  dump<T>(request: DumpRequest<T>): T[] {
    let entries: T[] = []
    this.each(request, () => {
      const found: T[] = []
      entries = found
      return (entry) => found.push(entry)
    })
    return entries
  }

  /**
   * The same, with each entry handed over as it is read, so that thousands need not be there at once. Only what was handed over
   * since the last `begin` is the answer, and that only once this returns. Nothing may be asked of the kernel meanwhile.
   * Throws as `dump` does.
   */
  each<T>(request: DumpRequest<T>, begin: Begin<T>): void {
    const ahead = this.#ahead.size > 0 ? this.#ahead.get(keyOf(request)) : undefined
    if (ahead !== undefined) {
      this.#dumpOnce(request, begin(), (take) => takeMessages(ahead.datagrams, ahead.sequence, take))
      return
    }
    for (let attempt = 0; attempt < DUMP_ATTEMPTS; attempt++) {
      if (this.#dumpOnce(request, begin())) return
    }
    throw new NetlinkError(request.operation(), EINTR, `changed during each of ${DUMP_ATTEMPTS} dumps`)
  }

  /**
   * Makes these dumps now, for a time in which there is nothing else to do; `dump` and `each` then take them without asking. They
   * hold until something is written by this connection, or `forget` is called: to hear of what others do is the caller's business.
   * A table that cannot be dumped is left for later.
   */
  readAhead(requests: readonly DumpRequest<unknown>[]): void {
    let room = this.#maxAhead
    for (const request of requests) {
      const datagrams: Uint8Array[] = []
      const keep = (datagram: Uint8Array): void => {
        room -= datagram.length
        if (room >= 0) datagrams.push(datagram.slice())
      }
      const unread = { ...request, decode: () => undefined }
      try {
        const whole = this.#dumpOnce(unread, ignore, (take) => this.#askDump(request, take, keep))
        if (whole && room >= 0) this.#ahead.set(keyOf(request), { sequence: this.#sequence, datagrams })
      } catch (error) {
        asNetlinkError(error)
      }
    }
  }

  /** What was read ahead may no longer be so, or is needed no longer. */
  forget(): void {
    this.#ahead.clear()
  }

  /** The one answer to a question. Throws a NetlinkError when the kernel refuses, or the answer cannot be read. */
  get<T>(request: DumpRequest<T>): T {
    let ack: Ack | undefined
    let value: T | undefined
    const answered = this.#ask(request, (message) => {
      if (message.type === NLMSG_ERROR) ack = decodeError(message)
      else value = request.decode(message.bytes, message.start, message.end)
      return true
    })
    if (!answered) throw new NetlinkError(request.operation(), ENOBUFS, LOST)
    if (ack !== undefined) this.#check(request, ack)
    if (value === undefined) throw new NetlinkError(request.operation(), EBADMSG)
    return value
  }

  /** Sends the requests from `first` on that fit into one datagram, and returns how many those were. */
  #doChunk(requests: readonly NetlinkRequest[], first: number, errors: (NetlinkError | undefined)[]): number {
    const firstSequence = this.#nextSequence()
    let length = 0
    let last = 0
    let count = 0
    for (writer.reset(); first + count < requests.length; count++) {
      if (!write(requests[first + count] as NetlinkRequest, firstSequence + count)) break
      last = length
      length = writer.length
    }
    if (count === 0) throw tooLong(requests[first] as NetlinkRequest)
    this.#sequence += count - 1
    setU16(chunk, last + 6, (requests[first + count - 1] as NetlinkRequest).flags | NLM_F_REQUEST | NLM_F_ACK)

    this.counters.batches++
    this.counters.requests += count
    const fail = (index: number, ack: Ack) => {
      this.counters.errors++
      const operation = (requests[first + index] as NetlinkRequest).operation()
      errors[first + index] = new NetlinkError(operation, ack.errno, ack.text)
    }
    const unknown = this.#sendChunk(chunk.subarray(0, length), firstSequence, count, fail)
    if (unknown !== undefined) {
      for (let i = 0; i < count; i++) if (errors[first + i] === undefined) fail(i, unknown)
    }
    return count
  }

  /** Returns why the outcome of those for which `fail` was not called is unknown, if it is. */
  #sendChunk(
    datagram: Uint8Array,
    firstSequence: number,
    count: number,
    fail: (index: number, ack: Ack) => void,
  ): Ack | undefined {
    const lost = { errno: ENOBUFS, text: LOST }
    try {
      this.#send(datagram)
    } catch (error) {
      return { errno: asNetlinkError(error).errno, text: undefined }
    }
    let unknown: Ack | undefined
    for (let failures = 0; failures < MAX_RECEIVE_ERRORS; ) {
      let answer: Uint8Array | undefined
      try {
        answer = this.#receive()
      } catch (error) {
        unknown = { errno: asNetlinkError(error).errno, text: LOST }
        failures++
        continue
      }
      if (answer === undefined) return unknown ?? lost
      for (const message = new MessageReader(answer); message.next(); ) {
        const index = (message.sequence - firstSequence) >>> 0
        if (message.type !== NLMSG_ERROR || index >= count) continue
        const ack = decodeError(message)
        if (ack.errno !== 0) fail(index, ack)
        // A loss is reported before what is left in the queue, so it is known by now.
        if (index === count - 1) return unknown
      }
    }
    return unknown
  }

  /** Returns whether nothing interrupted it. */
  #dumpOnce<T>(
    request: DumpRequest<T>,
    take: Take<T>,
    ask: (take: TakeMessage) => unknown = (message) => this.#askDump(request, message),
  ): boolean {
    let interrupted = false
    let ack: Ack | undefined
    ask((message) => {
      if ((message.flags & NLM_F_DUMP_INTR) !== 0) interrupted = true
      if (message.type === NLMSG_ERROR) ack = decodeError(message)
      else if (message.type === NLMSG_DONE) ack = decodeDone(message)
      else {
        const entry = request.decode(message.bytes, message.start, message.end)
        if (entry !== undefined) take(entry)
      }
      return ack !== undefined
    })
    if (ack === undefined) throw new NetlinkError(request.operation(), ENOBUFS, LOST)
    if (request.none !== undefined && errnoName(ack.errno) === request.none) return true
    this.#check(request, ack)
    return !interrupted
  }

  #askDump(request: NetlinkRequest, take: TakeMessage, keep?: Keep): void {
    this.counters.dumps++
    this.#ask(request, take, keep)
  }

  /** Sends a question, and takes the messages of its answer until `take` says that it was the last. Returns whether it did. */
  #ask(request: NetlinkRequest, take: TakeMessage, keep?: Keep): boolean {
    const sequence = this.#nextSequence()
    writer.reset()
    if (!write(request, sequence)) throw tooLong(request)
    try {
      this.#send(chunk.subarray(0, writer.length))
      return takeMessages(this.#received(keep), sequence, take)
    } catch (error) {
      const { errno, kernelMessage } = asNetlinkError(error)
      // The kernel takes no further dump before this one is read to its end.
      this.#discard()
      throw new NetlinkError(request.operation(), errno, kernelMessage ?? LOST)
    }
  }

  *#received(keep: Keep | undefined): Generator<Uint8Array> {
    for (let datagram = this.#receive(); datagram !== undefined; datagram = this.#receive()) {
      keep?.(datagram)
      yield datagram
    }
  }

  #discard(): void {
    for (let failures = 0; failures < MAX_RECEIVE_ERRORS; ) {
      try {
        if (this.#receive() === undefined) return
      } catch (error) {
        asNetlinkError(error)
        failures++
      }
    }
  }

  #check(request: NetlinkRequest, { errno, text }: Ack): void {
    if (errno !== 0) throw new NetlinkError(request.operation(), errno, text)
  }

  #send(bytes: Uint8Array): void {
    const trace = this.#trace()
    if (trace !== undefined) traceDatagram(trace, '>', bytes)
    this.#socket.send(bytes)
  }

  #receive(): Uint8Array | undefined {
    const datagram = this.#socket.receive()
    const trace = datagram && this.#trace()
    if (datagram !== undefined && trace !== undefined) traceDatagram(trace, '<', datagram)
    return datagram
  }

  /** Not 0, which is what the kernel puts into its notifications. */
  #nextSequence(): number {
    this.#sequence = this.#sequence < LAST_SEQUENCE ? this.#sequence + 1 : 1
    return this.#sequence
  }
}

/** Takes a message of an answer, and returns whether it was the last. */
type TakeMessage = (message: MessageReader) => boolean
/** Is shown a datagram before it is read. */
type Keep = (datagram: Uint8Array) => void

const ignore = (): void => undefined

/** Hands over the messages with that sequence number until `take` says that it was the last. Returns whether it did. */
function takeMessages(datagrams: Iterable<Uint8Array>, sequence: number, take: TakeMessage): boolean {
  for (const datagram of datagrams) {
    for (const message = new MessageReader(datagram); message.next(); ) {
      // What is left of an earlier exchange that broke off has another number.
      if (message.sequence !== sequence || message.type === NLMSG_NOOP || message.type === NLMSG_OVERRUN)
        continue
      if (take(message)) return true
    }
  }
  return false
}

/** What it asks for, as text. */
function keyOf(request: NetlinkRequest): string {
  writer.reset()
  write(request, 0)
  return Buffer.from(chunk.buffer, 0, writer.length).toString('latin1')
}

/** Returns whether there was room for it. */
function write(request: NetlinkRequest, sequence: number): boolean {
  writer.begin(request.type, request.flags | NLM_F_REQUEST, sequence)
  request.encode(writer)
  writer.end()
  return writer.length <= CHUNK
}

function tooLong(request: NetlinkRequest): RangeError {
  return new RangeError(`a request of more than ${CHUNK} bytes: ${request.operation()}`)
}

/** Passes on what is no word from the socket but a defect, such as use after close. */
function asNetlinkError(error: unknown): NetlinkError {
  if (error instanceof NetlinkError) return error
  throw error
}
