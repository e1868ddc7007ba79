/** What a noun's file makes and `Rtnl` sends: one message, and how to speak of it in an error. */
export interface NetlinkRequest {
  readonly type: number
  /** Without NLM_F_REQUEST and NLM_F_ACK, which are the connection's business. */
  readonly flags: number
  readonly payload: Uint8Array
  /** Of a deletion: an errno with which the kernel says "not there", beyond those that always say so. */
  readonly gone?: string
  /** "write FDB entry 02:00:00:00:00:02 -> 192.0.2.2 on flannel.1"; built only when there is an error to report. */
  readonly operation: () => string
}

/** A request that is answered with entries, and how to read one. */
export interface DumpRequest<T> extends NetlinkRequest {
  /** The errno with which the kernel says "there are none", such as ENOENT for a routing table not yet made. */
  readonly none?: string
  readonly decode: Decode<T>
}

/**
 * Reads the entry whose payload is `bytes` from `start` to `end`, all of them unless told. Undefined for an entry of another
 * kind, and for one that cannot be read. Never throws.
 */
export type Decode<T> = (bytes: Uint8Array, start?: number, end?: number) => T | undefined

/**
 * A decoder that passes only what `matches`. The kernel filters dumps, but before Linux 4.20 it ignored some
 * filters without a word; what is not asked for must not be taken for ours.
 */
export function only<T>(decode: Decode<T>, matches: (entry: T) => boolean): Decode<T> {
  return (bytes, start, end) => {
    const entry = decode(bytes, start, end)
    return entry !== undefined && matches(entry) ? entry : undefined
  }
}
