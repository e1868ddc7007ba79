import type { MessageWriter } from './wire.ts'

/** What a noun's file makes and `Rtnl` sends: one message, and how to speak of it in an error. */
export interface NetlinkRequest {
  readonly type: number
  /** Without NLM_F_REQUEST and NLM_F_ACK, which are the connection's business. */
  readonly flags: number
  /** Of a deletion: an errno with which the kernel says "not there", beyond those that always say so. */
  readonly gone?: string | undefined
  /** Of a write: an errno with which the kernel says that what the entry leads through is not there, beyond those of its device. */
  readonly lacking?: string | undefined
  /** "write FDB entry 02:00:00:00:00:02 -> 192.0.2.2 on flannel.1"; built only when there is an error to report. */
  operation(): string
  /** Writes the payload, now or later, and the same each time. */
  encode(writer: MessageWriter): void
}

/** What all requests of one kind have in common: one value for thousands of them. */
export interface RequestKind<E> {
  readonly type: number
  readonly flags: number
  readonly gone?: string
  readonly lacking?: string
  encode(writer: MessageWriter, entry: E): void
  operation(entry: E, device: string): string
}

/**
 * A request about one entry of a table. A resync makes tens of thousands of them, of several kinds mixed: so it is small, holds
 * no function of its own, and looks the same to V8 whatever its kind. The entry must not change before it is sent.
 */
export class EntryRequest<E> implements NetlinkRequest {
  readonly type: number
  readonly flags: number
  readonly #kind: RequestKind<E>
  readonly #entry: E
  readonly #device: string

  constructor(kind: RequestKind<E>, entry: E, device: string) {
    this.type = kind.type
    this.flags = kind.flags
    this.#kind = kind
    this.#entry = entry
    this.#device = device
  }

  get gone(): string | undefined {
    return this.#kind.gone
  }

  get lacking(): string | undefined {
    return this.#kind.lacking
  }

  operation(): string {
    return this.#kind.operation(this.#entry, this.#device)
  }

  encode(writer: MessageWriter): void {
    this.#kind.encode(writer, this.#entry)
  }
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

/** Takes an entry of a dump that is being read. It may not be true yet: the dump may be interrupted, or fail. */
export type Take<T> = (entry: T) => void

/** A dump begins: returns what takes its entries. Called again each time that the dump has to start over. */
export type Begin<T> = () => Take<T>

/** Takes only what `matches`. */
export function passing<T>(matches: (entry: T) => boolean, take: Take<T>): Take<T> {
  return (entry) => {
    if (matches(entry)) take(entry)
  }
}

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
