import type { WireGuardKey } from '../../netlink/wireguard.ts'
import { BackendOptions } from '../options.ts'
import { decodeKey } from './key.ts'

/** The `Backend` object of the network config, for Type wireguard. */
export interface WireGuardConfig {
  /** UDP, 1..65535. */
  readonly listenPort: number
  /** Mixed into every handshake, the same on all nodes. */
  readonly presharedKey: WireGuardKey | undefined
  /** Seconds, 0 for none. */
  readonly keepalive: number
  /** Bytes that a packet between nodes may have; undefined for the interface's own. */
  readonly mtu: number | undefined
}

/** The port of the WireGuard documentation, and flannel's. */
const DEFAULT_PORT = 51_820

/** Throws a BackendError, which does not repeat a key. */
export function parseWireGuardConfig(options: Readonly<Record<string, unknown>>): WireGuardConfig {
  const read = new BackendOptions('WireGuard', options)
  const psk = read.text('PSK')
  if (psk !== undefined && decodeKey(psk) === undefined)
    throw read.wrong('PSK', 'must be 32 bytes in base64, as `wg genpsk` prints them')
  const mode = read.text('Mode') ?? 'separate'
  if (mode === 'ipv6')
    throw read.wrong('Mode', '"ipv6" needs an IPv6 underlay, which this flanneld does not have; use "auto"')
  if (!['separate', 'auto', 'ipv4'].includes(mode))
    throw read.wrong(
      'Mode',
      `${JSON.stringify(mode)}: no valid Mode configured; use "separate", "auto" or "ipv4"`,
    )
  return {
    listenPort: read.integer('ListenPort', 65_535) || DEFAULT_PORT,
    presharedKey: psk,
    keepalive: read.integer('PersistentKeepaliveInterval', 65_535) ?? 0,
    mtu: read.mtu(),
  }
}
