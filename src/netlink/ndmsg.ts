import type { MessageWriter } from './wire.ts'

// struct ndmsg { u8 ndm_family; u8 pad1; u16 pad2; s32 ndm_ifindex; u16 ndm_state; u8 ndm_flags; u8 ndm_type; }
export const NDMSG = 12

/** The struct that neighbour and FDB messages begin with, whose other fields stay 0. */
export function ndmsg(
  writer: MessageWriter,
  family: number,
  index: number,
  state: number,
  flags: number,
): MessageWriter {
  return writer
    .u32(family)
    .u32(index)
    .u32(state | (flags << 16))
}
