/**
 * Pings without a program: one raw socket for all of them. The kernel gives it every ICMP message that comes to this network
 * namespace; a filter leaves only answers to our own requests, told from others' by a random identifier and a random cookie.
 */
import {
  assemble,
  BPF_DROP,
  BPF_JEQ_K,
  BPF_LD_B_IND,
  BPF_LD_H_IND,
  BPF_LDX_B_MSH,
  BPF_RET_K,
  BPF_TAKE,
} from './bpf.ts'
import type { Ipv4 } from './ip.ts'
import type { NativeSocket } from './native.ts'

// linux/icmp.h, linux/in.h, asm-generic/socket.h
const ICMP_ECHO = 8
const ICMP_ECHOREPLY = 0
const SOL_SOCKET = 1
const SO_RCVBUFFORCE = 33
const IPPROTO_IP = 0
const IP_MTU_DISCOVER = 10
const IP_PMTUDISC_DO = 2

/** Bytes: an IPv4 header without options, the header of an ICMP echo, and the cookie behind it. */
const IP_HEADER = 20
const ECHO_HEADER = 8
const COOKIE = 4
/** Bytes of a packet that fits everywhere: as `ping` sends them. */
export const SMALL_ECHO = 84

/** Room for the answers of some thousand peers while we are busy. */
const RECEIVE_BUFFER = 4 << 20
/** Answers taken in one turn of the event loop. */
const AT_ONCE = 512
/** IPv4 headers have at most 60 bytes; of the rest only its beginning is looked at. */
const LOOKED_AT = 60 + ECHO_HEADER + COOKIE

/** `sequence` is the request's, 0..65535. */
export type OnAnswer = (from: Ipv4, sequence: number) => void

export class EchoSocket {
  readonly #socket: Pick<NativeSocket, 'sendTo' | 'receive' | 'close'>
  readonly #onAnswer: OnAnswer
  readonly #identifier = Math.floor(Math.random() * 0x10000)
  readonly #cookie = Math.floor(Math.random() * 0x1_0000_0000)
  readonly #buffer = new Uint8Array(LOOKED_AT)
  readonly #received = new DataView(this.#buffer.buffer)
  readonly #message: Uint8Array
  readonly #request: DataView
  /** Of the request with sequence number 0. */
  readonly #checksum: number
  #closed = false

  /** Takes over a socket of `openIcmpSocket`. `size` is that of a packet in bytes, which is never fragmented. */
  constructor(socket: NativeSocket, onAnswer: OnAnswer, size = SMALL_ECHO) {
    this.#socket = socket
    this.#onAnswer = onAnswer
    this.#message = new Uint8Array(size - IP_HEADER)
    this.#request = new DataView(this.#message.buffer)
    this.#request.setUint8(0, ICMP_ECHO)
    this.#request.setUint16(4, this.#identifier)
    this.#request.setUint32(ECHO_HEADER, this.#cookie)
    this.#checksum = sumOf(this.#request)
    socket.setOption(SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
    socket.setOption(IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
    socket.attachFilter(answersTo(this.#identifier))
    socket.watch(() => this.#take())
  }

  /** Returns 0, or a negative errno when the packet does not even leave. */
  send(to: Ipv4, sequence: number): number {
    this.#request.setUint16(6, sequence)
    this.#request.setUint16(2, complement(this.#checksum + sequence))
    return this.#socket.sendTo(this.#message, to)
  }

  /** Closing twice is closing once. */
  close(): void {
    this.#closed = true
    this.#socket.close()
  }

  #take(): void {
    for (let taken = 0; taken < AT_ONCE && !this.#closed; taken++) {
      const length = this.#socket.receive(this.#buffer)
      if (length < 0) return
      const view = this.#received
      const header = 4 * (view.getUint8(0) & 0x0f)
      if (length < header + ECHO_HEADER + COOKIE) continue
      if (view.getUint32(header + ECHO_HEADER) !== this.#cookie) continue
      this.#onAnswer(view.getUint32(12), view.getUint16(header + 6))
    }
  }
}

/** A raw socket's filter sees the packet from its IPv4 header on. */
function answersTo(identifier: number): Uint8Array {
  return assemble([
    { code: BPF_LDX_B_MSH, k: 0 },
    { code: BPF_LD_B_IND, k: 0 },
    { code: BPF_JEQ_K, jf: 3, k: ICMP_ECHOREPLY },
    { code: BPF_LD_H_IND, k: 4 },
    { code: BPF_JEQ_K, jf: 1, k: identifier },
    { code: BPF_RET_K, k: BPF_TAKE },
    { code: BPF_RET_K, k: BPF_DROP },
  ])
}

/** The sum of the 16-bit words, of which RFC 1071 makes the checksum. */
function sumOf(view: DataView): number {
  let sum = 0
  for (let i = 0; i + 1 < view.byteLength; i += 2) sum += view.getUint16(i)
  return view.byteLength % 2 === 0 ? sum : sum + (view.getUint8(view.byteLength - 1) << 8)
}

function complement(sum: number): number {
  let folded = sum
  while (folded > 0xffff) folded = (folded & 0xffff) + Math.floor(folded / 0x10000)
  return ~folded & 0xffff
}
