/**
 * What each backend puts on a node, as far as the checks go by it: an account of its own, that shares nothing with the daemon's.
 * docs/backends has the same in words.
 */
import { BackendError } from '../backend/backend.ts'
import { BackendOptions } from '../backend/options.ts'
import { parseVxlanConfig, type VxlanConfig } from '../backend/vxlan/config.ts'
import { parseWireGuardConfig } from '../backend/wireguard/config.ts'
import type { Link } from '../netlink/link.ts'
import type { Status } from '../status.ts'
import type { NetworkConfig } from '../subnet/config.ts'
import type { Lease } from '../subnet/lease.ts'

export interface Tunnel {
  /** `Type` of the network config. */
  readonly backend: string
  /** undefined: peers are reached without one. */
  readonly device:
    | {
        readonly name: string
        /** As `ip -d link` calls it. */
        readonly kind: string
        /** What systemd.network(5) matches by Type=. */
        readonly types: readonly string[]
      }
    | undefined
  /** UDP between the nodes, and the option of the config that sets it. */
  readonly udp: { readonly port: number; readonly option: string } | undefined
  /** Bytes of outer headers around a packet. */
  readonly overhead: number
  /** Bytes that a packet between nodes may have by the config; `canLimit`: whether there is such an option. */
  readonly mtu: number | undefined
  readonly canLimit: boolean
  /** What answers a ping for a peer: the first address of its subnet, its public address, or nobody knows. */
  readonly answers: 'subnet' | 'node' | undefined
  /** How pods of other nodes are routed to. */
  readonly routes: 'onlink' | 'gateway' | 'network' | undefined
  readonly directRouting: boolean
  readonly vxlan: VxlanConfig | undefined
}

const BARE: Tunnel = {
  backend: '',
  device: undefined,
  udp: undefined,
  overhead: 0,
  mtu: undefined,
  canLimit: false,
  answers: undefined,
  routes: undefined,
  directRouting: false,
  vxlan: undefined,
}

/** Ethernet, IPv4, UDP and VXLAN (RFC 7348); IPv4 and UDP; IPv4 (RFC 2003); IPv6, UDP and WireGuard, as flannel counts. */
const OVERHEAD = { vxlan: 50, udp: 28, ipip: 20, wireguard: 80 }

type Options = Readonly<Record<string, unknown>>

const BY_TYPE: Readonly<Record<string, (options: Options) => Tunnel>> = {
  vxlan: (options) => {
    const vxlan = parseVxlanConfig(options)
    return {
      backend: 'vxlan',
      device: { name: `flannel.${vxlan.vni}`, kind: 'vxlan', types: ['ether', 'vxlan'] },
      udp: { port: vxlan.port, option: 'Port' },
      overhead: OVERHEAD.vxlan,
      mtu: vxlan.mtu,
      canLimit: true,
      answers: 'subnet',
      routes: 'onlink',
      directRouting: vxlan.directRouting,
      vxlan,
    }
  },
  'host-gw': () => ({ ...BARE, backend: 'host-gw', answers: 'node', routes: 'gateway' }),
  udp: (options) => ({
    ...BARE,
    backend: 'udp',
    device: { name: 'flannel0', kind: 'tun', types: ['none'] },
    udp: { port: new BackendOptions('UDP', options).integer('Port', 65_535) || 8285, option: 'Port' },
    overhead: OVERHEAD.udp,
    answers: 'subnet',
    routes: 'network',
  }),
  ipip: (options) => ({
    ...BARE,
    backend: 'ipip',
    device: { name: 'flannel.ipip', kind: 'ipip', types: ['tunnel', 'ipip'] },
    overhead: OVERHEAD.ipip,
    answers: 'subnet',
    routes: 'gateway',
    directRouting: new BackendOptions('IPIP', options).boolean('DirectRouting'),
  }),
  wireguard: (options) => {
    const { listenPort, mtu } = parseWireGuardConfig(options)
    return {
      ...BARE,
      backend: 'wireguard',
      device: { name: 'flannel-wg', kind: 'wireguard', types: ['wireguard', 'none'] },
      udp: { port: listenPort, option: 'ListenPort' },
      overhead: OVERHEAD.wireguard,
      mtu,
      canLimit: true,
      answers: 'subnet',
      routes: 'network',
    }
  },
  extension: () => ({ ...BARE, backend: 'extension' }),
  alloc: () => ({ ...BARE, backend: 'alloc' }),
}

/** Of the config in etcd. Throws a BackendError for a type or options that are no good. */
export function tunnelOf({ backendType, backend }: Pick<NetworkConfig, 'backendType' | 'backend'>): Tunnel {
  const make = BY_TYPE[backendType]
  if (make !== undefined) return make(backend)
  throw new BackendError(
    `unknown or unsupported backend type "${backendType}"; this flanneld has ${Object.keys(BY_TYPE).join(', ')}`,
  )
}

/** Without etcd: what the running daemon says of itself, else what a vxlan device that is left here tells. */
export function tunnelHere(daemon: Status | string, links: readonly Link[]): Tunnel | undefined {
  if (typeof daemon !== 'string') {
    const { vni, port, gbp, directRouting } = daemon.device?.details ?? {}
    const backend = { VNI: vni, Port: port, ListenPort: port, GBP: gbp, DirectRouting: directRouting }
    return daemon.network === null ? undefined : tunnelOf({ backendType: daemon.network.backend, backend })
  }
  const left = links.find(({ name, kind }) => kind === 'vxlan' && /^flannel\.\d+$/.test(name))?.vxlan
  const backend = { VNI: left?.vni, Port: left?.port, GBP: left?.gbp }
  return left === undefined ? undefined : tunnelOf({ backendType: 'vxlan', backend })
}

/** Whether this backend makes something of a lease: udp of any, as flannel's. */
export function isPeer({ backend, routes }: Tunnel, { attributes }: Lease): boolean {
  return backend === 'udp' || routes === undefined || attributes.backendType === backend
}
