import { BackendError, type Leftover, type Network } from './backend/backend.ts'
import { removeLeftovers } from './backend/leftovers.ts'
import { DeviceError } from './backend/model.ts'
import { openBackend } from './backends.ts'
import type { Clock } from './clock.ts'
import { type ControlSocket, openControlSocket } from './control.ts'
import { openEtcd } from './etcd.ts'
import { type HealthEndpoint, HealthEndpointError, healthRoutes, openHealthEndpoint } from './health.ts'
import { Heartbeat } from './heartbeat.ts'
import type { Handler, Routes } from './http.ts'
import { chooseInterface, InterfaceError, readNetworkView } from './iface.ts'
import { formatSubnet } from './ip.ts'
import type { Logger } from './log.ts'
import { systemRunner } from './masq/exec.ts'
import { Firewall } from './masq/firewall.ts'
import { Memory } from './memory.ts'
import { NativeError, setV8Flags, trim } from './native.ts'
import { Rtnl } from './netlink/conn.ts'
import {
  RTNLGRP_IPV4_IFADDR,
  RTNLGRP_IPV4_ROUTE,
  RTNLGRP_LINK,
  RTNLGRP_NEIGH,
  RTNLGRP_NEXTHOP,
} from './netlink/constants.ts'
import { NetlinkError } from './netlink/errors.ts'
import { Monitor, type Notification } from './netlink/monitor.ts'
import { getGeneration, watchNftables } from './netlink/nftables.ts'
import {
  openGenericNetlink,
  openNftables,
  openNftablesMonitor,
  openRtnetlink,
  openRtnetlinkMonitor,
} from './netlink/socket.ts'
import type { Tracing } from './netlink/trace.ts'
import { Node } from './node.ts'
import type { Options } from './options.ts'
import { PAGE_PATHS } from './page/paths.ts'
import { PasswordFileError } from './secrets.ts'
import { AddressTakenError, acquireLease, waitForConfig } from './subnet/acquire.ts'
import { ConfigWatch } from './subnet/configwatch.ts'
import { EndpointError } from './subnet/etcd/endpoints.ts'
import { EtcdRegistry } from './subnet/etcd/registry.ts'
import { TlsFilesError } from './subnet/etcd/tls.ts'
import { LeaseKeeper, LeaseLostError } from './subnet/keeper.ts'
import { readSubnetFile } from './subnetfile.ts'
import type { Systemd } from './systemd.ts'
import { findRival, UnderlayWatcher, underlayAddresses } from './underlay.ts'
import type { View } from './view.ts'

/** What cannot be helped by trying again: one line for the operator, and exit status 1. */
export class FatalError extends Error {
  override readonly name = 'FatalError'
}

export interface DaemonParts {
  readonly options: Options
  readonly log: Logger
  readonly clock: Clock
  readonly systemd: Systemd
  readonly view: View
  /** Prints every netlink message while it yields something to print to. */
  readonly trace: Tracing
  /** Ends the daemon when aborted; state and lease stay. */
  readonly signal: AbortSignal
}

const GROUPS = [RTNLGRP_LINK, RTNLGRP_NEIGH, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE, RTNLGRP_NEXTHOP]

/** Milliseconds that a round of each loop may take, all its time-outs included. */
const FIREWALL_ROUND = 180_000
const RECONCILER_ROUND = 60_000
const UNDERLAY_ROUND = 60_000
const KEEPER_ROUND = 180_000

/** Milliseconds after which the control socket is opened in any case: a start that is quick need not pay for it. */
const CONTROL_SOCKET_AFTER = 1_000

/**
 * Of V8's compilers, the last is left out, and the one before it has more patience: what they would make faster in a start takes less
 * time than they do, on the threads of a core that the start itself needs. Set while the program runs, since Node compiles its
 * own modules anew when it starts with such flags. See docs/decisions/compilers.md.
 */
export const COMPILE_LESS = '--no-turbofan --invocation-count-for-maglev=1000'
/** Before that, Node does not use Maglev. */
const NODE_WITH_MAGLEV = 24

/**
 * The life of one daemon: interface, config, lease, device, then everything at once until the signal fires. Rejects
 * with a FatalError when it cannot go on; whatever else fails is logged and tried again by the part it belongs to.
 */
export async function runDaemon(parts: DaemonParts): Promise<void> {
  try {
    await startAndRun(parts)
  } catch (error) {
    throw fatal(error)
  }
}

async function startAndRun({
  options,
  log,
  clock,
  systemd,
  view,
  trace,
  signal,
}: DaemonParts): Promise<void> {
  const rtnl = new Rtnl(openRtnetlink(), { trace })
  const closing: (() => unknown)[] = [() => rtnl.close()]
  if (Number.parseInt(process.versions.node, 10) >= NODE_WITH_MAGLEV) setV8Flags(COMPILE_LESS)
  const seen = view.parts
  seen.rtnl = rtnl
  const heart = (loop: string, busy: number): Heartbeat => {
    const heartbeat = new Heartbeat(loop, clock, busy)
    view.pulses.push(heartbeat)
    return heartbeat
  }
  try {
    closing.push(controlSocket({ options, log, clock, view, signal }))
    const choice = { ifaces: options.ifaces, ifaceRegexes: options.ifaceRegexes, publicIP: options.publicIP }
    const current = chooseInterface(readNetworkView(rtnl), choice, log)
    const previous = readSubnetFile(options.subnetFile)
    for (const problem of previous.problems) log.error(problem)
    seen.underlay = { current, up: true }
    const client = openEtcd(options, process.env, log)
    const registry = new EtcdRegistry(client, options.etcd.prefix)
    seen.tally = client.tally
    const previousText = previous.subnet === undefined ? 'None' : formatSubnet(previous.subnet)
    log.info(`Created subnet manager: Etcd Local Manager with Previous Subnet: ${previousText}`)
    closing.push(...(await openEndpoints(options, log, view, clock)))

    const { firewall, close } = openFirewall(options, heart('firewall', FIREWALL_ROUND), log)
    seen.firewall = firewall
    closing.push(close)
    view.phase = 'waiting for config'
    systemd.status('waiting for the network config from etcd')
    const { config, source, list: asked } = await waitForConfig({ registry, signal, clock, log })
    seen.config = config
    const { network, subnetLen } = config
    const backend = await openBackend(config.backendType, {
      rtnl,
      generic: () => {
        const connection = new Rtnl(openGenericNetlink())
        closing.push(() => connection.close())
        return connection
      },
      log,
      clock: heart('reconciler', RECONCILER_ROUND),
      network,
      subnetLen,
      options: config.backend,
      underlay: current,
      resyncPeriod: options.kernelResyncSeconds * 1000,
      env: process.env,
      signal,
    })

    const listeners: Listener[] = []
    const monitor = openMonitor(rtnl, listeners, trace)
    seen.monitor = monitor
    closing.push(() => monitor.close())
    if (asked !== undefined && backend.left !== undefined) readAhead(rtnl, backend.left, listeners)

    view.phase = 'acquiring a lease'
    systemd.status('acquiring a subnet lease')
    const { lease, list, before, takenOver } = await acquireLease({
      registry,
      config,
      publicIP: current.publicIP,
      attributes: (own) => backend.attributes(own),
      previousSubnet: previous.subnet,
      underlay: underlayAddresses(rtnl, current, network),
      findRival: () => findRival({ rtnl, underlay: current, clock, log, signal }),
      signal,
      clock,
      log,
      list: asked,
    })
    const keeper = new LeaseKeeper({
      registry,
      network,
      lease,
      takenOver,
      marginMinutes: options.renewMarginMinutes,
      clock: heart('lease keeper', KEEPER_ROUND),
      log,
    })

    seen.keeper = keeper
    const configWatch = new ConfigWatch({ registry, config, source, subnet: lease.subnet, clock, log })
    view.phase = 'making the device'

    let node: Node | undefined
    const underlay = new UnderlayWatcher({
      rtnl,
      choice,
      log,
      clock: heart('underlay', UNDERLAY_ROUND),
      period: options.kernelResyncSeconds * 1000,
      current,
      onChange: (before) => {
        // Nothing comes back to an address that is gone, and the watch would wait for it for a minute.
        if (before.address !== underlay.current.address) client.close()
        node?.underlayChanged(before, signal)
      },
      // A connection may have been reset meanwhile, and the watch would wait on it until the kernel probes it.
      onReturn: () => client.close(),
    })
    listeners.push(underlay)
    seen.underlay = underlay
    removeLeftovers({
      ...{ rtnl, log, network, subnetLen, before },
      ...{ type: config.backendType, device: backend.device, underlay: current.index },
    })
    const memory = new Memory(trim)
    closing.push(() => memory.close())
    const overlay = await backend.start(lease, {
      drain: () => monitor.drain(),
      compared: (entries) => memory.used(entries),
    })
    listeners.push(overlay)
    seen.network = overlay
    const parts = { options, log, clock, systemd, view, rtnl, registry, config, keeper, firewall, underlay }
    node = new Node({ ...parts, configWatch, network: overlay, memory })
    view.phase = 'running'
    const { network: oldNetwork, subnet: oldSubnet } = previous
    await node.run({
      list,
      previous: oldNetwork && oldSubnet && { network: oldNetwork, subnet: oldSubnet },
      signal,
    })
  } finally {
    for (const close of closing.reverse()) await close()
  }
}

/** Who is told what the kernel says. */
type Listener = Pick<Network, 'observe' | 'observeOverrun'>

/** Opens what hears of all that others do in the kernel; `listeners` may grow. */
function openMonitor(rtnl: Rtnl, listeners: readonly Listener[], trace: Tracing): Monitor {
  return new Monitor(
    openRtnetlinkMonitor(GROUPS, { ignore: rtnl.portId }),
    (notifications) => {
      for (const listener of listeners) listener.observe(notifications)
    },
    () => {
      for (const listener of listeners) listener.observeOverrun()
    },
    { trace },
  )
}

/** Reads what an earlier run left while etcd makes its list of leases, which is as long; a change of it makes it worthless. */
function readAhead(rtnl: Rtnl, { device, tables }: Leftover, listeners: Listener[]): void {
  listeners.push({
    observe: (notifications) => {
      const elsewhere = ({ kind, value }: Notification): boolean =>
        (kind === 'neighbour' || kind === 'fdb') && value.index !== device
      if (!notifications.every(elsewhere)) rtnl.forget()
    },
    observeOverrun: () => rtnl.forget(),
  })
  rtnl.readAhead(tables)
}

/** Opens the control socket when the daemon is ready, or has been waiting for long; returns what closes it. */
function controlSocket({
  options,
  log,
  clock,
  view,
  signal,
}: Pick<DaemonParts, 'options' | 'log' | 'clock' | 'view' | 'signal'>): () => Promise<void> {
  const { controlSocket: path } = options
  if (path === '') return async () => undefined
  const closing = new AbortController()
  const over = AbortSignal.any([signal, closing.signal])
  const opened = (async (): Promise<ControlSocket | undefined> => {
    await clock.sleep(CONTROL_SOCKET_AFTER, AbortSignal.any([over, view.ready]))
    return over.aborted ? undefined : await openControlSocket(path, view, log)
  })()
  return async () => {
    closing.abort()
    await (await opened)?.close()
  }
}

/** The endpoints that were asked for; returns what closes them. Rejects with HealthEndpointError. */
async function openEndpoints(
  { healthz, metrics }: Options,
  log: Logger,
  view: View,
  clock: Clock,
): Promise<(() => Promise<void>)[]> {
  if (healthz === undefined && metrics === undefined) return []
  // Loaded when somebody first asks, which comes long after the start; the page does not start what the metrics measure.
  const load = async (part: 'metricsRoutes' | 'pageRoutes'): Promise<Routes> =>
    (await import('./tools.ts'))[part](view, clock)
  const lazily = (part: 'metricsRoutes' | 'pageRoutes', paths: readonly string[]): Routes => {
    let loaded: Promise<Routes> | undefined
    const handler = (path: string): Handler => {
      return async (request, response) => {
        loaded ??= load(part)
        await (await loaded)[path]?.(request, response)
      }
    }
    return Object.fromEntries(paths.map((path) => [path, handler(path)]))
  }
  const forLookers = { ...lazily('metricsRoutes', ['/metrics']), ...lazily('pageRoutes', PAGE_PATHS) }
  const open = async (...given: Parameters<typeof openHealthEndpoint>): Promise<() => Promise<void>> => {
    const endpoint: HealthEndpoint = await openHealthEndpoint(...given)
    return () => endpoint.close()
  }
  const closing: (() => Promise<void>)[] = []
  const health: Routes = healthRoutes(view)
  if (healthz !== undefined) closing.push(await open(healthz, log, { ...health, ...forLookers }))
  if (metrics !== undefined) closing.push(await open({ ...metrics, flag: 'metrics' }, log, forLookers))
  return closing
}

/** The firewall, which hears of changes of the rules while it has some to keep; and what ends that. */
function openFirewall(
  options: Options,
  clock: Clock,
  log: Logger,
): { readonly firewall: Firewall; readonly close: () => void } {
  const firewall = new Firewall({
    runner: systemRunner,
    clock,
    log,
    resyncSeconds: options.firewallResyncSeconds,
    generation: () => ruleset?.generation(),
  })
  const ruleset = options.ipMasq || options.forwardRules ? openRuleset(() => firewall.kick(), log) : undefined
  return { firewall, close: () => ruleset?.close() }
}

interface Ruleset {
  generation(): number | undefined
  close(): void
}

/**
 * Has changes of the rules noticed at once, and tells whether there were any; without nf_tables, or without the right to
 * listen, they wait for the next look.
 */
function openRuleset(onChange: () => void, log: Logger): Ruleset | undefined {
  try {
    const socket = openNftablesMonitor()
    watchNftables(socket, onChange)
    let requests: Rtnl | undefined
    return {
      generation() {
        try {
          requests ??= new Rtnl(openNftables())
          return requests.get(getGeneration())
        } catch (error) {
          if (!(error instanceof NetlinkError)) throw error
          return undefined
        }
      },
      close() {
        socket.close()
        requests?.close()
      },
    }
  } catch (error) {
    if (!(error instanceof NetlinkError)) throw error
    log.debug(`changes of firewall rules are only seen every -iptables-resync seconds: ${error.message}`)
    return undefined
  }
}

/** The errors that an operator can do something about, in flannel's words where it has some. */
function fatal(error: unknown): unknown {
  if (error instanceof TlsFilesError || error instanceof EndpointError) {
    return new FatalError(`Failed to create SubnetManager: ${error.message}`)
  }
  if (error instanceof DeviceError || error instanceof NetlinkError) {
    return new FatalError(`Error registering network: ${error.message}`)
  }
  const whole = [
    AddressTakenError,
    InterfaceError,
    BackendError,
    HealthEndpointError,
    LeaseLostError,
    NativeError,
    PasswordFileError,
  ]
  return whole.some((kind) => error instanceof kind) ? new FatalError((error as Error).message) : error
}
