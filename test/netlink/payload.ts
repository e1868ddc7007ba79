import type { NetlinkRequest } from '../../src/netlink/request.ts'
import { MessageWriter } from '../../src/netlink/wire.ts'

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
