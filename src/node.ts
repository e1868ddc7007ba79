import type { Network } from './backend/backend.ts'
import type { Clock } from './clock.ts'
import { renderDockerOptions } from './dockeropts/dockeropts.ts'
import { Heartbeat } from './heartbeat.ts'
import { formatSubnet } from './ip.ts'
import type { Logger } from './log.ts'
import type { Firewall } from './masq/firewall.ts'
import type { Addresses } from './masq/rules.ts'
import type { Memory } from './memory.ts'
import type { Rtnl } from './netlink/conn.ts'
import type { Options } from './options.ts'
import { OutputFile } from './outputfile.ts'
import type { NetworkConfig } from './subnet/config.ts'
import type { ConfigWatch } from './subnet/configwatch.ts'
import type { Handover } from './subnet/handover.ts'
import type { LeaseKeeper } from './subnet/keeper.ts'
import type { LeaseList, Registry } from './subnet/registry.ts'
import { type LeaseChanges, LeaseTable } from './subnet/table.ts'
import type { LeaseRules } from './subnet/validate.ts'
import { startOf, type WatchProgress, type WatchStart, watchLeases } from './subnet/watch.ts'
import { renderSubnetFile, type SubnetFileContent } from './subnetfile.ts'
import type { Systemd } from './systemd.ts'
import { type UnderlayWatcher, underlayAddresses } from './underlay.ts'
import type { View } from './view.ts'

export interface NodeParts {
  readonly options: Options
  readonly log: Logger
  readonly clock: Clock
  readonly systemd: Systemd
  readonly view: View
  readonly rtnl: Rtnl
  readonly registry: Registry
  readonly config: NetworkConfig
  readonly configWatch: ConfigWatch
  readonly keeper: LeaseKeeper
  readonly network: Network
  readonly firewall: Firewall
  readonly underlay: UnderlayWatcher
  readonly memory: Memory
}

/** Milliseconds. */
const STATUS_PERIOD = 5_000
const PROBE_ROUND = 60_000
/** What a round of the watch may take: a long poll that stays without news, and several endpoints that do not answer. */
const WATCH_ROUND = 10 * 60_000

/** A node that has its lease and its device: everything at once, until the signal fires. */
export class Node {
  readonly #parts: NodeParts
  readonly #table: LeaseTable
  readonly #files: readonly OutputFile[]

  constructor(parts: NodeParts) {
    this.#parts = parts
    const { config, clock, log } = parts
    this.#table = new LeaseTable({ rules: this.#rules(), subnetLen: config.subnetLen, clock, log })
    parts.view.parts.table = this.#table
    this.#files = this.#outputFiles()
  }

  /**
   * `list` is the one the lease was chosen from, `previous` what an earlier run's firewall rules were made for. Rejects
   * with a LeaseLostError, or with what nobody expected.
   */
  async run(start: {
    readonly list: Handover<LeaseList>
    readonly previous: Addresses | undefined
    readonly signal: AbortSignal
  }): Promise<void> {
    const { keeper, configWatch, network, underlay, firewall, systemd, view, clock, options, config } =
      this.#parts
    const failed = new AbortController()
    const signal = AbortSignal.any([start.signal, failed.signal])
    const policy = {
      network: config.network,
      subnet: keeper.lease.subnet,
      masquerade: options.ipMasq,
      forward: options.forwardRules,
    }
    const from = this.#begin(start.list)
    // READY=1 goes out first, in this turn: starting iptables takes longer than all that comes before it, and may wait for its lock.
    const soon = clock.sleep(0, signal)
    const tasks = [
      this.#getReady(signal).then(() => this.#probePeers(signal)),
      soon.then(() => keeper.run(signal)),
      soon.then(() => configWatch.run(signal)),
      soon.then(() => this.#follow(signal, from)),
      soon.then(() => network.run(signal)),
      soon.then(() => underlay.run(signal)),
      soon.then(() => firewall.start(policy, start.previous, signal)).then(() => firewall.run(signal)),
      soon.then(() => this.#tellStatus(signal)),
      systemd.watchdog({ healthy: () => view.health().alive, pid: process.pid, signal }),
    ]
    try {
      await Promise.all(tasks)
    } finally {
      failed.abort()
      await Promise.allSettled(tasks)
    }
  }

  /** The chosen interface changed: peers, kernel and files follow. */
  underlayChanged(before: { readonly mtu: number; readonly publicIP: number }, signal: AbortSignal): void {
    const { keeper, network, underlay } = this.#parts
    const { current } = underlay
    network.setUnderlay(current)
    if (before.publicIP !== current.publicIP) {
      keeper.updateAttributes({ ...keeper.attributes, publicIP: current.publicIP })
    }
    this.#pass(this.#table.setRules(this.#rules()))
    if (before.mtu !== current.mtu) void this.#writeFiles(signal)
  }

  /** Takes in what the watch says. */
  async #follow(signal: AbortSignal, from: WatchStart): Promise<void> {
    const { registry, clock, log } = this.#parts
    const progress = this.#newProgress(from.index)
    log.info('Running backend.')
    log.info('watching for new subnet leases')
    for await (const result of watchLeases({ registry, signal, clock, log, from, progress })) {
      this.#parts.keeper.observe(result)
      this.#pass(
        result.kind === 'snapshot'
          ? this.#table.replace(result.leases, result.bad, result.replaced)
          : this.#table.update(result.events),
      )
    }
  }

  /** Takes in the first list. */
  #begin(first: Handover<LeaseList>): WatchStart {
    const { network, memory } = this.#parts
    const list = first.take()
    this.#table.replace(list.leases, list.bad)
    network.replaceLeases(this.#table.leases())
    network.apply()
    memory.used(list.leases.length)
    return startOf(list)
  }

  /** Shown in the view; the watch waits for etcd and not for a clock, so its rounds are what tells that it goes on. */
  #newProgress(index: number): WatchProgress {
    const { clock, view } = this.#parts
    const now = clock.now()
    const progress: WatchProgress = {
      ...{ index, heardAt: now, triedAt: now },
      ...{ snapshots: 1, failures: 0, lastError: undefined },
    }
    view.parts.watch = progress
    view.pulses.push({
      loop: 'lease watch',
      get last() {
        return progress.triedAt
      },
      get due() {
        return progress.triedAt + WATCH_ROUND
      },
    })
    return progress
  }

  #pass(changes: LeaseChanges): void {
    const { put, removed } = changes
    if (put.length === 0 && removed.length === 0) return
    const { network, view, memory } = this.#parts
    view.leasesChanged(changes)
    memory.used(put.length + removed.length)
    for (const subnet of removed) network.removeLease(subnet)
    for (const lease of put) network.putLease(lease)
    network.apply()
  }

  /** Lease and first snapshot are in place by now; with the files, the node is ready. */
  async #getReady(signal: AbortSignal): Promise<void> {
    await this.#writeFiles(signal)
    if (signal.aborted) return
    await this.#parts.systemd.ready(signal)
    if (!signal.aborted) this.#parts.view.becameReady()
  }

  /** Pings the peers, if that is wanted and can be; a start does not wait for it. */
  async #probePeers(signal: AbortSignal): Promise<void> {
    const { options, log, clock, view, network, config } = this.#parts
    const { answers } = network
    if (options.peerProbeSeconds === 0 || signal.aborted) return
    if (answers === undefined) {
      log.warn(
        `-peer-probe-interval has no effect: nothing of a peer answers pings over backend ${config.backendType}`,
      )
      return
    }
    const { openProber } = await import('./probe.ts')
    const heartbeat = new Heartbeat('peer probes', clock, PROBE_ROUND)
    const prober = openProber({
      clock: heartbeat,
      log,
      interval: options.peerProbeSeconds * 1000,
      peers: () =>
        Array.from(this.#table.leases(), ({ subnet, attributes: { publicIP } }) => ({ subnet, publicIP })),
      addressOf: ({ subnet, publicIP }) => (answers === 'device' ? subnet.address : publicIP),
    })
    if (prober === undefined) return
    view.parts.prober = prober
    view.pulses.push(heartbeat)
    await prober.run(signal)
  }

  /** subnet.env, and Docker's options. */
  #outputFiles(): OutputFile[] {
    const { options, clock, log, view } = this.#parts
    const { subnetFile, dockerOpts } = options
    const common = { clock, log, ready: () => view.ready.aborted }
    const files = [
      new OutputFile({
        ...common,
        ...{ what: 'subnet file', path: subnetFile, flag: '-subnet-file' },
        render: () => renderSubnetFile(this.#fileContent()),
      }),
    ]
    if (dockerOpts) {
      const { file: path, key } = dockerOpts
      const render = (): string => renderDockerOptions(this.#fileContent(), key)
      files.push(
        new OutputFile({ ...common, what: 'docker options', path, flag: '-docker-opts-file', render }),
      )
    }
    return files
  }

  async #writeFiles(signal: AbortSignal): Promise<void> {
    for (const writing of this.#files.map((file) => file.write(signal))) await writing
  }

  #fileContent(): SubnetFileContent {
    const { config, keeper, network, options } = this.#parts
    return {
      network: config.network,
      subnet: keeper.lease.subnet,
      mtu: network.mtu,
      ipMasq: options.ipMasq,
    }
  }

  /**
   * The line that `systemctl status` shows, when it says something new. It has the pace, too, at which leases are dropped that
   * were kept beyond their time, and files that somebody has removed are missed: nothing tells of these.
   */
  async #tellStatus(signal: AbortSignal): Promise<void> {
    const { systemd, view, keeper, configWatch, network, firewall } = this.#parts
    const clock = new Heartbeat('status line', this.#parts.clock, STATUS_PERIOD)
    view.pulses.push(clock)
    let told = ''
    while (!signal.aborted) {
      this.#pass(this.#table.dropOrphans())
      for (const file of this.#files) void file.restore(signal)
      const { peers, skipped, tables } = network.status
      const failed = Object.values(tables).reduce((sum, table) => sum + table.failed, 0)
      const bad = this.#table.badCount + skipped
      const text = [
        `${formatSubnet(keeper.lease.subnet)} on ${network.name}, ${peers} peers`,
        failed > 0 ? `${failed} kernel entries refused` : '',
        bad > 0 ? `${bad} bad leases skipped` : '',
        this.#table.orphanCount > 0 ? `${this.#table.orphanCount} peers kept whose leases etcd has lost` : '',
        configWatch.unsound ? 'the network config in etcd is unusable' : '',
        configWatch.pending.length > 0 ? `restart for ${configWatch.pending.join(', ')}` : '',
        firewall.lastError === undefined ? '' : 'firewall rules failing',
      ]
        .filter((part) => part !== '')
        .join(', ')
      if (text !== told) systemd.status(text)
      told = text
      await clock.sleep(STATUS_PERIOD, signal)
    }
  }

  #rules(): LeaseRules {
    const { rtnl, config, keeper, underlay } = this.#parts
    return {
      network: config.network,
      own: keeper.lease.subnet,
      publicIP: underlay.current.publicIP,
      underlay: underlayAddresses(rtnl, underlay.current, config.network),
    }
  }
}
