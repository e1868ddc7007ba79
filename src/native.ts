/**
 * The one place that finds and loads the addon (native/flannel.c), and that checks what is passed to it: the
 * C code trusts its arguments. Results are as the C code gives them, a number that is negative for an errno,
 * because the netlink code wants the errno and not an exception.
 */
import { closeSync, constants, existsSync, openSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { getSystemErrorName } from 'node:util'

/** What the addon exports; the handle is opaque. */
interface Addon {
  open(protocol: number): object | number
  openIcmp(): object | number
  openArp(index: number): object | number
  setOption(handle: object, level: number, option: number, value: number): number
  attachFilter(handle: object, program: Uint8Array): number
  bind(handle: object): number
  send(handle: object, bytes: Uint8Array, length: number): number
  sendTo(handle: object, bytes: Uint8Array, length: number, address: number): number
  receive(handle: object, buffer: Uint8Array): number
  watch(handle: object, callback: () => void): number
  close(handle: object): void
  notify(address: Uint8Array, message: Uint8Array): number
  trim(): number
  setV8Flags(text: Uint8Array): void
  tunnelCreate(): object | number
  tunnelOpenDevice(handle: object, name: string, own: number): string | number
  tunnelBind(handle: object, address: number, port: number): number
  tunnelSetPeers(handle: object, peers: Uint8Array): number
  tunnelCounters(handle: object): number[] | number
  tunnelClose(handle: object): void
}

/** The addon is missing or does not load, or a datagram could not be sent. `code` is an errno name or Node's own. */
export class NativeError extends Error {
  override readonly name = 'NativeError'
  readonly code: string

  constructor(message: string, code: string) {
    super(message)
    this.code = code
  }
}

// asm-generic/socket.h (x86-64, arm64)
const SOL_SOCKET = 1
const SO_RCVBUF = 8
const SO_RCVBUFFORCE = 33

/** One netlink or raw socket. Every method but `close` throws once it is closed; closing twice is closing once. */
export class NativeSocket {
  readonly #addon: Addon
  #handle: object | undefined

  constructor(addon: Addon, handle: object) {
    this.#addon = addon
    this.#handle = handle
  }

  /** setsockopt(2) of an int option. Returns 0 or a negative errno. */
  setOption(level: number, option: number, value: number): number {
    return this.#addon.setOption(this.#open(), int32(level), int32(option), int32(value))
  }

  /**
   * Makes room for this many bytes of what is not received yet: beyond net.core.rmem_max that takes CAP_NET_ADMIN, and
   * without it is as much as there is to have (socket(7)). Returns 0 or a negative errno.
   */
  setReceiveBuffer(size: number): number {
    const forced = this.setOption(SOL_SOCKET, SO_RCVBUFFORCE, size)
    return forced < 0 ? this.setOption(SOL_SOCKET, SO_RCVBUF, size) : forced
  }

  /** Attaches a classic BPF program (`bpfProgram`) that says which datagrams to receive. Returns 0 or a negative errno. */
  attachFilter(program: Uint8Array): number {
    if (!(program instanceof Uint8Array)) throw new TypeError('attachFilter takes bytes')
    return this.#addon.attachFilter(this.#open(), program)
  }

  /** Binds to a port id that the kernel chooses, and returns it, or a negative errno. */
  bind(): number {
    return this.#addon.bind(this.#open())
  }

  /** Sends the first `length` bytes as one datagram, to the kernel or the link. Returns 0 or a negative errno. */
  send(bytes: Uint8Array, length: number = bytes.length): number {
    if (!(bytes instanceof Uint8Array) || !Number.isInteger(length) || length < 0 || length > bytes.length) {
      throw new TypeError('send takes bytes, and a length within them')
    }
    return this.#addon.send(this.#open(), bytes, length)
  }

  /** Sends the first `length` bytes, an IPv4 packet with its header, on its way to `address`. Returns 0 or a negative errno. */
  sendTo(bytes: Uint8Array, length: number, address: number): number {
    if (!(bytes instanceof Uint8Array) || !Number.isInteger(length) || length < 0 || length > bytes.length) {
      throw new TypeError('sendTo takes bytes, and a length within them')
    }
    return this.#addon.sendTo(this.#open(), bytes, length, uint32(address))
  }

  /**
   * Receives one datagram into `buffer` without waiting. Returns its length, which is more than
   * the buffer's when it was cut short, or a negative errno (EAGAIN: nothing is queued).
   */
  receive(buffer: Uint8Array): number {
    if (!(buffer instanceof Uint8Array)) throw new TypeError('receive takes a buffer')
    return this.#addon.receive(this.#open(), buffer)
  }

  /**
   * Calls back while there is something to receive, once per turn of the event loop, and keeps the process
   * alive until the socket is closed. Can be set once. Returns 0 or a negative errno.
   */
  watch(callback: () => void): number {
    if (typeof callback !== 'function') throw new TypeError('watch takes a function')
    return this.#addon.watch(this.#open(), callback)
  }

  close(): void {
    if (this.#handle !== undefined) this.#addon.close(this.#handle)
    this.#handle = undefined
  }

  #open(): object {
    if (this.#handle === undefined) throw new Error('the socket is closed')
    return this.#handle
  }
}

/** One instruction of classic BPF (linux/filter.h). */
export interface BpfInstruction {
  readonly code: number
  /** Instructions to skip when a jump's condition is true, and when it is not. */
  readonly jt: number
  readonly jf: number
  readonly k: number
}

/** A classic BPF program as the kernel takes it. */
export function bpfProgram(instructions: readonly BpfInstruction[]): Uint8Array {
  // struct sock_filter { __u16 code; __u8 jt; __u8 jf; __u32 k; }
  const bytes = new Uint8Array(8 * instructions.length)
  const view = new DataView(bytes.buffer)
  for (const [i, { code, jt, jf, k }] of instructions.entries()) {
    view.setUint16(8 * i, code, true)
    bytes.set([jt, jf], 8 * i + 2)
    view.setUint32(8 * i + 4, k, true)
  }
  return bytes
}

/** Opens a netlink socket of a protocol (`NETLINK_ROUTE` ...), not bound yet. Returns it or a negative errno. */
export function openNetlinkSocket(protocol: number, addon: Addon = loadAddon()): NativeSocket | number {
  const handle = addon.open(int32(protocol))
  return typeof handle === 'number' ? handle : new NativeSocket(addon, handle)
}

/** Opens a raw socket for ICMP in IPv4. It receives whole packets. Returns it or a negative errno. */
export function openIcmpSocket(addon: Addon = loadAddon()): NativeSocket | number {
  const handle = addon.openIcmp()
  return typeof handle === 'number' ? handle : new NativeSocket(addon, handle)
}

/** Opens a raw socket for the ARP frames of one interface. Returns it or a negative errno. */
export function openArpSocket(index: number, addon: Addon = loadAddon()): NativeSocket | number {
  const handle = addon.openArp(int32(index))
  return typeof handle === 'number' ? handle : new NativeSocket(addon, handle)
}

/** What the data path has done so far, in the order of `enum counter` in native/udp_tunnel.h. */
const TUNNEL_COUNTERS = [
  'sentPackets',
  'sentBytes',
  'receivedPackets',
  'receivedBytes',
  'strangers',
  'foreign',
  'malformed',
  'unreachable',
  'expired',
  'sendErrors',
  'unusable',
  'writeErrors',
  'lastOffender',
] as const

export type TunnelCounters = Readonly<Record<(typeof TUNNEL_COUNTERS)[number], number>>

/**
 * The data path of the udp backend (native/udp_tunnel.h): a TUN device, a UDP socket and a thread between them, which
 * runs while it has both. Every method but `close` throws once it is closed; closing twice is closing once.
 */
export class NativeTunnel {
  readonly #addon: Addon
  #handle: object | undefined

  constructor(addon: Addon, handle: object) {
    this.#addon = addon
    this.#handle = handle
  }

  /**
   * Makes a TUN device of that name, or of the first free one after the pattern `<name>%d`, in the place of the one there
   * was. ICMP errors about packets come from `own`, an IPv4 address. Returns its name or a negative errno.
   */
  openDevice(name: string, own: number): string | number {
    // IFNAMSIZ, with the final NUL.
    if (!/^[\x21-\x7e]{1,15}$/.test(name)) throw new TypeError(`${JSON.stringify(name)} is no device's name`)
    return this.#addon.tunnelOpenDevice(this.#open(), name, uint32(own))
  }

  /** Binds the UDP socket anew; peers are sent to at the same port. Returns 0 or a negative errno, and is then unbound. */
  bind(address: number, port: number): number {
    if (uint32(port) > 65_535) throw new TypeError(`${port} is no port`)
    return this.#addon.tunnelBind(this.#open(), uint32(address), port)
  }

  /**
   * All peers, three numbers each: the first and last address of a subnet, which overlaps no other, and the host it is
   * reached by. Takes effect at the thread's next turn. Returns 0 or a negative errno.
   */
  setPeers(peers: Uint32Array): number {
    if (!(peers instanceof Uint32Array) || peers.length % 3 !== 0)
      throw new TypeError('setPeers takes three 32-bit numbers a peer')
    const bytes = new Uint8Array(peers.buffer, peers.byteOffset, peers.byteLength)
    return this.#addon.tunnelSetPeers(this.#open(), bytes)
  }

  counters(): TunnelCounters {
    const counts = this.#addon.tunnelCounters(this.#open())
    if (typeof counts === 'number') throw new Error(`read the tunnel's counters: errno ${-counts}`)
    const named = TUNNEL_COUNTERS.map((name, i) => [name, counts[i] ?? 0] as const)
    // Object.fromEntries does not know which names it got.
    return Object.fromEntries(named) as TunnelCounters
  }

  /** The device goes with it. */
  close(): void {
    if (this.#handle !== undefined) this.#addon.tunnelClose(this.#handle)
    this.#handle = undefined
  }

  #open(): object {
    if (this.#handle === undefined) throw new Error('the tunnel is closed')
    return this.#handle
  }
}

/** Makes a tunnel that has no ends yet. Throws a NativeError when there is no memory or no descriptor for it. */
export function createTunnel(addon: Addon = loadAddon()): NativeTunnel {
  const handle = addon.tunnelCreate()
  if (typeof handle === 'number')
    throw new NativeError(`create the tunnel: ${getSystemErrorName(handle)}`, getSystemErrorName(handle))
  return new NativeTunnel(addon, handle)
}

/**
 * Sends one datagram to a unix socket, without waiting; `address` is a path, or a name in the abstract
 * namespace behind an `@`, as in `$NOTIFY_SOCKET`. Throws a NativeError with the errno's name as `code`.
 */
export function notify(address: string, message: string, addon: Addon = loadAddon()): void {
  if (typeof address !== 'string' || typeof message !== 'string')
    throw new TypeError('notify takes two strings')
  const path = Buffer.from(address.startsWith('@') ? `\0${address.slice(1)}` : address)
  const errno = addon.notify(path, Buffer.from(message))
  if (errno < 0)
    throw new NativeError(`notify ${address}: ${getSystemErrorName(errno)}`, getSystemErrorName(errno))
}

let loaded: Addon | undefined

/** Collects garbage, and gives back to the kernel what malloc holds free and the pages of Node's own code. */
export function trim(addon: Addon = loadAddon()): void {
  addon.trim()
}

/** Sets flags of V8 while it runs, such as `--no-turbofan`; one that it does not know makes it complain on stderr, no more. */
export function setV8Flags(flags: string, addon: Addon = loadAddon()): void {
  addon.setV8Flags(Buffer.from(flags))
}

/**
 * Loads the addon at its first use: out of the single executable, from beside the program (`dist/`), or from where `make
 * build` puts it.
 */
export function loadAddon(path?: string): Addon {
  if (path !== undefined) return requireAddon(path)
  loaded ??= embeddedAddon()
  if (loaded === undefined) {
    // A bundle in CommonJS form has no import.meta.dirname; then the program is what runs.
    const here = import.meta.dirname ?? dirname(process.execPath)
    const candidates = [join(here, 'flannel.node'), join(here, '../build/native/flannel.node')]
    const found = candidates.find((candidate) => existsSync(candidate))
    if (found === undefined) {
      throw new NativeError(
        `load the netlink addon: neither ${candidates.join(' nor ')} exists; run make build`,
        'ENOENT',
      )
    }
    loaded = requireAddon(found)
  }
  return loaded
}

/** open(2): a file without a name. The value is that of asm-generic/fcntl.h, which x86 and arm64 share. */
const O_TMPFILE = 0o20000000 | constants.O_DIRECTORY
/** Where such a file may be: in memory, else where root alone writes. Any of them can be mounted read-only or noexec. */
const FOLDERS = ['/dev/shm', '/run', dirname(process.execPath), '/var/lib']

/**
 * The addon inside the single executable, if this is one. dlopen(3) wants a file, so it gets one that has no name: no other
 * user can open or replace it, and nothing is left behind. (memfd_create(2) would do the same, but takes an addon to call.)
 */
function embeddedAddon(): Addon | undefined {
  const { isSea, getRawAsset } = process.getBuiltinModule('node:sea')
  if (!isSea()) return undefined
  const failures: string[] = []
  for (const folder of FOLDERS) {
    let fd: number | undefined
    try {
      // O_EXCL: it can never be given a name.
      fd = openSync(folder, O_TMPFILE | constants.O_EXCL | constants.O_RDWR, 0o700)
      writeFileSync(fd, new Uint8Array(getRawAsset('flannel.node')))
      return openAddon(`/proc/self/fd/${fd}`)
    } catch (error) {
      failures.push(`${folder}: ${error instanceof Error ? error.message : String(error)}`)
    } finally {
      if (fd !== undefined) closeSync(fd)
    }
  }
  throw new NativeError(
    `load the netlink addon: no folder takes a file to run it from (${failures.join('; ')}); mount one of them writable ` +
      'and without noexec',
    'EACCES',
  )
}

function openAddon(path: string): Addon {
  const module = { exports: {} }
  process.dlopen(module, path)
  // What it exports is fixed by the C code that was built with this.
  return module.exports as Addon
}

function requireAddon(path: string): Addon {
  try {
    return openAddon(path)
  } catch (cause) {
    const { message, code } = cause as NodeJS.ErrnoException
    throw new NativeError(
      `load the netlink addon: ${message.split('\n')[0]}; run make build`,
      code ?? 'EINVAL',
    )
  }
}

function int32(value: number): number {
  if (!Number.isInteger(value) || value !== (value | 0)) throw new TypeError(`${value} is no 32-bit integer`)
  return value
}

function uint32(value: number): number {
  if (value !== value >>> 0) throw new TypeError(`${value} is no unsigned 32-bit integer`)
  return value
}
