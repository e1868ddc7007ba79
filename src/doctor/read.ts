/** Reads the facts. Whatever cannot be read is left undefined. */
import { X509Certificate } from 'node:crypto'
import { readFileSync, statSync } from 'node:fs'
import { release } from 'node:os'
import { type EchoSocket, openEchoSocket } from '../icmp.ts'
import { chooseInterface, type ExternalInterface, InterfaceError, readNetworkView } from '../iface.ts'
import { type Ipv4, parseCidr, parseIpv4, type Subnet } from '../ip.ts'
import { NativeError } from '../native.ts'
import { dumpAddresses } from '../netlink/address.ts'
import { Rtnl } from '../netlink/conn.ts'
import { RT_TABLE_MAIN } from '../netlink/constants.ts'
import { NetlinkError } from '../netlink/errors.ts'
import { dumpFdb } from '../netlink/fdb.ts'
import { dumpLinks, type Link } from '../netlink/link.ts'
import { dumpNeighbours } from '../netlink/neighbour.ts'
import { dumpNexthops } from '../netlink/nexthop.ts'
import { dumpRoutes } from '../netlink/route.ts'
import { openRtnetlink } from '../netlink/socket.ts'
import type { Options } from '../options.ts'
import { pingThrough } from '../ping.ts'
import { isSound, type PeerLine, type Status } from '../status.ts'
import type { Lease } from '../subnet/lease.ts'
import { leaseKey } from '../subnet/leasecodec.ts'
import { leaseObjection } from '../subnet/validate.ts'
import { parseDotenv } from '../subnetfile.ts'
import { underlayAddresses } from '../underlay.ts'
import { roomOf } from './device.ts'
import { quiet, readEtcd } from './etcd.ts'
import {
  type DockerFacts,
  type EtcdFacts,
  type Facts,
  type FileFacts,
  type NetworkFacts,
  ownLease,
  peersOf,
  type SystemFacts,
} from './facts.ts'
import { readManagers } from './managers.ts'
import { probePeers } from './ping.ts'
import { argumentsOf, holdersOf, output, parseUdp, read, tryApart } from './programs.ts'
import { type Tunnel, tunnelHere, tunnelOf } from './tunnel.ts'

export interface Reading {
  readonly options: Options
  readonly env: Readonly<Record<string, string | undefined>>
  readonly daemon: Status | string
  /** The daemon's peers, those with something amiss first; undefined when it cannot be asked. */
  readonly peers: (limit?: number) => Promise<readonly PeerLine[] | undefined>
  /** Whether peers are pinged. */
  readonly ping: boolean
  /** Told how many peers have been asked. */
  readonly progress: ((done: number, of: number) => void) | undefined
}

export async function readFacts(reading: Reading): Promise<Facts> {
  const { options, env, daemon, peers, ping } = reading
  const [stored, firewall, first] = await Promise.all([readEtcd(options, env), readFirewall(), peers(AMISS)])
  const rtnl = new Rtnl(openRtnetlink())
  try {
    const links = rtnl.dump(dumpLinks())
    const tunnel = tunnelInUse(stored, daemon, links)
    const network = await readNetwork({ rtnl, links, options, tunnel, daemon })
    const etcd = withSkipped(rtnl, { etcd: stored, daemon, network })
    const { device } = network
    const facts: Facts = {
      now: Date.now(),
      tunnel,
      system: await readSystem(rtnl, network, tunnel),
      network,
      firewall,
      etcd,
      files: readFiles(options),
      docker: readDocker(),
      managers: readManagers({
        root: '/',
        device: device?.name ?? tunnel?.device?.name ?? '',
        types: tunnel?.device?.types ?? [],
        kind: tunnel?.device?.kind ?? '',
        index: device?.index,
        // The kernel keeps 15 bytes of a name.
        running: (program) => argumentsOf(program.slice(0, 15)).length > 0,
      }),
      daemon,
      unsound: first?.filter((peer) => !isSound(peer)),
      options,
      subnetFile: readSubnetFile(options.subnetFile),
      probes: [],
    }
    return ping ? { ...facts, probes: await probe(facts, reading) } : facts
  } finally {
    rtnl.close()
  }
}

/** Peers at most that the daemon is asked for, to see whether any is amiss. */
const AMISS = 50

/** A running daemon goes on with the backend that it started with, whatever the config says meanwhile. */
function tunnelInUse(
  { config }: EtcdFacts,
  daemon: Status | string,
  links: readonly Link[],
): Tunnel | undefined {
  const here = tunnelHere(daemon, links)
  return config === undefined ||
    (typeof daemon !== 'string' && here !== undefined && here.backend !== config.backendType)
    ? here
    : tunnelOf(config)
}

/** An own subnet that overlaps nothing, while there is none. */
const NO_SUBNET = { address: 0, length: 32 }

/** With the leases that flanneld skips, since they could only do harm, among the bad ones. */
function withSkipped(rtnl: Rtnl, facts: Pick<Facts, 'etcd' | 'daemon' | 'network'>): EtcdFacts {
  const { etcd, network } = facts
  const { config, leases } = etcd
  const { underlay } = network
  if (config === undefined || leases === undefined || typeof underlay === 'string') return etcd
  const own = ownLease(facts)
  const rules = {
    network: config.network,
    own: own?.subnet ?? NO_SUBNET,
    publicIP: underlay.publicIP,
    underlay: underlayAddresses(rtnl, underlay, config.network),
  }
  const skipped = new Set<Lease>()
  const bad = [...etcd.bad]
  for (const lease of leases) {
    const reason = lease === own ? undefined : leaseObjection(lease, rules)
    if (reason === undefined) continue
    skipped.add(lease)
    bad.push({ key: leaseKey(lease.subnet), reason })
  }
  return { ...etcd, skipped, bad }
}

/** How to make a device of each kind. */
const TRIALS: Readonly<Record<string, string>> = {
  vxlan: 'ip link add fldoctor type vxlan id 1 dstport 8472',
  ipip: 'ip link add fldoctor type ipip local 192.0.2.1',
  wireguard: 'ip link add fldoctor type wireguard',
  tun: 'ip tuntap add dev fldoctor mode tun',
}

async function readSystem(
  rtnl: Rtnl,
  { device, underlay }: NetworkFacts,
  tunnel: Tunnel | undefined,
): Promise<SystemFacts> {
  // What flannel is mostly used with, as long as nobody says what it will be.
  const kind = tunnel === undefined ? 'vxlan' : tunnel.device?.kind
  const trial = TRIALS[kind ?? '']
  const made = trial === undefined ? undefined : await tryApart(...trial.split(' '))
  const names = ['all', device?.name, typeof underlay === 'string' ? undefined : underlay.name]
  const keys = ['ipv4/ip_forward', 'bridge/bridge-nf-call-iptables']
  for (const name of names) if (name !== undefined) keys.push(`ipv4/conf/${name}/rp_filter`)
  return {
    release: release(),
    device: kind === undefined || made === undefined ? undefined : { kind, made },
    nexthops: hasNexthops(rtnl),
    sysctl: Object.fromEntries(
      keys.flatMap((key) => {
        const value = read(`/proc/sys/net/${key}`)
        return value === undefined ? [] : [[key, value.trim()]]
      }),
    ),
  }
}

async function probe(facts: Facts, { peers: ask, progress }: Reading): Promise<Facts['probes']> {
  const { tunnel } = facts
  const { underlay, device } = facts.network
  const mtu = tunnel?.device === undefined ? roomOf(facts) : device?.mtu
  if (tunnel?.answers === undefined || mtu === undefined || typeof underlay === 'string') return []
  // While etcd is away, the daemon knows who was there.
  const known =
    facts.etcd.leases === undefined
      ? ((await ask()) ?? []).flatMap(addressesOf)
      : peersOf(facts).map(({ subnet, attributes: { publicIP } }) => ({ subnet, publicIP }))
  const peers = known.map((peer) => ({
    ...peer,
    address: tunnel.answers === 'subnet' ? peer.subnet.address : peer.publicIP,
  }))
  if (peers.length === 0) return []
  let socket: EchoSocket
  try {
    socket = openEchoSocket()
  } catch (error) {
    if (error instanceof NativeError) return error.message
    throw error
  }
  try {
    const targets = { peers, mtu, source: underlay.address }
    return await probePeers(targets, pingThrough(socket), (done) => progress?.(done, peers.length))
  } finally {
    socket.close()
  }
}

function addressesOf(line: PeerLine): { readonly subnet: Subnet; readonly publicIP: Ipv4 }[] {
  const [subnet, publicIP] = [parseCidr(line.subnet), parseIpv4(line.publicIP)]
  return subnet === undefined || publicIP === undefined ? [] : [{ subnet, publicIP }]
}

function hasNexthops(rtnl: Rtnl): boolean {
  try {
    rtnl.dump(dumpNexthops())
    return true
  } catch (error) {
    if (error instanceof NetlinkError) return false
    throw error
  }
}

async function readNetwork(of: {
  readonly rtnl: Rtnl
  readonly links: readonly Link[]
  readonly options: Options
  readonly tunnel: Tunnel | undefined
  readonly daemon: Status | string
}): Promise<NetworkFacts> {
  const { rtnl, links, options, tunnel, daemon } = of
  // A TUN device may have another number than usual, which the daemon knows.
  const known = typeof daemon === 'string' ? undefined : daemon.device?.name
  const name = tunnel?.device === undefined ? undefined : (known ?? tunnel.device.name)
  const device = links.find((link) => link.name === name)
  const offload = device === undefined ? undefined : await output('ethtool', '-k', device.name)
  const assigned = device === undefined ? undefined : read(`/sys/class/net/${device.name}/addr_assign_type`)
  const port = tunnel?.udp?.port
  const sockets =
    port === undefined
      ? []
      : ['/proc/net/udp', '/proc/net/udp6'].flatMap((path) => parseUdp(read(path) ?? '', port))
  return {
    links,
    addresses: rtnl.dump(dumpAddresses({ family: 4 })),
    routes: rtnl.dump(dumpRoutes({ table: RT_TABLE_MAIN })),
    underlay: choose(rtnl, options),
    device,
    neighbours: device === undefined ? [] : rtnl.dump(dumpNeighbours({ family: 4, index: device.index })),
    fdb: device?.kind === 'vxlan' ? rtnl.dump(dumpFdb({ index: device.index })) : [],
    macAssigned: assigned === undefined ? undefined : Number(assigned),
    checksumOffload: offload === undefined ? undefined : /^tx-checksumming: on/m.test(offload),
    udp: holdersOf(sockets),
  }
}

function choose(rtnl: Rtnl, options: Options): ExternalInterface | string {
  const choice = { ifaces: options.ifaces, ifaceRegexes: options.ifaceRegexes, publicIP: options.publicIP }
  try {
    return chooseInterface(readNetworkView(rtnl), choice, quiet)
  } catch (error) {
    if (error instanceof InterfaceError) return error.message
    throw error
  }
}

async function readFirewall(): Promise<Facts['firewall']> {
  const [version, save, legacy, nft] = await Promise.all([
    output('iptables', '--version'),
    output('iptables-save'),
    output('iptables-legacy-save'),
    output('iptables-nft-save'),
  ])
  return { version: version?.trim(), save, legacy, nft }
}

function readDocker(): DockerFacts {
  let settings: unknown
  try {
    settings = JSON.parse(read('/etc/docker/daemon.json') ?? '{}')
  } catch {
    // dockerd itself says what is wrong with it.
  }
  const isObject = typeof settings === 'object' && settings !== null
  return { args: argumentsOf('dockerd')[0], settings: isObject ? { ...(settings as object) } : {} }
}

function readSubnetFile(path: string): Facts['subnetFile'] {
  const text = read(path)
  return text === undefined ? undefined : parseDotenv(text)
}

function readFiles({ etcd, subnetFile, dockerOpts, controlSocket }: Options): FileFacts[] {
  const inputs = [
    { path: etcd.keyFile, kind: 'secret', flag: '-etcd-keyfile' },
    { path: etcd.passwordFile, kind: 'secret', flag: '-etcd-password-file' },
    { path: etcd.certFile, kind: 'certificate', flag: '-etcd-certfile' },
    { path: etcd.caFile, kind: 'certificate', flag: '-etcd-cafile' },
  ] as const
  const outputs = [
    { path: subnetFile, kind: 'public', flag: '-subnet-file' },
    { path: dockerOpts?.file ?? '', kind: 'public', flag: '-docker-opts-file' },
    { path: controlSocket, kind: 'secret', flag: '-control-socket' },
  ] as const
  return [
    ...inputs.filter(({ path }) => path !== '').map(readFile),
    // What flanneld writes is not there before its first start.
    ...outputs
      .filter(({ path }) => path !== '')
      .map(readFile)
      .filter(({ error }) => error === undefined),
  ]
}

function readFile(of: Pick<FileFacts, 'path' | 'kind' | 'flag'>): FileFacts {
  try {
    const mode = statSync(of.path).mode & 0o777
    if (of.kind !== 'certificate') return { ...of, mode, error: undefined }
    const texts = readFileSync(of.path, 'utf8').match(
      /-----BEGIN CERTIFICATE-----[\s\S]*?-----END CERTIFICATE-----/g,
    )
    if (texts === null) return { ...of, mode, error: 'there is no PEM certificate in it' }
    const certificates = texts.map((text) => new X509Certificate(text))
    return {
      ...of,
      mode,
      error: undefined,
      notAfter: Math.min(...certificates.map(({ validTo }) => Date.parse(validTo))),
      notBefore: Math.max(...certificates.map(({ validFrom }) => Date.parse(validFrom))),
    }
  } catch (error) {
    return { ...of, mode: undefined, error: error instanceof Error ? error.message : String(error) }
  }
}
