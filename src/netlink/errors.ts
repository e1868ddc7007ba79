import { constants } from 'node:os'

const names = new Map<number, string>()
for (const [name, errno] of Object.entries(constants.errno)) if (!names.has(errno)) names.set(errno, name)

/** The name of a positive errno, `ENODEV`; `E<number>` for those that libc does not know (524, ENOTSUPP). */
export function errnoName(errno: number): string {
  return names.get(errno) ?? `E${errno}`
}

/**
 * The kernel refused a request, or its answer was lost. The message is one line: what was tried and on what,
 * the errno's name, and the kernel's own words when it gave some.
 */
export class NetlinkError extends Error {
  override readonly name = 'NetlinkError'
  /** What was tried: "write FDB entry 02:00:00:00:00:02 -> 192.0.2.2 on flannel.1". */
  readonly operation: string
  /** Positive. */
  readonly errno: number
  /** The errno's name. */
  readonly code: string
  /** The text of the extended acknowledgement, "Cannot change port." */
  readonly kernelMessage: string | undefined

  constructor(operation: string, errno: number, kernelMessage?: string) {
    const code = errnoName(errno)
    super(`${operation}: ${code}${kernelMessage === undefined ? '' : `: ${kernelMessage}`}`)
    this.operation = operation
    this.errno = errno
    this.code = code
    this.kernelMessage = kernelMessage
  }

  /** Whether what was to be deleted or read is not there: no entry, route, address or device of that kind. */
  get notFound(): boolean {
    return ['ENOENT', 'ESRCH', 'EADDRNOTAVAIL', 'ENODEV'].includes(this.code)
  }
}
