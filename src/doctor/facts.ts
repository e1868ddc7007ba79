/**
 * What the checks look at: plain values, read once beforehand, so that a check is a pure function and a table can test it.
 * undefined means that it could not be found out, and then nothing is said of it: unknown is neither well nor broken.
 */
import type { ExternalInterface } from '../iface.ts'
import { formatSubnet } from '../ip.ts'
import type { Address } from '../netlink/address.ts'
import type { FdbEntry } from '../netlink/fdb.ts'
import type { Link } from '../netlink/link.ts'
import type { Neighbour } from '../netlink/neighbour.ts'
import type { Route } from '../netlink/route.ts'
import type { PeerLine, Status } from '../status.ts'
import type { NetworkConfig } from '../subnet/config.ts'
import type { BadLease, Lease } from '../subnet/lease.ts'
import type { PeerProbe } from './ping.ts'
import { isPeer, type Tunnel } from './tunnel.ts'

export interface Facts {
  /** Milliseconds since the epoch. */
  readonly now: number
  /** What the backend makes of a node; undefined when nobody says which backend it is. */
  readonly tunnel: Tunnel | undefined
  readonly system: SystemFacts
  readonly network: NetworkFacts
  readonly firewall: FirewallFacts
  readonly etcd: EtcdFacts
  readonly files: readonly FileFacts[]
  readonly docker: DockerFacts | undefined
  readonly managers: ManagerFacts
  /** The running daemon's status, or why it cannot be asked. */
  readonly daemon: Status | string
  readonly options: {
    readonly subnetFile: string
    readonly ipMasq: boolean
    readonly forwardRules: boolean
  }
  /** subnet.env: its variables; a text says why it cannot be read, undefined that there is none. */
  readonly subnetFile: ReadonlyMap<string, string> | string | undefined
  /** Some of the peers that the running daemon finds amiss; undefined when it cannot be asked. */
  readonly unsound: readonly PeerLine[] | undefined
  /** Empty when nobody was to be pinged; a text says why it cannot be done. */
  readonly probes: readonly PeerProbe[] | string
}

export interface SystemFacts {
  /** uname -r */
  readonly release: string
  /** Whether a device as the tunnel has it could be made in a network namespace of its own, or why not. */
  readonly device: { readonly kind: string; readonly made: true | string } | undefined
  readonly nexthops: boolean
  /** /proc/sys/net, by path below it; a missing key is no file. */
  readonly sysctl: Readonly<Partial<Record<string, string>>>
}

export interface NetworkFacts {
  readonly links: readonly Link[]
  readonly addresses: readonly Address[]
  /** IPv4, main table. */
  readonly routes: readonly Route[]
  /** What carries the tunnel, or why none could be chosen. */
  readonly underlay: ExternalInterface | string
  /** The tunnel's. */
  readonly device: Link | undefined
  /** Of the device. */
  readonly neighbours: readonly Neighbour[]
  readonly fdb: readonly FdbEntry[]
  /** /sys/class/net/<device>/addr_assign_type: 3 is "set by user space". */
  readonly macAssigned: number | undefined
  /** `ethtool -k` says that the device leaves checksums to the hardware. */
  readonly checksumOffload: boolean | undefined
  readonly udp: readonly UdpSocket[]
}

/** A UDP socket on the tunnel's port that a program holds; the kernel's own are not among them. */
export interface UdpSocket {
  readonly name: string
  readonly pid: number
}

/** undefined where the program is missing or fails. */
export interface FirewallFacts {
  readonly version: string | undefined
  readonly save: string | undefined
  readonly legacy: string | undefined
  readonly nft: string | undefined
}

export interface EtcdFacts {
  /** Endpoint that the mends name. */
  readonly endpoint: string
  readonly prefix: string
  readonly error: string | undefined
  readonly config: NetworkConfig | undefined
  readonly configError: string | undefined
  readonly leases: readonly Lease[] | undefined
  /** Those of the leases that flanneld makes nothing of; `bad` has the reasons. */
  readonly skipped: ReadonlySet<Lease>
  readonly bad: readonly BadLease[]
  /** Seconds that this clock is ahead of etcd's, as far as its whole seconds tell. */
  readonly skewSeconds: number | undefined
  readonly secure: boolean
}

export interface FileFacts {
  readonly path: string
  /** Who may do what with it: a secret is its owner's alone, a public one is for all to read, nobody else writes either. */
  readonly kind: 'secret' | 'public' | 'certificate'
  readonly flag: string
  /** Permission bits; undefined with `error`. */
  readonly mode: number | undefined
  readonly error: string | undefined
  /** Milliseconds since the epoch; of certificates, the one that ends first. */
  readonly notAfter?: number
  readonly notBefore?: number
}

export interface DockerFacts {
  /** dockerd's arguments, and /etc/docker/daemon.json as far as it is an object. */
  readonly args: readonly string[] | undefined
  readonly settings: Readonly<Record<string, unknown>>
}

export interface ManagerFacts {
  /** .network files that would match the device, when systemd-networkd runs. */
  readonly networkd: readonly string[] | undefined
  /** NetworkManager runs, and this says whether it keeps off the device. */
  readonly networkManager: 'managed' | 'unmanaged' | undefined
  /** MACAddressPolicy of the .link file that applies to the device. */
  readonly macPolicy: { readonly file: string; readonly policy: string } | undefined
}

/** This node's lease: the daemon's, else the one that has this node's public address. */
export function ownLease({
  daemon,
  etcd,
  network: { underlay },
}: Pick<Facts, 'daemon' | 'etcd' | 'network'>): Lease | undefined {
  const held = typeof daemon === 'string' ? undefined : daemon.lease?.subnet
  const leases = etcd.leases ?? []
  const own = leases.find(({ subnet }) => formatSubnet(subnet) === held)
  if (own !== undefined || typeof underlay === 'string') return own
  return leases.find(({ attributes }) => attributes.publicIP === underlay.publicIP)
}

/** All leases but this node's, and those that are skipped. */
export function othersOf(facts: Facts): readonly Lease[] {
  const own = ownLease(facts)
  const { leases = [], skipped } = facts.etcd
  return leases.filter((lease) => lease !== own && !skipped.has(lease))
}

/** Those of them that the backend makes something of. */
export function peersOf(facts: Facts): readonly Lease[] {
  const { tunnel } = facts
  return tunnel === undefined ? [] : othersOf(facts).filter((lease) => isPeer(tunnel, lease))
}

/** Whether a flanneld runs, or has run, on this node: what is amiss before the first start is no fault. */
export function isInstalled(facts: Facts): boolean {
  return (
    typeof facts.daemon !== 'string' || facts.network.device !== undefined || facts.subnetFile !== undefined
  )
}
