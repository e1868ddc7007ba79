import { DeviceError } from './backend/reconciler.ts'
import { parseVxlanConfig, type VxlanConfig, VxlanConfigError } from './backend/vxlan/config.ts'
import { findDevice } from './backend/vxlan/device.ts'
import { VxlanNetwork } from './backend/vxlan/network.ts'
import { vtepMac } from './backend/vxlan/vtep.ts'
import type { Clock } from './clock.ts'
import { renderDockerOptions } from './dockeropts/dockeropts.ts'
import { type HealthEndpoint, openHealthEndpoint } from './health.ts'
import { chooseInterface, type ExternalInterface, InterfaceError, readNetworkView } from './iface.ts'
import { contains, formatIpv4, formatSubnet, type MacAddress } from './ip.ts'
import type { Logger } from './log.ts'
import { systemRunner } from './masq/exec.ts'
import { Firewall } from './masq/firewall.ts'
import { dumpAddresses } from './netlink/address.ts'
import { Rtnl } from './netlink/conn.ts'
import {
  RTNLGRP_IPV4_IFADDR,
  RTNLGRP_IPV4_ROUTE,
  RTNLGRP_LINK,
  RTNLGRP_NEIGH,
  RTNLGRP_NEXTHOP,
} from './netlink/constants.ts'
import { NetlinkError } from './netlink/errors.ts'
import { Monitor } from './netlink/monitor.ts'
import { openRtnetlink, openRtnetlinkMonitor } from './netlink/socket.ts'
import type { Options } from './options.ts'
import { acquireLease, waitForConfig } from './subnet/acquire.ts'
import type { NetworkConfig } from './subnet/config.ts'
import { EtcdClient } from './subnet/etcd/client.ts'
import { EndpointError, parseEndpoints } from './subnet/etcd/endpoints.ts'
import { EtcdRegistry } from './subnet/etcd/registry.ts'
import { TlsFilesError } from './subnet/etcd/tls.ts'
import { LeaseKeeper, LeaseLostError } from './subnet/keeper.ts'
import type { Lease, LeaseAttributes, LeaseWatchResult } from './subnet/lease.ts'
import type { LeaseList } from './subnet/registry.ts'
import { LeaseTable } from './subnet/table.ts'
import type { InterfaceAddress, LeaseRules } from './subnet/validate.ts'
import { watchLeases } from './subnet/watch.ts'
import {
  readSubnetFile,
  renderSubnetFile,
  type SubnetFileContent,
  writeFileAtomically,
} from './subnetfile.ts'
import type { Systemd } from './systemd.ts'

/** What cannot be helped by trying again: one line for the operator, and exit status 1. */
export class FatalError extends Error {
  override readonly name = 'FatalError'
}

export interface DaemonParts {
  readonly options: Options
  readonly log: Logger
  readonly clock: Clock
  readonly systemd: Systemd
  /** Ends the daemon when aborted; state and lease stay. */
  readonly signal: AbortSignal
}

/** Backends that this daemon has, for the refusal of the others. */
const BACKENDS = ['vxlan']
/** Milliseconds: notifications of one change of the underlay come in groups. */
const UNDERLAY_SETTLES = 50
const STATUS_PERIOD = 5_000
const FILE_RETRY = 5_000

/**
 * The life of one daemon: interface, config, lease, then everything at once until the signal fires. Rejects with a
 * FatalError when it cannot go on; whatever else fails is logged and tried again by the part it belongs to.
 */
export async function runDaemon(parts: DaemonParts): Promise<void> {
  const { options, log, clock, systemd, signal } = parts
  const rtnl = new Rtnl(openRtnetlink())
  let health: HealthEndpoint | undefined
  try {
    const external = chooseExternal(rtnl, options, log)
    const previous = readSubnetFile(options.subnetFile)
    for (const problem of previous.problems) log.error(problem)
    const registry = openRegistry(options, log)
    const previousText = previous.subnet === undefined ? 'None' : formatSubnet(previous.subnet)
    log.info(`Created subnet manager: Etcd Local Manager with Previous Subnet: ${previousText}`)
    if (options.healthz) health = await openHealthEndpoint(options.healthz, log)

    const firewall = new Firewall({
      runner: systemRunner,
      clock,
      log,
      resyncSeconds: options.firewallResyncSeconds,
    })
    // iptables is asked for its rules while etcd is asked for ours.
    const prepared = options.ipMasq || options.forwardRules ? firewall.prepare(signal) : undefined
    systemd.status('waiting for the network config from etcd')
    const config = await waitForConfig({ registry, signal, clock, log })
    const vxlan = vxlanConfig(config)
    log.info(
      `VXLAN config: VNI=${vxlan.vni} Port=${vxlan.port} GBP=${vxlan.gbp} DirectRouting=${vxlan.directRouting}`,
    )

    systemd.status('acquiring a subnet lease')
    const deviceMac = existingMac(rtnl, vxlan)
    const underlay = underlayAddresses(rtnl, external, config)
    const acquired = await acquireLease({
      registry,
      config,
      publicIP: external.publicIP,
      attributes: (own) => attributesOf(external, deviceMac ?? leasedMac(own) ?? randomMac()),
      previousSubnet: previous.subnet,
      underlay,
      signal,
      clock,
      log,
    })
    await prepared
    const node = new Node({
      ...parts,
      rtnl,
      registry,
      firewall,
      config,
      vxlan,
      external,
      lease: acquired.lease,
    })
    await node.run({ list: acquired.list, previous })
  } finally {
    rtnl.close()
    await health?.close()
  }
}

interface NodeParts extends DaemonParts {
  readonly rtnl: Rtnl
  readonly registry: EtcdRegistry
  readonly firewall: Firewall
  readonly config: NetworkConfig
  readonly vxlan: VxlanConfig
  readonly external: ExternalInterface
  readonly lease: Lease
}

/** A node that has its lease. */
class Node {
  readonly #parts: NodeParts
  readonly #keeper: LeaseKeeper
  readonly #table: LeaseTable
  readonly #network: VxlanNetwork
  readonly #monitor: Monitor
  #external: ExternalInterface
  #underlayTimer: NodeJS.Timeout | undefined
  #underlayTrouble = ''

  constructor(parts: NodeParts) {
    const { rtnl, registry, log, clock, options, config, vxlan, external, lease } = parts
    this.#parts = parts
    this.#external = external
    this.#keeper = new LeaseKeeper({
      registry,
      lease,
      network: config.network,
      marginMinutes: options.renewMarginMinutes,
      clock,
      log,
    })
    this.#table = new LeaseTable({ rules: this.#rules(), subnetLen: config.subnetLen, log })
    this.#monitor = new Monitor(
      openRtnetlinkMonitor([
        RTNLGRP_LINK,
        RTNLGRP_NEIGH,
        RTNLGRP_IPV4_IFADDR,
        RTNLGRP_IPV4_ROUTE,
        RTNLGRP_NEXTHOP,
      ]),
      (notifications) => this.#network.observe(notifications),
      () => this.#network.observeOverrun(),
    )
    this.#network = new VxlanNetwork({
      rtnl,
      drain: () => this.#monitor.drain(),
      log,
      clock,
      network: config.network,
      subnetLen: config.subnetLen,
      directRouting: vxlan.directRouting,
      device: {
        name: deviceName(vxlan),
        vni: vxlan.vni,
        port: vxlan.port,
        gbp: vxlan.gbp,
        ...underlayOf(external),
        mac: leasedMac(lease) ?? randomMac(),
        address: lease.subnet.address,
      },
      resyncPeriod: options.kernelResyncSeconds * 1000,
      onUnderlayChange: () => this.#underlayChanged(),
    })
  }

  /** Resolves when the signal fires. Rejects with a FatalError. */
  async run(start: {
    readonly list: LeaseList
    readonly previous: ReturnType<typeof readSubnetFile>
  }): Promise<void> {
    const { log, systemd, firewall, options, config, lease, signal } = this.#parts
    const stop = new AbortController()
    const until = AbortSignal.any([signal, stop.signal])
    const fail = (error: unknown): never => {
      stop.abort()
      throw error
    }
    try {
      try {
        this.#network.start()
      } catch (error) {
        throw registering(error)
      }
      const { network, subnet } = start.previous
      const before = network === undefined || subnet === undefined ? undefined : { network, subnet }
      const policy = {
        network: config.network,
        subnet: lease.subnet,
        masquerade: options.ipMasq,
        forward: options.forwardRules,
      }
      const walled = firewall.start(policy, before, until)
      log.info('Running backend.')
      await Promise.all([
        this.#keeper.run(until).catch(fail),
        this.#follow(until, start.list, walled).catch(fail),
        this.#network.run(until).catch(fail),
        walled.then(() => firewall.run(until)).catch(fail),
        this.#tellStatus(until).catch(fail),
        systemd.watchdog({ healthy: () => true, pid: process.pid, signal: until }).catch(fail),
      ])
    } catch (error) {
      if (error instanceof LeaseLostError) throw new FatalError(error.message)
      throw error
    } finally {
      clearTimeout(this.#underlayTimer)
      this.#monitor.close()
    }
  }

  /** Takes in the list that the lease was chosen from, then what the watch says; READY=1 when the first is in place. */
  async #follow(signal: AbortSignal, list: LeaseList, walled: Promise<void>): Promise<void> {
    const { registry, clock, log, systemd } = this.#parts
    this.#table.replace(list.leases, list.bad)
    this.#network.replaceLeases(this.#table.leases())
    this.#network.apply()
    log.info('watching for new subnet leases')
    await Promise.all([
      this.#watch(watchLeases({ registry, signal, clock, log, from: list })),
      walled.then(() => this.#writeFiles(signal)).then(() => systemd.ready(signal)),
    ])
  }

  async #watch(results: AsyncIterable<LeaseWatchResult>): Promise<void> {
    for await (const result of results) {
      this.#keeper.observe(result)
      const changed =
        result.kind === 'snapshot'
          ? this.#table.replace(result.leases, result.bad)
          : this.#table.update(result.events)
      if (!changed) continue
      this.#network.replaceLeases(this.#table.leases())
      this.#network.apply()
    }
  }

  /** Writes subnet.env and Docker's options, trying again until both are there. */
  async #writeFiles(signal: AbortSignal): Promise<void> {
    const { options, clock, log } = this.#parts
    const { subnetFile, dockerOpts } = options
    const files = [{ what: 'subnet file', path: subnetFile, flag: '-subnet-file', render: renderSubnetFile }]
    if (dockerOpts) {
      const { file: path, key } = dockerOpts
      const render = (content: SubnetFileContent): string => renderDockerOptions(content, key)
      files.push({ what: 'docker options', path, flag: '-docker-opts-file', render })
    }
    for (const { what, path, flag, render } of files) {
      for (let failures = 0; !signal.aborted; failures++) {
        try {
          // Rendered for each try: the MTU may have changed since the last.
          writeFileAtomically(path, render(this.#fileContent()))
          log.info(`Wrote ${what} to ${path}`)
          break
        } catch (error) {
          if (failures === 0) {
            const reason = error instanceof Error ? error.message : String(error)
            log.warn(
              `Failed to write ${what}: ${reason}; trying again every ${FILE_RETRY / 1000} s, and READY=1 waits for it: ` +
                `let flanneld write there, or choose another ${flag}`,
            )
          }
          await clock.sleep(FILE_RETRY, signal)
        }
      }
    }
  }

  #fileContent(): SubnetFileContent {
    const { config, lease, options } = this.#parts
    const mtu = this.#external.mtu - VXLAN_OVERHEAD
    return { network: config.network, subnet: lease.subnet, mtu, ipMasq: options.ipMasq }
  }

  /** The line that `systemctl status` shows, when it says something new. */
  async #tellStatus(signal: AbortSignal): Promise<void> {
    const { clock, systemd, lease, vxlan, firewall } = this.#parts
    let told = ''
    while (!signal.aborted) {
      const { peers, tables } = this.#network.status
      const failed = Object.values(tables).reduce((sum, table) => sum + table.failed, 0)
      const bad = this.#table.badCount
      const text = [
        `${formatSubnet(lease.subnet)} on ${deviceName(vxlan)}, ${peers} peers`,
        failed > 0 ? `${failed} kernel entries refused` : '',
        bad > 0 ? `${bad} bad leases skipped` : '',
        firewall.lastError === undefined ? '' : 'firewall rules failing',
      ]
        .filter((part) => part !== '')
        .join(', ')
      if (text !== told) systemd.status(text)
      told = text
      await clock.sleep(STATUS_PERIOD, signal)
    }
  }

  /** The parent interface may have changed: look, once things have settled, and pass on what did. */
  #underlayChanged(): void {
    clearTimeout(this.#underlayTimer)
    this.#underlayTimer = setTimeout(() => this.#takeUnderlay(), UNDERLAY_SETTLES)
  }

  #takeUnderlay(): void {
    const { rtnl, options, log, signal } = this.#parts
    if (signal.aborted) return
    let now: ExternalInterface
    try {
      now = chooseInterface(readNetworkView(rtnl), choiceOf(options), quiet(log))
    } catch (error) {
      if (!(error instanceof InterfaceError || error instanceof NetlinkError)) throw error
      if (this.#underlayTrouble === '') log.warn(`${error.message}; keeping ${this.#external.name} as it was`)
      this.#underlayTrouble = error.message
      return
    }
    if (this.#underlayTrouble !== '') log.info(`interface ${now.name} is there again`)
    this.#underlayTrouble = ''
    const before = this.#external
    this.#external = now
    if (before.index === now.index && before.mtu === now.mtu && before.address === now.address) {
      if (before.publicIP === now.publicIP) return
    }
    log.warn(
      `the interface for inter-host traffic changed: ${describe(before)} is now ${describe(now)}; following it`,
    )
    this.#network.setUnderlay(underlayOf(now))
    if (before.publicIP !== now.publicIP) {
      this.#keeper.updateAttributes({ ...this.#keeper.lease.attributes, publicIP: now.publicIP })
    }
    if (this.#table.setRules(this.#rules())) this.#network.replaceLeases(this.#table.leases())
    if (before.mtu !== now.mtu) void this.#writeFiles(signal)
    this.#network.wake()
  }

  #rules(): LeaseRules {
    const { rtnl, config, lease } = this.#parts
    const external = this.#external
    return {
      network: config.network,
      own: lease.subnet,
      publicIP: external.publicIP,
      underlay: underlayAddresses(rtnl, external, config),
    }
  }
}

/** Bytes that VXLAN over IPv4 adds to a packet: Ethernet 14, IPv4 20, UDP 8, VXLAN 8. */
const VXLAN_OVERHEAD = 50

function deviceName({ vni }: VxlanConfig): string {
  return `flannel.${vni}`
}

function underlayOf({ index, name, address, mtu }: ExternalInterface) {
  return { parent: { index, name }, local: address, mtu: mtu - VXLAN_OVERHEAD }
}

function describe({ name, address, mtu, publicIP }: ExternalInterface): string {
  const published = publicIP === address ? '' : `, public IP ${formatIpv4(publicIP)}`
  return `${name} ${formatIpv4(address)} mtu ${mtu}${published}`
}

function choiceOf({ ifaces, ifaceRegexes, publicIP }: Options) {
  return { ifaces, ifaceRegexes, publicIP }
}

/** For looking again at what was already logged. */
function quiet(log: Logger): Logger {
  const debug: Logger['debug'] = (message, fields) => log.debug(message, fields)
  return { trace: debug, debug, info: debug, warn: debug, error: debug }
}

function chooseExternal(rtnl: Rtnl, options: Options, log: Logger): ExternalInterface {
  try {
    return chooseInterface(readNetworkView(rtnl), choiceOf(options), log)
  } catch (error) {
    if (error instanceof InterfaceError || error instanceof NetlinkError) throw new FatalError(error.message)
    throw error
  }
}

function openRegistry({ etcd }: Options, log: Logger): EtcdRegistry {
  try {
    const client = new EtcdClient({
      endpoints: parseEndpoints(etcd.endpoints.join(',')),
      username: etcd.username,
      password: etcd.password.reveal(),
      tls: { caFile: etcd.caFile, certFile: etcd.certFile, keyFile: etcd.keyFile },
      log,
    })
    return new EtcdRegistry(client, etcd.prefix)
  } catch (error) {
    if (error instanceof TlsFilesError || error instanceof EndpointError) {
      throw new FatalError(`Failed to create SubnetManager: ${error.message}`)
    }
    throw error
  }
}

function vxlanConfig({ backendType, backend }: NetworkConfig): VxlanConfig {
  if (!BACKENDS.includes(backendType)) {
    throw new FatalError(
      `Error fetching backend: unknown or unsupported backend type "${backendType}"; this flanneld has ` +
        `${BACKENDS.join(', ')}: set Backend.Type in the network config`,
    )
  }
  try {
    return parseVxlanConfig(backend)
  } catch (error) {
    throw registering(error)
  }
}

/** The MAC of the device that an earlier run left, so that peers need learn nothing. Throws a FatalError. */
function existingMac(rtnl: Rtnl, vxlan: VxlanConfig): MacAddress | undefined {
  try {
    return findDevice(rtnl, deviceName(vxlan))?.mac
  } catch (error) {
    throw registering(error)
  }
}

function registering(error: unknown): unknown {
  if (error instanceof DeviceError || error instanceof NetlinkError || error instanceof VxlanConfigError) {
    return new FatalError(`Error registering network: ${error.message}`)
  }
  return error
}

function attributesOf(external: ExternalInterface, mac: MacAddress): LeaseAttributes {
  return { publicIP: external.publicIP, backendType: 'vxlan', backendData: { VtepMAC: mac } }
}

function leasedMac(lease: Lease | undefined): MacAddress | undefined {
  return lease?.attributes.backendType === 'vxlan' ? vtepMac(lease.attributes.backendData) : undefined
}

/**
 * A locally administered unicast MAC. Chosen here and not by the kernel, so that udev takes it for deliberate. It is
 * no secret, and loading node:crypto takes 7 ms of a start.
 */
function randomMac(): MacAddress {
  const octets = Array.from({ length: 6 }, () => Math.floor(Math.random() * 256))
  octets[0] = ((octets[0] ?? 0) & 0xfe) | 0x02
  return octets.map((octet) => octet.toString(16).padStart(2, '0')).join(':')
}

/** This node's own addresses, but for those of pods' bridges: a bridge of ours may still hold an earlier subnet. */
function underlayAddresses(
  rtnl: Rtnl,
  external: ExternalInterface,
  { network }: NetworkConfig,
): InterfaceAddress[] {
  return rtnl.dump(dumpAddresses({ family: 4 })).flatMap(({ index, address, length }) => {
    if (typeof address !== 'number') return []
    return index === external.index || !contains(network, address) ? [{ address, length }] : []
  })
}
