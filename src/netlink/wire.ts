/**
 * How netlink puts values into bytes, and nothing about what they mean.
 *
 * A datagram is a row of messages, each a 16-byte header and a payload; a payload is a fixed struct and a row
 * of attributes, each a 4-byte header and a value; an attribute may hold attributes. Everything starts on a
 * 4-byte boundary and numbers are in the host's order, except addresses and UDP ports (network order). Only
 * little-endian hosts are served, which is every one that Node has a build for but s390x.
 *
 * Tens of thousands of small messages pass here at a time. So they are written where they are sent from, and read where
 * they were received.
 */
import type { IpAddress, Ipv4, Ipv6, MacAddress } from '../ip.ts'
import { NLA_TYPE_MASK } from './constants.ts'

// struct nlmsghdr { __u32 nlmsg_len; __u16 nlmsg_type; __u16 nlmsg_flags; __u32 nlmsg_seq; __u32 nlmsg_pid; }
export const NLMSG_HDRLEN = 16
export const NLMSG_TYPE_OFFSET = 4
export const NLMSG_PID_OFFSET = 12

// #define NLMSG_ALIGN(len) (((len) + NLMSG_ALIGNTO - 1) & ~(NLMSG_ALIGNTO - 1))
export function align(length: number): number {
  return (length + 3) & ~3
}

/** nlmsghdr with its payload. `portId` is who sent it or caused it, 0 for the kernel itself. */
export interface NetlinkMessage {
  readonly type: number
  readonly flags: number
  readonly sequence: number
  readonly portId: number
  readonly payload: Uint8Array
}

/**
 * Walks the messages of a datagram, in order, up to the first impossible length; its fields are those of the current one, whose
 * payload is `bytes` from `start` to `end`.
 *
 *     for (const reader = new MessageReader(datagram); reader.next(); ) decode(reader.bytes, reader.start, reader.end)
 */
export class MessageReader implements NetlinkMessage {
  readonly bytes: Uint8Array
  type = 0
  flags = 0
  sequence = 0
  start = 0
  end = 0
  #next = 0

  constructor(datagram: Uint8Array) {
    this.bytes = datagram
  }

  next(): boolean {
    const { bytes } = this
    const at = this.#next
    if (at + NLMSG_HDRLEN > bytes.length) return false
    const length = getU32(bytes, at)
    if (length < NLMSG_HDRLEN || length > bytes.length - at) return false
    this.type = getU16(bytes, at + 4)
    this.flags = getU16(bytes, at + 6)
    this.sequence = getU32(bytes, at + 8)
    this.start = at + NLMSG_HDRLEN
    this.end = at + length
    this.#next = at + align(length)
    return true
  }

  get portId(): number {
    return getU32(this.bytes, this.start - NLMSG_HDRLEN + NLMSG_PID_OFFSET)
  }

  get payload(): Uint8Array {
    return this.bytes.subarray(this.start, this.end)
  }
}

/** The messages of a datagram, for where there are few. Payloads are views of it. */
export function* readMessages(datagram: Uint8Array): Generator<NetlinkMessage, void, undefined> {
  for (const reader = new MessageReader(datagram); reader.next(); ) {
    const { type, flags, sequence, portId, payload } = reader
    yield { type, flags, sequence, portId, payload }
  }
}

/**
 * Writes messages behind each other into one buffer, over and over again:
 *
 *     writer.begin(RTM_NEWNEIGH, flags, sequence)
 *     writer.octets(AF_INET, 0, 0, 0).u32(index).u32(state).attributeIp(NDA_DST, address)
 *     writer.end()
 *
 * All of it is whole words, so that padding is written, too, and nothing that was there before is left. What does not fit into
 * the buffer is not written, but counted: `length` says how long it would have been.
 */
export class MessageWriter {
  readonly #bytes: Uint8Array
  readonly #words: Uint32Array
  /** Words written. */
  #at = 0
  /** Where the message begins. */
  #message = 0

  /** The buffer is of whole words, and begins at one. */
  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
    this.#words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4)
  }

  /** In bytes. */
  get length(): number {
    return 4 * this.#at
  }

  /** From now on it begins at the start of the buffer again. */
  reset(): void {
    this.#at = 0
  }

  begin(type: number, flags: number, sequence: number): void {
    const at = this.#at
    this.#message = at
    this.#words[at + 1] = type | (flags << 16)
    this.#words[at + 2] = sequence
    this.#words[at + 3] = 0
    this.#at = at + NLMSG_HDRLEN / 4
  }

  end(): void {
    this.#words[this.#message] = 4 * (this.#at - this.#message)
  }

  /** Four numbers of 8 bits. */
  octets(first: number, second: number, third: number, fourth: number): this {
    return this.u32(first | (second << 8) | (third << 16) | (fourth << 24))
  }

  u32(value: number): this {
    this.#words[this.#at++] = value
    return this
  }

  /** 0..255. */
  attributeU8(type: number, value: number): this {
    this.#words[this.#attribute(type, 1)] = value
    return this
  }

  /** 0..65,535. */
  attributeU16(type: number, value: number): this {
    this.#words[this.#attribute(type, 2)] = value
    return this
  }

  /** 0..65,535. */
  attributeU16be(type: number, value: number): this {
    this.#words[this.#attribute(type, 2)] = (value >>> 8) | ((value & 255) << 8)
    return this
  }

  attributeU32(type: number, value: number): this {
    this.#words[this.#attribute(type, 4)] = value
    return this
  }

  attributeIp(type: number, address: IpAddress): this {
    if (typeof address === 'number') this.#words[this.#attribute(type, 4)] = swap(address)
    else {
      const at = this.#attribute(type, 16)
      for (let i = 0; i < 4; i++)
        this.#words[at + i] = swap(Number(BigInt.asUintN(32, address >> BigInt(96 - 32 * i))))
    }
    return this
  }

  attributeMac(type: number, mac: MacAddress): this {
    const at = this.#attribute(type, 6)
    this.#words[at] = octet(mac, 0) | (octet(mac, 3) << 8) | (octet(mac, 6) << 16) | (octet(mac, 9) << 24)
    this.#words[at + 1] = octet(mac, 12) | (octet(mac, 15) << 8)
    return this
  }

  /** A string with its final NUL. */
  attributeString(type: number, text: string): this {
    return this.attributeText(type, `${text}\0`)
  }

  /** A string without a final NUL, as iproute2 writes the kind of a link. */
  attributeText(type: number, text: string): this {
    return this.attributeBytes(type, Buffer.from(text))
  }

  attributeBytes(type: number, value: Uint8Array): this {
    const at = this.#attribute(type, value.length)
    // Padding, which is in the last word if there is any.
    if (value.length > 0) this.#words[this.#at - 1] = 0
    for (let i = 0; i < value.length; i++) this.#bytes[4 * at + i] = value[i] as number
    return this
  }

  /** An attribute that says all by being there. */
  attributeFlag(type: number): this {
    this.#attribute(type, 0)
    return this
  }

  /** An attribute that holds what `write` adds. */
  nested(type: number, write: (writer: this) => void): this {
    const value = this.#attribute(type, 0)
    write(this)
    this.#words[value - 1] = attributeHeader(type, 4 * (this.#at - value))
    return this
  }

  /** Returns where the value goes, of `length` bytes. */
  #attribute(type: number, length: number): number {
    const at = this.#at
    this.#words[at] = attributeHeader(type, length)
    this.#at = at + 1 + ((length + 3) >> 2)
    return at + 1
  }
}

// struct nlattr { __u16 nla_len; __u16 nla_type; }, nla_len without padding
function attributeHeader(type: number, length: number): number {
  return (4 + length) | (type << 16)
}

/** From the host's order to that of the network. */
function swap(value: number): number {
  return (value << 24) | ((value & 0xff00) << 8) | ((value >>> 8) & 0xff00) | (value >>> 24)
}

const NOTHING: Uint8Array = new Uint8Array(0)

/**
 * Walks the attributes of a payload:
 *
 *     const attributes = new AttributeReader().begin(payload, 12)
 *     while (attributes.next()) switch (attributes.type) { case NDA_DST: dst = attributes.ipv4(); break ... }
 *     if (attributes.failed) return undefined
 *
 * It remembers its first error, and from then on there is no next attribute: a decoder checks once, at the
 * end. A value shorter or longer than what is asked for is an error; attributes not asked for are skipped.
 */
export class AttributeReader {
  /** Of the current attribute, without NLA_F_NESTED and NLA_F_NET_BYTEORDER. */
  type = 0
  failed = false
  #bytes = NOTHING
  #end = 0
  #value = 0
  #length = 0
  #next = 0

  /** Begins with the attributes in `bytes` from `start` on; a payload that ends before `start` is an error. */
  begin(bytes: Uint8Array, start: number, end: number = bytes.length): this {
    this.#bytes = bytes
    this.#next = start
    this.#end = end
    this.failed = start > end
    return this
  }

  next(): boolean {
    const at = this.#next
    const end = this.#end
    if (this.failed || at >= end) return false
    const header = at + 4 <= end ? getU32(this.#bytes, at) : 0
    const length = header & 0xffff
    if (length < 4 || at + length > end) {
      this.failed = true
      return false
    }
    this.type = (header >>> 16) & NLA_TYPE_MASK
    this.#value = at + 4
    this.#length = length - 4
    this.#next = at + align(length)
    return true
  }

  /** Length of the current value in bytes. */
  get length(): number {
    return this.#length
  }

  u8(): number {
    return this.#expect(1) ? (this.#bytes[this.#value] as number) : 0
  }

  u16(): number {
    return this.#expect(2) ? getU16(this.#bytes, this.#value) : 0
  }

  u16be(): number {
    if (!this.#expect(2)) return 0
    return ((this.#bytes[this.#value] as number) << 8) | (this.#bytes[this.#value + 1] as number)
  }

  u32(): number {
    return this.#expect(4) ? getU32(this.#bytes, this.#value) : 0
  }

  u32be(): number {
    return this.#expect(4) ? getU32be(this.#bytes, this.#value) : 0
  }

  ipv4(): Ipv4 {
    return this.#expect(4) ? getU32be(this.#bytes, this.#value) : 0
  }

  ipv6(): Ipv6 {
    if (!this.#expect(16)) return 0n
    let address = 0n
    for (let i = 0; i < 4; i++) {
      address = (address << 32n) | BigInt(getU32be(this.#bytes, this.#value + 4 * i))
    }
    return address
  }

  /** An address of the family that its length says. */
  ip(): IpAddress {
    return this.#length === 16 ? this.ipv6() : this.ipv4()
  }

  /** A view of the value, of whatever length. */
  bytes(): Uint8Array {
    return this.#bytes.subarray(this.#value, this.#value + this.#length)
  }

  /** Undefined for a hardware address that is no MAC: of a tunnel, or of InfiniBand. */
  mac(): MacAddress | undefined {
    return this.#length === 6 ? formatMac(this.#bytes, this.#value) : undefined
  }

  /** Up to the first NUL. */
  string(): string {
    const end = this.#value + this.#length
    let text = ''
    for (let i = this.#value; i < end; i++) {
      const octet = this.#bytes[i] as number
      if (octet === 0) return text
      if (octet >= 0x80) return this.#utf8()
      text += String.fromCharCode(octet)
    }
    return text
  }

  nested(): AttributeReader {
    return new AttributeReader().begin(this.#bytes, this.#value, this.#value + this.#length)
  }

  /** Makes an error of a nested reader an error of this one. */
  join(nested: AttributeReader): void {
    this.failed ||= nested.failed
  }

  #utf8(): string {
    const text = Buffer.from(this.#bytes.subarray(this.#value, this.#value + this.#length)).toString()
    const nul = text.indexOf('\0')
    return nul < 0 ? text : text.slice(0, nul)
  }

  #expect(length: number): boolean {
    if (this.#length !== length) this.failed = true
    return !this.failed
  }
}

const shared = new AttributeReader()

/**
 * For decoders that read tens of thousands of payloads one after another, and nothing else meanwhile: the reader is theirs
 * until the next call.
 */
export function attributesIn(bytes: Uint8Array, start: number, end: number): AttributeReader {
  return shared.begin(bytes, start, end)
}

/** One call, one flat string: pieces glued together cost three times as much once they are hashed as map keys. */
function formatMac(bytes: Uint8Array, at: number): MacAddress {
  const b0 = bytes[at] as number
  const b1 = bytes[at + 1] as number
  const b2 = bytes[at + 2] as number
  const b3 = bytes[at + 3] as number
  const b4 = bytes[at + 4] as number
  const b5 = bytes[at + 5] as number
  return String.fromCharCode(
    HEX[b0 >> 4] as number,
    HEX[b0 & 15] as number,
    COLON,
    HEX[b1 >> 4] as number,
    HEX[b1 & 15] as number,
    COLON,
    HEX[b2 >> 4] as number,
    HEX[b2 & 15] as number,
    COLON,
    HEX[b3 >> 4] as number,
    HEX[b3 & 15] as number,
    COLON,
    HEX[b4 >> 4] as number,
    HEX[b4 & 15] as number,
    COLON,
    HEX[b5 >> 4] as number,
    HEX[b5 & 15] as number,
  )
}

const COLON = 0x3a
/** The digits as characters. */
const HEX = Uint8Array.from('0123456789abcdef', (digit) => digit.charCodeAt(0))

/** The number that two hexadecimal digits say. */
function octet(text: string, at: number): number {
  return (digit(text.charCodeAt(at)) << 4) | digit(text.charCodeAt(at + 1))
}

/** Of a character that is known to be a digit: letters are 9 behind what their last four bits say. */
function digit(c: number): number {
  return (c & 15) + 9 * (c >> 6)
}

// Reads and writes at offsets that the caller has checked. Plain byte accesses are what V8 compiles best.

export function getU16(b: Uint8Array, at: number): number {
  return (b[at] as number) | ((b[at + 1] as number) << 8)
}

export function getU32(b: Uint8Array, at: number): number {
  return (
    ((b[at] as number) |
      ((b[at + 1] as number) << 8) |
      ((b[at + 2] as number) << 16) |
      ((b[at + 3] as number) << 24)) >>>
    0
  )
}

function getU32be(b: Uint8Array, at: number): number {
  return (
    (((b[at] as number) << 24) |
      ((b[at + 1] as number) << 16) |
      ((b[at + 2] as number) << 8) |
      (b[at + 3] as number)) >>>
    0
  )
}

export function setU16(b: Uint8Array, at: number, value: number): void {
  b[at] = value
  b[at + 1] = value >>> 8
}
