/** Classic BPF, by which the kernel chooses what a socket receives (linux/filter.h, linux/bpf_common.h). */

// BPF_LD | BPF_W | BPF_ABS and the like; IND counts from the index register, MSH loads it with the length of an IPv4 header.
export const BPF_LD_W_ABS = 0x20
export const BPF_LD_H_IND = 0x48
export const BPF_LD_B_IND = 0x50
export const BPF_LDX_B_MSH = 0xb1
export const BPF_JEQ_K = 0x15
export const BPF_RET_K = 0x06

/** Returned by a program: the datagram is received, whole or not at all. */
export const BPF_TAKE = 0xffffffff
export const BPF_DROP = 0

export interface Instruction {
  readonly code: number
  readonly k: number
  /** Of a jump, how many instructions are left out. */
  readonly jt?: number
  readonly jf?: number
}

/** An array of `struct sock_filter { __u16 code; __u8 jt; __u8 jf; __u32 k; }` in little-endian order. */
export function assemble(program: readonly Instruction[]): Uint8Array {
  const bytes = new Uint8Array(8 * program.length)
  const view = new DataView(bytes.buffer)
  program.forEach(({ code, jt = 0, jf = 0, k }, i) => {
    view.setUint16(8 * i, code, true)
    view.setUint8(8 * i + 2, jt)
    view.setUint8(8 * i + 3, jf)
    view.setUint32(8 * i + 4, k, true)
  })
  return bytes
}
