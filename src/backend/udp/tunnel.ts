/** The data path in the addon, with its refusals in words. */
import { getSystemErrorName } from 'node:util'
import { formatIpv4, type Ipv4 } from '../../ip.ts'
import { createTunnel as createNative, type TunnelCounters } from '../../native.ts'
import { DeviceError } from '../model.ts'

export type { TunnelCounters }

/** Where a subnet is reached. */
export interface Forwarding {
  readonly first: Ipv4
  readonly last: Ipv4
  readonly host: Ipv4
}

/** A TUN device and a UDP socket, with the packets between them. Whoever holds it closes it. */
export interface Tunnel {
  /**
   * Makes the TUN device after a pattern such as `flannel%d`, in the place of the one it had, and returns its name;
   * ICMP errors come from `own`. Throws DeviceError.
   */
  openDevice(pattern: string, own: Ipv4): string
  /** Binds the socket anew. Throws DeviceError, and is then not bound. */
  bind(address: Ipv4, port: number): void
  /** The whole list of peers; their subnets do not overlap. */
  setPeers(peers: readonly Forwarding[]): void
  counters(): TunnelCounters
  close(): void
}

const DEVICE_REMEDY: Readonly<Record<string, string>> = {
  ENOENT:
    'load the kernel module (modprobe tun); a container needs the device passed in (--device /dev/net/tun)',
  ENODEV: 'load the kernel module (modprobe tun)',
  EPERM: 'flanneld must run as root or with CAP_NET_ADMIN',
  EACCES: 'flanneld must run as root or with CAP_NET_ADMIN',
}

/** Throws a NativeError when the addon is missing or there is no memory. */
export function createTunnel(): Tunnel {
  const native = createNative()
  return {
    openDevice(pattern, own) {
      const name = native.openDevice(pattern, own)
      if (typeof name === 'string') return name
      const code = getSystemErrorName(name)
      const remedy = DEVICE_REMEDY[code] ?? 'look at the kernel log'
      throw new DeviceError(`open a TUN device by /dev/net/tun: ${code}; ${remedy}`)
    },
    bind(address, port) {
      const errno = native.bind(address, port)
      if (errno === 0) return
      const code = getSystemErrorName(errno)
      const remedy =
        code === 'EADDRINUSE'
          ? 'another process has it (another flanneld?); stop that, or set Port in the network config on all nodes'
          : code === 'EADDRNOTAVAIL'
            ? 'no interface has this address now'
            : 'look at the kernel log'
      throw new DeviceError(
        `failed to start listening on UDP socket ${formatIpv4(address)}:${port}: ${code}; ${remedy}`,
      )
    },
    setPeers(peers) {
      const numbers = new Uint32Array(3 * peers.length)
      for (const [i, { first, last, host }] of peers.entries()) numbers.set([first, last, host], 3 * i)
      const errno = native.setPeers(numbers)
      if (errno !== 0)
        throw new Error(`hand ${peers.length} peers to the tunnel: ${getSystemErrorName(errno)}`)
    },
    counters: () => native.counters(),
    close: () => native.close(),
  }
}
