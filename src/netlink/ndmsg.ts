import type { PayloadWriter } from './wire.ts'

// struct ndmsg { u8 ndm_family; u8 pad1; u16 pad2; s32 ndm_ifindex; u16 ndm_state; u8 ndm_flags; u8 ndm_type; }
export const NDMSG = 12

/** The struct that neighbour and FDB messages begin with; `ndm_type` stays 0. */
export function ndmsg(
  writer: PayloadWriter,
  family: number,
  index: number,
  state: number,
  flags: number,
): PayloadWriter {
  return writer.u8(family).u8(0).u16(0).u32(index).u16(state).u8(flags).u8(0)
}
