/**
 * Generic netlink: subsystems of the kernel that have no protocol number of their own. Each is a family with a name; its
 * number, the message type, is the kernel's choice at run time. A message begins with a command instead of a struct.
 */
import { CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME, CTRL_CMD_GETFAMILY, GENL_ID_CTRL } from './constants.ts'
import type { DumpRequest } from './request.ts'
import { AttributeReader, type MessageWriter } from './wire.ts'

// struct genlmsghdr { __u8 cmd; __u8 version; __u16 reserved; }
export const GENL_HDRLEN = 4

/** Begins a payload of a family. */
export function genlHeader(writer: MessageWriter, command: number, version: number): MessageWriter {
  return writer.octets(command, version, 0, 0)
}

/** The number of a family; ENOENT when the kernel has none of that name, and no module to load for it. */
export function getFamily(name: string): DumpRequest<number> {
  return {
    type: GENL_ID_CTRL,
    flags: 0,
    encode: (writer) =>
      genlHeader(writer, CTRL_CMD_GETFAMILY, 1).attributeString(CTRL_ATTR_FAMILY_NAME, name),
    operation: () => `look up the generic netlink family ${name}`,
    decode: decodeFamily,
  }
}

function decodeFamily(bytes: Uint8Array, start = 0, end = bytes.length): number | undefined {
  const attributes = new AttributeReader().begin(bytes, start + GENL_HDRLEN, end)
  let id: number | undefined
  while (attributes.next()) if (attributes.type === CTRL_ATTR_FAMILY_ID) id = attributes.u16()
  return attributes.failed ? undefined : id
}
