/** Reads the facts. Whatever cannot be read is left undefined. */
import { X509Certificate } from 'node:crypto'
import { readFileSync, statSync } from 'node:fs'
import { release } from 'node:os'
import { type EchoSocket, openEchoSocket } from '../icmp.ts'
import { chooseInterface, type ExternalInterface, InterfaceError, readNetworkView } from '../iface.ts'
import { NativeError } from '../native.ts'
import { dumpAddresses } from '../netlink/address.ts'
import { Rtnl } from '../netlink/conn.ts'
import { RT_TABLE_MAIN } from '../netlink/constants.ts'
import { NetlinkError } from '../netlink/errors.ts'
import { dumpFdb } from '../netlink/fdb.ts'
import { dumpLinks } from '../netlink/link.ts'
import { dumpNeighbours } from '../netlink/neighbour.ts'
import { dumpNexthops } from '../netlink/nexthop.ts'
import { dumpRoutes } from '../netlink/route.ts'
import { openRtnetlink } from '../netlink/socket.ts'
import type { Options } from '../options.ts'
import { pingThrough } from '../ping.ts'
import type { Status } from '../status.ts'
import { parseDotenv } from '../subnetfile.ts'
import { quiet, readEtcd } from './etcd.ts'
import {
  type DockerFacts,
  deviceName,
  type EtcdFacts,
  type Facts,
  type FileFacts,
  type NetworkFacts,
  peersOf,
} from './facts.ts'
import { readManagers } from './managers.ts'
import { probePeers } from './ping.ts'
import { argumentsOf, holdersOf, output, parseUdp, read, tryApart } from './programs.ts'

export interface Reading {
  readonly options: Options
  readonly env: Readonly<Record<string, string | undefined>>
  readonly daemon: Status | string
  /** Whether peers are pinged. */
  readonly ping: boolean
  /** Told how many peers have been asked. */
  readonly progress: ((done: number, of: number) => void) | undefined
}

export async function readFacts({ options, env, daemon, ping, progress }: Reading): Promise<Facts> {
  const [etcd, vxlan, firewall] = await Promise.all([
    readEtcd(options, env),
    tryApart('ip', 'link', 'add', 'fldoctor', 'type', 'vxlan', 'id', '1', 'dstport', '8472'),
    readFirewall(),
  ])
  const rtnl = new Rtnl(openRtnetlink())
  try {
    const network = await readNetwork(rtnl, options, etcd)
    const { device, underlay } = network
    const names = ['all', device?.name, typeof underlay === 'string' ? undefined : underlay.name]
    const keys = ['ipv4/ip_forward', 'bridge/bridge-nf-call-iptables']
    for (const name of names) if (name !== undefined) keys.push(`ipv4/conf/${name}/rp_filter`)
    const facts: Facts = {
      now: Date.now(),
      system: {
        release: release(),
        vxlan,
        nexthops: hasNexthops(rtnl),
        sysctl: Object.fromEntries(
          keys.flatMap((key) => {
            const value = read(`/proc/sys/net/${key}`)
            return value === undefined ? [] : [[key, value.trim()]]
          }),
        ),
      },
      network,
      firewall,
      etcd,
      files: readFiles(options),
      docker: readDocker(),
      managers: readManagers({
        root: '/',
        device: deviceName({ etcd }),
        index: device?.index,
        // The kernel keeps 15 bytes of a name.
        running: (program) => argumentsOf(program.slice(0, 15)).length > 0,
      }),
      daemon,
      options,
      subnetFile: readSubnetFile(options.subnetFile),
      probes: [],
    }
    return ping ? { ...facts, probes: await probe(facts, progress) } : facts
  } finally {
    rtnl.close()
  }
}

async function probe(facts: Facts, progress: Reading['progress']): Promise<Facts['probes']> {
  const { device, underlay } = facts.network
  if (device === undefined || typeof underlay === 'string' || facts.etcd.vxlan === undefined) return []
  const peers = peersOf(facts).map(({ subnet, attributes }) => ({
    subnet,
    publicIP: attributes.publicIP,
    address: subnet.address,
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
    const targets = { peers, mtu: device.mtu, source: underlay.address }
    return await probePeers(targets, pingThrough(socket), (done) => progress?.(done, peers.length))
  } finally {
    socket.close()
  }
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

async function readNetwork(rtnl: Rtnl, options: Options, etcd: EtcdFacts): Promise<NetworkFacts> {
  const links = rtnl.dump(dumpLinks())
  const isVxlan = etcd.config === undefined || etcd.config.backendType === 'vxlan'
  const name = deviceName({ etcd })
  const device = isVxlan ? links.find((link) => link.name === name) : undefined
  const offload = device === undefined ? undefined : await output('ethtool', '-k', name)
  const port = etcd.vxlan?.port ?? 8472
  const sockets = ['/proc/net/udp', '/proc/net/udp6'].flatMap((path) => parseUdp(read(path) ?? '', port))
  const assigned = read(`/sys/class/net/${name}/addr_assign_type`)
  return {
    links,
    addresses: rtnl.dump(dumpAddresses({ family: 4 })),
    routes: rtnl.dump(dumpRoutes({ table: RT_TABLE_MAIN })),
    underlay: choose(rtnl, options),
    device,
    neighbours: device === undefined ? [] : rtnl.dump(dumpNeighbours({ family: 4, index: device.index })),
    fdb: device === undefined ? [] : rtnl.dump(dumpFdb({ index: device.index })),
    macAssigned: assigned === undefined ? undefined : Number(assigned),
    checksumOffload: offload === undefined ? undefined : /^tx-checksumming: on/m.test(offload),
    udp: holdersOf(sockets).map((owner) => ({ port, owner })),
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
