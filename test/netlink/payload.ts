import type { NetlinkRequest } from '../../src/netlink/request.ts'
import { align, MessageWriter, type NetlinkMessage, NLMSG_HDRLEN } from '../../src/netlink/wire.ts'

/** The bytes that `write` writes, into a buffer that was full of something else; tried again with a larger one if need be. */
export function encodePayload(write: (writer: MessageWriter) => unknown, capacity = 256): Uint8Array {
  const bytes = new Uint8Array(capacity).fill(0xaa)
  const writer = new MessageWriter(bytes)
  write(writer)
  return writer.length <= capacity ? bytes.subarray(0, writer.length) : encodePayload(write, writer.length)
}

/** The payload of a request. */
export function payloadOf(request: NetlinkRequest): Uint8Array {
  return encodePayload((writer) => request.encode(writer))
}

/** The same request with other flags. */
export function withFlags(request: NetlinkRequest, flags: number): NetlinkRequest {
  const { type } = request
  return {
    type,
    flags,
    operation: () => request.operation(),
    encode: (writer) => request.encode(writer),
  }
}

/** One message as a datagram of its own. */
export function encodeMessage({ type, flags, sequence, portId, payload }: NetlinkMessage): Uint8Array {
  const bytes = Buffer.alloc(NLMSG_HDRLEN + align(payload.length))
  bytes.writeUInt32LE(NLMSG_HDRLEN + payload.length, 0)
  bytes.writeUInt16LE(type, 4)
  bytes.writeUInt16LE(flags, 6)
  bytes.writeUInt32LE(sequence, 8)
  bytes.writeUInt32LE(portId, 12)
  bytes.set(payload, NLMSG_HDRLEN)
  return bytes
}
