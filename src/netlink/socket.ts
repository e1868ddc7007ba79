import { endianness } from 'node:os'
import { bpfProgram, type NativeSocket, openNetlinkSocket } from '../native.ts'
import {
  BPF_JEQ_K,
  BPF_LD_H_ABS,
  BPF_LD_W_ABS,
  BPF_RET_K,
  NETLINK_ADD_MEMBERSHIP,
  NETLINK_CAP_ACK,
  NETLINK_EXT_ACK,
  NETLINK_GENERIC,
  NETLINK_GET_STRICT_CHK,
  NETLINK_NETFILTER,
  NETLINK_ROUTE,
  NFNLGRP_NFTABLES,
  RTM_DELROUTE,
  SOL_NETLINK,
} from './constants.ts'
import { NetlinkError } from './errors.ts'
import { NLMSG_PID_OFFSET, NLMSG_TYPE_OFFSET } from './wire.ts'

/** One netlink socket to the kernel, or to a fake one. */
export interface NetlinkSocket {
  /** The kernel's number for this socket; its notifications carry that of the socket which caused them. */
  readonly portId: number
  /** Throws a NetlinkError when the kernel does not take the datagram. */
  send(bytes: Uint8Array): void
  /**
   * One datagram, which stays as it is only until the next call, on whatever socket; undefined when nothing is queued. Throws
   * a NetlinkError, with code ENOBUFS when datagrams were lost; later calls go on with those that were not.
   */
  receive(): Uint8Array | undefined
  /** Calls back while something is queued, once per turn of the event loop; also after a loss. Can be set once. */
  onReadable(callback: () => void): void
  /** Closing twice is closing once; any other use after it throws. */
  close(): void
}

/** Room for the answers to a whole batch that the kernel refuses message by message: 64 KiB make some 1,400. */
const REQUEST_BUFFER = 4 << 20

/**
 * Room for the notifications of 60,000 changes while we are busy, twice this in the kernel's count: it takes 832
 * bytes for a neighbour, FDB entry or nexthop and 1,280 for a route. Memory is used only while they are queued.
 */
const MONITOR_BUFFER = 32 << 20

/** What is lost here is only how often something changed. */
const NFTABLES_BUFFER = 64 << 10

/** No datagram of rtnetlink is larger: it fills dumps to 32 KiB, and we ask for links without their statistics. */
const DATAGRAM = 64 << 10
/** All sockets share it: what is received is read before anything else is. */
const received = new Uint8Array(DATAGRAM)

/** A socket for requests: arguments are checked strictly, refusals explained, and requests not sent back in them. */
export function openRtnetlink(): NetlinkSocket {
  return openSocket(NETLINK_ROUTE, REQUEST_BUFFER, (socket) => {
    // Linux 4.20, 4.12 and 4.3: older kernels do not have them and are used without.
    socket.setOption(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
    socket.setOption(SOL_NETLINK, NETLINK_EXT_ACK, 1)
    socket.setOption(SOL_NETLINK, NETLINK_CAP_ACK, 1)
  })
}

/** A socket for requests to families of generic netlink, such as WireGuard's. */
export function openGenericNetlink(): NetlinkSocket {
  return openSocket(NETLINK_GENERIC, REQUEST_BUFFER, (socket) => {
    socket.setOption(SOL_NETLINK, NETLINK_EXT_ACK, 1)
    socket.setOption(SOL_NETLINK, NETLINK_CAP_ACK, 1)
  })
}

/**
 * A socket that receives the notifications of these groups (`RTNLGRP_*`). With `ignore` the kernel keeps to itself
 * what the socket with that port id caused, as far as it knows: see `Notification`. Deleted routes are told all the same:
 * which one was deleted, the kernel alone knows.
 */
export function openRtnetlinkMonitor(
  groups: readonly number[],
  options: { readonly ignore?: number; readonly receiveBuffer?: number } = {},
): NetlinkSocket {
  const { ignore, receiveBuffer = MONITOR_BUFFER } = options
  return openSocket(NETLINK_ROUTE, receiveBuffer, (socket) => {
    if (ignore !== undefined) {
      const result = socket.attachFilter(ignoreSender(ignore))
      if (result < 0) throw new NetlinkError(`filter rtnetlink notifications`, -result)
    }
    for (const group of groups) join(socket, group)
  })
}

/** A socket for requests to nf_tables. */
export function openNftables(): NetlinkSocket {
  return openSocket(NETLINK_NETFILTER, NFTABLES_BUFFER, () => undefined)
}

/** A socket that receives the notifications of nf_tables; iptables-nft writes through it. */
export function openNftablesMonitor(): NetlinkSocket {
  return openSocket(NETLINK_NETFILTER, NFTABLES_BUFFER, (socket) => join(socket, NFNLGRP_NFTABLES))
}

function join(socket: NativeSocket, group: number): void {
  const result = socket.setOption(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
  if (result < 0) throw new NetlinkError(`join netlink group ${group}`, -result)
}

/**
 * A classic BPF program that drops datagrams whose message has this `nlmsg_pid`, but for RTM_DELROUTE. Reading back what we
 * have just written costs more than the writing: 4 us for each of 45,000 entries of a resync of 15,000 peers.
 */
function ignoreSender(portId: number): Uint8Array {
  // A load takes its word for big-endian; these are in the host's order, so the constants are turned round.
  const swapped = new DataView(new ArrayBuffer(6))
  swapped.setUint32(0, portId, true)
  swapped.setUint16(4, RTM_DELROUTE, true)
  return bpfProgram([
    { code: BPF_LD_W_ABS, jt: 0, jf: 0, k: NLMSG_PID_OFFSET },
    { code: BPF_JEQ_K, jt: 0, jf: 3, k: swapped.getUint32(0) },
    { code: BPF_LD_H_ABS, jt: 0, jf: 0, k: NLMSG_TYPE_OFFSET },
    { code: BPF_JEQ_K, jt: 1, jf: 0, k: swapped.getUint16(4) },
    { code: BPF_RET_K, jt: 0, jf: 0, k: 0 },
    { code: BPF_RET_K, jt: 0, jf: 0, k: 0xffffffff },
  ])
}

function openSocket(
  protocol: number,
  receiveBuffer: number,
  configure: (socket: NativeSocket) => void,
): NetlinkSocket {
  if (endianness() !== 'LE') throw new Error('open netlink: this program does not run on big-endian machines')
  const socket = openNetlinkSocket(protocol)
  if (typeof socket === 'number') throw new NetlinkError('open netlink socket', -socket)
  try {
    socket.setReceiveBuffer(receiveBuffer)
    const portId = socket.bind()
    if (portId < 0) throw new NetlinkError('bind netlink socket', -portId)
    // Only now: bind(2) takes the socket out of the first 32 groups when it is not given them.
    configure(socket)
    return new KernelSocket(socket, portId)
  } catch (error) {
    socket.close()
    throw error
  }
}

const EAGAIN = 11
const EMSGSIZE = 90

class KernelSocket implements NetlinkSocket {
  readonly portId: number
  readonly #socket: NativeSocket

  constructor(socket: NativeSocket, portId: number) {
    this.#socket = socket
    this.portId = portId
  }

  send(bytes: Uint8Array): void {
    const result = this.#socket.send(bytes)
    if (result < 0) throw new NetlinkError('send to netlink', -result)
  }

  receive(): Uint8Array | undefined {
    const length = this.#socket.receive(received)
    if (length === -EAGAIN) return undefined
    if (length < 0) throw new NetlinkError('receive from netlink', -length)
    if (length > DATAGRAM) throw new NetlinkError('receive from netlink', EMSGSIZE, `${length} bytes`)
    return received.subarray(0, length)
  }

  onReadable(callback: () => void): void {
    const result = this.#socket.watch(callback)
    if (result < 0) throw new NetlinkError('watch netlink', -result)
  }

  close(): void {
    this.#socket.close()
  }
}
