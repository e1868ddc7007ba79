/**
 * The daemon's view as one plain object: what `flanneld status --json`, GET /status, the page and the metrics read. Its shape
 * is described in docs/status.md and only grows within one `version`. Building it reads getters of the parts and nothing
 * else: no part keeps anything for it, and nothing of it exists between two questions.
 *
 * Times are ISO 8601, durations have their unit in their name, addresses are text; what is not known (yet) is null.
 */
import type { Clock } from './clock.ts'
import { type Pulse, stuck } from './heartbeat.ts'
import { formatIpv4, formatSubnet, type Ipv4, type MacAddress, type Subnet } from './ip.ts'
import type { Level } from './log.ts'

export const STATUS_VERSION = 1

/** Skipped leases and refusals that are listed; all are counted. */
const LISTED = 50

export type Phase =
  | 'starting'
  | 'waiting for config'
  | 'acquiring a lease'
  | 'making the device'
  | 'running'
  | 'stopping'

export interface Status {
  readonly version: typeof STATUS_VERSION
  readonly daemon: {
    readonly version: string
    readonly pid: number
    readonly startedAt: string
    readonly uptimeSeconds: number
    readonly phase: Phase
    readonly logLevel: Level
  }
  readonly health: Health
  readonly network: {
    readonly cidr: string
    readonly subnetLen: number
    readonly backend: string
    readonly etcdPrefix: string
  } | null
  readonly lease: {
    readonly subnet: string
    readonly publicIP: string
    /** null: a reservation, which never expires. */
    readonly secondsLeft: number | null
    readonly renewals: number
  } | null
  readonly interface: {
    readonly name: string
    readonly address: string
    readonly publicIP: string
    readonly mtu: number
    readonly up: boolean
    readonly reason: string
  } | null
  readonly device: {
    readonly name: string
    readonly mtu: number
    readonly details: Readonly<Record<string, string | number | boolean>>
  } | null
  readonly firewall: {
    readonly masquerade: boolean
    readonly forwardRules: boolean
    readonly checks: number
    readonly repairs: number
    readonly failures: number
    readonly lastError: string | null
  }
  readonly etcd: {
    readonly endpoints: readonly EndpointStatus[]
    readonly watch: WatchStatus | null
  }
  readonly leases: {
    readonly inUse: number
    readonly skipped: number
    /** The first of them. */
    readonly skippedList: readonly { readonly key: string; readonly reason: string }[]
  }
  readonly kernel: KernelStatus | null
  /** null: peers are not pinged. */
  readonly probes: ProbeStatus | null
  readonly loops: readonly LoopStatus[]
}

export interface Health {
  readonly alive: boolean
  readonly ready: boolean
  readonly stuckLoops: readonly string[]
  /** Why it is not alive or not ready, one line each. */
  readonly reasons: readonly string[]
}

export interface EndpointStatus {
  readonly url: string
  /** `unasked` as long as no request has gone there. */
  readonly state: 'ok' | 'failing' | 'unasked'
  /** The one that requests go to first. */
  readonly current: boolean
  readonly latencyMs: number | null
  readonly lastAnswerSecondsAgo: number | null
  readonly answers: number
  readonly failures: number
  readonly lastError: string | null
}

export interface WatchStatus {
  /** The store is known up to this index. */
  readonly index: number
  readonly heardSecondsAgo: number
  readonly snapshots: number
  readonly failures: number
  readonly lastError: string | null
}

export interface RoundStatus {
  readonly secondsAgo: number
  readonly tookMs: number
  readonly entries: number
}

export interface KernelStatus {
  readonly peers: number
  readonly tables: Readonly<
    Record<string, { readonly wanted: number; readonly held: number; readonly failed: number }>
  >
  /** Totals since start, by table and by how it was noticed. */
  readonly repairs: Readonly<Record<string, Readonly<Record<string, number>>>>
  /** `entries` were written or deleted. */
  readonly lastApply: RoundStatus | null
  /** `entries` were not as believed. */
  readonly lastCompare: RoundStatus | null
  /** What the kernel refuses now, the first of it. */
  readonly refusals: readonly string[]
  /** What keeps the device or its tables from being looked at. */
  readonly trouble: string | null
}

export interface ProbeStatus {
  readonly intervalSeconds: number
  /** Begun so far. */
  readonly rounds: number
  /** Peers by what the pings say; `pending` until an answer or a loss can tell. */
  readonly reachable: number
  readonly unreachable: number
  readonly pending: number
  /** The last round trips of those that are reachable; null without any. */
  readonly rttMs: { readonly least: number; readonly median: number; readonly most: number } | null
}

export interface LoopStatus {
  readonly loop: string
  /** null: it has not begun. */
  readonly lastSecondsAgo: number | null
  /** Negative when it is late. */
  readonly dueInSeconds: number | null
  readonly stuck: boolean
}

/** A line of GET /peers. */
export interface PeerLine {
  readonly subnet: string
  readonly publicIP: string
  readonly mac: string | null
  readonly route: string
  /** By table: ok, missing or differs. */
  readonly entries: Readonly<Record<string, string>>
  /** When its lease last changed; null when that was before this daemon's first list. */
  readonly changedAt: string | null
  /** What the pings say of it: `reachable` is null until they can tell. null: peers are not pinged. */
  readonly probe: { readonly reachable: boolean | null; readonly rttMs: number | null } | null
}

interface Round {
  readonly at: number
  readonly took: number
  readonly entries: number
}

/** What the parts let be read of them, cut to what is shown; all but the first group come to be in the course of a start. */
export interface StatusSources {
  readonly clock: Clock
  readonly version: string
  readonly pid: number
  /** Wall clock. */
  readonly startedAt: number
  readonly phase: Phase
  readonly logLevel: Level
  readonly etcdPrefix: string
  readonly masquerade: boolean
  readonly forwardRules: boolean
  readonly pulses: readonly Pulse[]

  readonly config?:
    | { readonly network: Subnet; readonly subnetLen: number; readonly backendType: string }
    | undefined
  readonly keeper?:
    | {
        readonly lease: { readonly subnet: Subnet; readonly attributes: { readonly publicIP: Ipv4 } }
        readonly secondsLeft: number
        readonly renewals: number
      }
    | undefined
  readonly underlay?:
    | {
        readonly name: string
        readonly address: Ipv4
        readonly publicIP: Ipv4
        readonly mtu: number
        /** Neither down nor without a carrier. */
        readonly up: boolean
        readonly reason: string
      }
    | undefined
  readonly overlay?: NetworkSource | undefined
  readonly firewall?:
    | {
        readonly counters: { readonly checks: number; readonly repairs: number; readonly failures: number }
        readonly lastError: string | undefined
      }
    | undefined
  readonly tally?:
    | {
        readonly endpoints: readonly {
          readonly url: string
          readonly answers: number
          readonly failures: number
          readonly failing: boolean
          readonly lastError: string | undefined
          readonly lastAnswer: number | undefined
          readonly latency: number | undefined
        }[]
        readonly current: number
      }
    | undefined
  readonly watch?:
    | {
        readonly index: number
        readonly heardAt: number
        readonly snapshots: number
        readonly failures: number
        readonly lastError: string | undefined
      }
    | undefined
  readonly table?:
    | {
        readonly size: number
        readonly badCount: number
        bad(): Iterable<{ readonly key: string; readonly reason: string }>
      }
    | undefined
  readonly prober?:
    | {
        readonly interval: number
        readonly rounds: number
        readonly summary: {
          readonly reachable: number
          readonly unreachable: number
          readonly pending: number
          readonly rtt: { readonly least: number; readonly median: number; readonly most: number } | undefined
        }
      }
    | undefined
  /** Whether the files for Docker and others are written. */
  readonly filesWritten: boolean
}

export interface NetworkSource {
  readonly name: string
  readonly mtu: number
  readonly status: {
    readonly peers: number
    readonly skipped: number
    readonly tables: Readonly<
      Partial<Record<string, { readonly wanted: number; readonly held: number; readonly failed: number }>>
    >
  }
  readonly details?: Readonly<Record<string, string | number | boolean>>
  readonly history?: {
    readonly lastApply: Round | undefined
    readonly lastCompare: Round | undefined
    readonly repairs: Readonly<Record<string, Readonly<Record<string, number>>>>
    readonly refusals: Iterable<string>
    readonly skipped: Iterable<string>
    readonly trouble: string | undefined
  }
}

export interface PeerSource {
  readonly subnet: Subnet
  readonly publicIP: Ipv4
  readonly mac: MacAddress | undefined
  readonly route: string
  readonly entries: Readonly<Partial<Record<string, string>>>
}

/** Pure, but for the clock. */
export function buildStatus(from: StatusSources): Status {
  const { clock, keeper, underlay, overlay, config, firewall } = from
  const now = clock.now()
  return {
    version: STATUS_VERSION,
    daemon: {
      version: from.version,
      pid: from.pid,
      startedAt: new Date(from.startedAt).toISOString(),
      uptimeSeconds: round((clock.wall() - from.startedAt) / 1000),
      phase: from.phase,
      logLevel: from.logLevel,
    },
    health: healthOf(from),
    network: config
      ? {
          cidr: formatSubnet(config.network),
          subnetLen: config.subnetLen,
          backend: config.backendType,
          etcdPrefix: from.etcdPrefix,
        }
      : null,
    lease: keeper
      ? {
          subnet: formatSubnet(keeper.lease.subnet),
          publicIP: formatIpv4(keeper.lease.attributes.publicIP),
          secondsLeft: Number.isFinite(keeper.secondsLeft) ? round(keeper.secondsLeft) : null,
          renewals: keeper.renewals,
        }
      : null,
    interface: underlay
      ? {
          name: underlay.name,
          address: formatIpv4(underlay.address),
          publicIP: formatIpv4(underlay.publicIP),
          mtu: underlay.mtu,
          up: underlay.up,
          reason: underlay.reason,
        }
      : null,
    device: overlay ? { name: overlay.name, mtu: overlay.mtu, details: overlay.details ?? {} } : null,
    firewall: {
      masquerade: from.masquerade,
      forwardRules: from.forwardRules,
      checks: firewall?.counters.checks ?? 0,
      repairs: firewall?.counters.repairs ?? 0,
      failures: firewall?.counters.failures ?? 0,
      lastError: firewall?.lastError ?? null,
    },
    etcd: { endpoints: endpointsOf(from, now), watch: watchOf(from, now) },
    leases: leasesOf(from),
    kernel: overlay ? kernelOf(overlay, now) : null,
    probes: probesOf(from),
    loops: from.pulses.map((pulse) => loopOf(pulse, now)),
  }
}

/**
 * Alive: every loop has kept its word. Ready: besides, the lease is held, the interface is up, the first list of leases is in the
 * kernel, the files are written, and neither kernel nor firewall refuses anything.
 */
export function healthOf(from: StatusSources): Health {
  const { clock, keeper, overlay, phase, watch, firewall, underlay } = from
  const now = clock.now()
  const late = stuck(from.pulses, now)
  const reasons = late.map(
    ({ loop, last }) => `loop ${loop} is stuck, last heard of ${seconds(now - (last ?? now))} s ago`,
  )
  if (phase !== 'running') reasons.push(`not running yet: ${phase}`)
  if (keeper !== undefined && keeper.secondsLeft <= 0) reasons.push('the lease has expired or was deleted')
  if (underlay?.up === false) reasons.push(`interface ${underlay.name} is down or has no carrier`)
  if (phase === 'running') {
    if (watch === undefined || (overlay?.history !== undefined && overlay.history.lastApply === undefined))
      reasons.push('no list of leases is applied yet')
    if (!from.filesWritten) reasons.push('the subnet file is not written yet')
  }
  if (overlay !== undefined) {
    for (const [table, { failed } = { failed: 0 }] of Object.entries(overlay.status.tables)) {
      if (failed > 0) reasons.push(`${failed} entries of table ${table} are refused`)
    }
    const trouble = overlay.history?.trouble
    if (trouble !== undefined) reasons.push(trouble)
  }
  if (firewall?.lastError !== undefined) reasons.push(`firewall rules are failing: ${firewall.lastError}`)
  const stuckLoops = late.map(({ loop }) => loop)
  return { alive: late.length === 0, ready: reasons.length === 0, stuckLoops, reasons }
}

/** What the pings say of a peer. */
export interface ProbeSource {
  readonly reachable: boolean | undefined
  /** Milliseconds, of the last answer. */
  readonly rtt: number | undefined
}

/** One peer as a line of GET /peers. */
export function peerLine(
  peer: PeerSource,
  changedAt: number | undefined,
  probed?: ProbeSource | undefined,
): PeerLine {
  return {
    subnet: formatSubnet(peer.subnet),
    publicIP: formatIpv4(peer.publicIP),
    mac: peer.mac ?? null,
    route: peer.route,
    entries: peer.entries as PeerLine['entries'],
    changedAt: changedAt === undefined ? null : new Date(changedAt).toISOString(),
    probe: probed ? { reachable: probed.reachable ?? null, rttMs: roundOrNull(probed.rtt) } : null,
  }
}

/** Whether all that a peer needs is in the kernel, and it is not known to be out of reach. */
export function isSound(
  { route, entries }: Pick<PeerSource, 'route' | 'entries'>,
  probed?: { readonly reachable: boolean | null | undefined } | null,
): boolean {
  if (probed?.reachable === false) return false
  return route !== 'none' && Object.values(entries).every((state) => state === 'ok')
}

function endpointsOf({ tally }: StatusSources, now: number): EndpointStatus[] {
  return (tally?.endpoints ?? []).map((endpoint, position) => ({
    url: endpoint.url,
    state: endpoint.failing ? 'failing' : endpoint.answers > 0 ? 'ok' : 'unasked',
    current: position === tally?.current,
    latencyMs: endpoint.latency === undefined ? null : round(endpoint.latency),
    lastAnswerSecondsAgo: endpoint.lastAnswer === undefined ? null : seconds(now - endpoint.lastAnswer),
    answers: endpoint.answers,
    failures: endpoint.failures,
    lastError: endpoint.lastError ?? null,
  }))
}

function watchOf({ watch }: StatusSources, now: number): WatchStatus | null {
  if (watch === undefined) return null
  const { index, heardAt, snapshots, failures, lastError } = watch
  return { index, heardSecondsAgo: seconds(now - heardAt), snapshots, failures, lastError: lastError ?? null }
}

function leasesOf({ table, overlay }: StatusSources): Status['leases'] {
  // Those that the table let pass and the backend can make nothing of; their lines name the subnet.
  const unusable = [...(overlay?.history?.skipped ?? [])].map((reason) => ({ key: '', reason }))
  return {
    inUse: (table?.size ?? 0) - unusable.length,
    skipped: (table?.badCount ?? 0) + unusable.length,
    skippedList: first(LISTED, [...(table?.bad() ?? []), ...unusable]),
  }
}

function kernelOf({ status, history }: NetworkSource, now: number): KernelStatus {
  return {
    peers: status.peers,
    // Tables that a backend does not have are left out.
    tables: status.tables as KernelStatus['tables'],
    repairs: history?.repairs ?? {},
    lastApply: roundOf(history?.lastApply, now),
    lastCompare: roundOf(history?.lastCompare, now),
    refusals: first(LISTED, history?.refusals ?? []),
    trouble: history?.trouble ?? null,
  }
}

function probesOf({ prober }: StatusSources): ProbeStatus | null {
  if (prober === undefined) return null
  const { reachable, unreachable, pending, rtt } = prober.summary
  return {
    intervalSeconds: prober.interval / 1000,
    rounds: prober.rounds,
    ...{ reachable, unreachable, pending },
    rttMs: rtt ? { least: round(rtt.least), median: round(rtt.median), most: round(rtt.most) } : null,
  }
}

function roundOf(of: Round | undefined, now: number): RoundStatus | null {
  return of === undefined
    ? null
    : { secondsAgo: seconds(now - of.at), tookMs: round(of.took), entries: of.entries }
}

function loopOf({ loop, last, due }: Pulse, now: number): LoopStatus {
  return {
    loop,
    lastSecondsAgo: last === undefined ? null : seconds(now - last),
    dueInSeconds: Number.isFinite(due) ? seconds(due - now) : null,
    stuck: now > due,
  }
}

function first<T>(count: number, of: Iterable<T>): T[] {
  const taken: T[] = []
  for (const each of of) {
    if (taken.length === count) break
    taken.push(each)
  }
  return taken
}

function roundOrNull(n: number | undefined): number | null {
  return n === undefined ? null : round(n)
}

function seconds(ms: number): number {
  return round(ms / 1000)
}

function round(n: number): number {
  return Math.round(n * 1000) / 1000
}
