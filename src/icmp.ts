/**
 * ICMP echo (RFC 792) over one raw socket: requests of any size, whole and never fragmented (RFC 791, "don't fragment"), and the
 * answers to them. CAP_NET_RAW.
 */
import { getSystemErrorName } from 'node:util'
import type { Ipv4 } from './ip.ts'
import { bpfProgram, NativeError, type NativeSocket, openIcmpSocket } from './native.ts'

/** Bytes of the largest packet that IPv4 has. */
const LARGEST = 65_535

const IPV4_HEADER = 20
const IP_DF = 0x40
const IPPROTO_ICMP = 1
const ECHO_REPLY = 0
const ECHO_REQUEST = 8

// linux/in.h
const IPPROTO_IP = 0
const IP_HDRINCL = 3
/** Bytes for some thousand answers that come while we are busy. */
const RECEIVE_BUFFER = 8 << 20

export interface Echo {
  readonly to: Ipv4
  /** undefined: the kernel chooses. */
  readonly from: Ipv4 | undefined
  /** Bytes of the whole packet: 28 to 65,535, of which 28 are the IPv4 and ICMP headers. */
  readonly size: number
  /** 0 to 65,535: comes back with the answer. */
  readonly sequence: number
}

export interface EchoAnswer {
  readonly from: Ipv4
  readonly sequence: number
}

/** What pings are sent through; a test may put something else in its place. */
export interface EchoSocket {
  /** False when the kernel does not take it: no route, or larger than the MTU of the device it leads to. */
  send(echo: Echo): boolean
  /** An answer to one of ours; undefined when none is queued. */
  receive(): EchoAnswer | undefined
  /** Calls back while something is queued, once per turn of the event loop. Can be set once. */
  onReadable(callback: () => void): void
  close(): void
}

/** Opens it. Throws a NativeError when this process may not. */
export function openEchoSocket(): EchoSocket {
  const socket = openIcmpSocket()
  if (typeof socket === 'number') throw failure('open a raw socket for pings', socket)
  try {
    // Whatever pings on this machine, the kernel gives us our own answers alone.
    const id = 1 + Math.floor(Math.random() * 65_535)
    const results = [
      socket.setOption(IPPROTO_IP, IP_HDRINCL, 1),
      socket.attachFilter(answersTo(id)),
      socket.setReceiveBuffer(RECEIVE_BUFFER),
    ]
    const failed = results.find((result) => result < 0)
    if (failed !== undefined) throw failure('set up a raw socket for pings', failed)
    return new RawEchoSocket(socket, id)
  } catch (error) {
    socket.close()
    throw error
  }
}

function failure(what: string, errno: number): NativeError {
  const code = getSystemErrorName(errno)
  return new NativeError(`${what}: ${code}`, code)
}

class RawEchoSocket implements EchoSocket {
  readonly #socket: NativeSocket
  readonly #id: number
  readonly #packet = new Uint8Array(LARGEST)
  readonly #view = new DataView(this.#packet.buffer)
  /** Of an answer, its headers are enough: 60 bytes is IPv4's longest. */
  readonly #answer = new Uint8Array(128)
  readonly #answerView = new DataView(this.#answer.buffer)

  constructor(socket: NativeSocket, id: number) {
    this.#socket = socket
    this.#id = id
    this.#packet.set([0x45, 0, 0, 0, 0, 0, IP_DF, 0, 64, IPPROTO_ICMP])
    this.#packet[IPV4_HEADER] = ECHO_REQUEST
    this.#view.setUint16(IPV4_HEADER + 4, id)
  }

  send({ to, from, size, sequence }: Echo): boolean {
    // The kernel fills in length, identification, checksum and, where it is 0, the source (raw(7)).
    this.#view.setUint32(12, from ?? 0)
    this.#view.setUint32(16, to)
    this.#view.setUint16(IPV4_HEADER + 6, sequence)
    // All else is 0 and so adds nothing (RFC 1071).
    const sum = (ECHO_REQUEST << 8) + this.#id + sequence
    this.#view.setUint16(IPV4_HEADER + 2, ~((sum & 0xffff) + (sum >>> 16)))
    return this.#socket.sendTo(this.#packet, size, to) === 0
  }

  receive(): EchoAnswer | undefined {
    if (this.#socket.receive(this.#answer) < 0) return undefined
    const header = 4 * ((this.#answer[0] ?? 0) & 15)
    return { from: this.#answerView.getUint32(12), sequence: this.#answerView.getUint16(header + 6) }
  }

  onReadable(callback: () => void): void {
    const result = this.#socket.watch(callback)
    if (result < 0) throw failure('wait for the answers to pings', result)
  }

  close(): void {
    this.#socket.close()
  }
}

/** A classic BPF program (linux/filter.h): of whole packets with ICMP in them, the echo replies with this identifier. */
function answersTo(id: number): Uint8Array {
  return bpfProgram([
    // BPF_LDX | BPF_B | BPF_MSH: the length of the IPv4 header.
    { code: 0xb1, jt: 0, jf: 0, k: 0 },
    // BPF_LD | BPF_B | BPF_IND: the type; BPF_JMP | BPF_JEQ | BPF_K.
    { code: 0x50, jt: 0, jf: 0, k: 0 },
    { code: 0x15, jt: 0, jf: 3, k: ECHO_REPLY },
    // BPF_LD | BPF_H | BPF_IND: the identifier.
    { code: 0x48, jt: 0, jf: 0, k: 4 },
    { code: 0x15, jt: 0, jf: 1, k: id },
    // BPF_RET | BPF_K
    { code: 0x06, jt: 0, jf: 0, k: 0xffff },
    { code: 0x06, jt: 0, jf: 0, k: 0 },
  ])
}
