/**
 * The metrics for Prometheus. Nothing is counted for their sake: at each scrape they are read from what the parts keep
 * anyway, so that a daemon that nobody scrapes pays nothing. No label takes a value from a peer or an operator but the etcd
 * endpoints, so that there are as many series in a cluster of thousands as in one of three.
 */
import { Counter, collectDefaultMetrics, Gauge, Registry } from 'prom-client'
import type { Durations } from './durations.ts'
import { type Routes, sendText } from './http.ts'
import { LEVELS } from './log.ts'
import type { Status } from './status.ts'
import type { View } from './view.ts'

/** Milliseconds between looks at the event loop's delay; prom-client's own 10 would wake the process for nothing. */
const LOOP_DELAY_RESOLUTION = 100

/** Gauges of prom-client's that are named like counters; the same is there by type, under a right name. */
const MISNAMED = ['handles', 'requests', 'resources'].map((what) => `nodejs_active_${what}_total`)

export function metricsRoutes(view: View): Routes {
  const registry = new Registry()
  collectDefaultMetrics({ register: registry, eventLoopMonitoringPrecision: LOOP_DELAY_RESOLUTION })
  for (const name of MISNAMED) registry.removeSingleMetric(name)
  const metrics = new Metrics(registry, view)
  return {
    '/metrics': async (_, response) => {
      metrics.read()
      const body = await registry.metrics()
      sendText(response, 200, body, 'text/plain; version=0.0.4')
    },
  }
}

type Labels = Readonly<Record<string, string>>

/** One sample: its labels and value. */
type Sample = readonly [Labels, number]

class Metrics {
  readonly #registry: Registry
  readonly #view: View
  readonly #before: (() => void)[] = []
  #status: Status

  constructor(registry: Registry, view: View) {
    this.#registry = registry
    this.#view = view
    this.#status = view.status()
    this.#define()
  }

  /** Takes in how things stand now. */
  read(): void {
    this.#status = this.#view.status()
    for (const each of this.#before) each()
  }

  #define(): void {
    const { parts } = this.#view
    const status = (): Status => this.#status
    this.#gauge('build_info', 'Always 1; the version that runs is in the label.', ['version'], () => [
      [{ version: status().daemon.version }, 1],
    ])
    this.#gauge(
      'alive',
      'Whether every loop goes round. Alert when 0: systemd or Kubernetes should restart it.',
      [],
      () => [[{}, Number(status().health.alive)]],
    )
    this.#gauge(
      'ready',
      'Whether lease, leases of others, kernel entries, files and firewall are as they should be. Alert when 0 for 5 minutes.',
      [],
      () => [[{}, Number(status().health.ready)]],
    )
    this.#gauge(
      'loop_overdue_seconds',
      'How long a loop of the daemon is overdue; 0 while it goes round. Alert when above 0.',
      ['loop'],
      () => status().loops.map(({ loop, dueInSeconds }) => [{ loop }, Math.max(0, -(dueInSeconds ?? 0))]),
    )
    this.#gauge('log_level_info', 'The level of the log; 1 at the label that holds.', ['level'], () =>
      LEVELS.map((level) => [{ level }, Number(level === status().daemon.logLevel)]),
    )

    this.#gauge(
      'lease_seconds_left',
      "Time until etcd drops this node's lease; +Inf for a reservation. Alert below 30 minutes: renewals fail.",
      [],
      () => {
        const { lease } = status()
        return lease === null ? [] : [[{}, lease.secondsLeft ?? Number.POSITIVE_INFINITY]]
      },
    )
    this.#counter('lease_renewals_total', "Renewals of this node's lease.", [], () => [
      [{}, status().lease?.renewals ?? 0],
    ])
    this.#gauge(
      'leases',
      'Leases of other nodes: in_use, or skipped because they cannot be used. Alert when any are skipped.',
      ['state'],
      () => [
        [{ state: 'in_use' }, status().leases.inUse],
        [{ state: 'skipped' }, status().leases.skipped],
      ],
    )

    this.#gauge(
      'kernel_entries',
      'Entries of each kernel table: wanted, held, or failed (refused by the kernel). Alert when any have failed for 5 minutes.',
      ['table', 'state'],
      () =>
        Object.entries(status().kernel?.tables ?? {}).flatMap(([table, counts]) =>
          Object.entries(counts).map(([state, count]): Sample => [{ table, state }, count]),
        ),
    )
    this.#counter(
      'kernel_repairs_total',
      'Entries put right that somebody else had changed, by how that was noticed. Alert on a steady rate: something fights flanneld.',
      ['table', 'cause'],
      () =>
        Object.entries(status().kernel?.repairs ?? {}).flatMap(([table, causes]) =>
          Object.entries(causes).map(([cause, count]): Sample => [{ table, cause }, count]),
        ),
    )
    this.#histogram('apply_duration_seconds', 'Time to bring the kernel to what the leases say.', [], () => {
      const durations = parts.network?.history?.applies
      return durations === undefined ? [] : [[{}, durations]]
    })
    this.#histogram(
      'compare_duration_seconds',
      'Time to read the kernel tables whole and compare them.',
      [],
      () => {
        const durations = parts.network?.history?.compares
        return durations === undefined ? [] : [[{}, durations]]
      },
    )

    this.#counter('netlink_batches_total', 'Datagrams of writes sent to rtnetlink.', [], () => [
      [{}, parts.rtnl?.counters.batches ?? 0],
    ])
    this.#counter('netlink_requests_total', 'Writes sent to rtnetlink, many to a batch.', [], () => [
      [{}, parts.rtnl?.counters.requests ?? 0],
    ])
    this.#counter('netlink_dumps_total', 'Kernel tables read whole.', [], () => [
      [{}, parts.rtnl?.counters.dumps ?? 0],
    ])
    this.#counter(
      'netlink_errors_total',
      'Writes that the kernel refused, or whose answer was lost.',
      [],
      () => [[{}, parts.rtnl?.counters.errors ?? 0]],
    )
    this.#counter('netlink_notifications_total', 'Changes that the kernel told of.', [], () => [
      [{}, parts.monitor?.counters.notifications ?? 0],
    ])
    this.#counter(
      'netlink_overruns_total',
      'Times that notifications were lost, each followed by a full compare. Alert on a steady rate.',
      [],
      () => [[{}, parts.monitor?.counters.overruns ?? 0]],
    )

    this.#counter(
      'etcd_requests_total',
      'Requests to etcd by operation and outcome: ok, refused (etcd said no), failed (no endpoint answered). Alert on failed.',
      ['operation', 'outcome'],
      () =>
        Object.entries(parts.tally?.operations ?? {}).flatMap(([operation, { outcomes }]) =>
          Object.entries(outcomes).map(([outcome, count]): Sample => [{ operation, outcome }, count]),
        ),
    )
    this.#histogram(
      'etcd_request_duration_seconds',
      'Time to the first byte of an answer of etcd, by operation.',
      ['operation'],
      () =>
        Object.entries(parts.tally?.operations ?? {}).map(([operation, { durations }]) => [
          { operation },
          durations,
        ]),
    )
    this.#gauge(
      'etcd_endpoint_up',
      'Whether the last request to an endpoint was answered; missing while none was sent there. Alert when 0.',
      ['endpoint'],
      () =>
        status().etcd.endpoints.flatMap(({ url, state }): Sample[] =>
          state === 'unasked' ? [] : [[{ endpoint: url }, Number(state === 'ok')]],
        ),
    )
    this.#gauge(
      'watch_age_seconds',
      'Time since etcd last said something to the watch of the leases. Alert above 10 minutes: joins are missed.',
      [],
      () => {
        const { watch } = status().etcd
        return watch === null ? [] : [[{}, watch.heardSecondsAgo]]
      },
    )
    this.#gauge('watch_index', "etcd's index up to which the leases are known.", [], () => {
      const { watch } = status().etcd
      return watch === null ? [] : [[{}, watch.index]]
    })
    this.#counter('watch_failures_total', 'Rounds of the watch that failed; each is tried again.', [], () => [
      [{}, status().etcd.watch?.failures ?? 0],
    ])
    this.#counter('watch_snapshots_total', 'Complete lists of the leases that were read.', [], () => [
      [{}, status().etcd.watch?.snapshots ?? 0],
    ])

    this.#gauge(
      'probe_peers',
      'Peers that answer pings over the overlay (reachable), have lost 3 in a row (unreachable), or have not told yet (pending); ' +
        'missing without -peer-probe-interval. Alert when any are unreachable for 5 minutes.',
      ['state'],
      () => {
        const { probes } = status()
        if (probes === null) return []
        return (['reachable', 'unreachable', 'pending'] as const).map((state) => [{ state }, probes[state]])
      },
    )
    this.#histogram(
      'probe_rtt_seconds',
      'Round trips of answered pings, as the daemon sees them. Alert when the 99th percentile leaves what your network has.',
      [],
      () => (parts.prober === undefined ? [] : [[{}, parts.prober.rtts]]),
    )
    this.#counter(
      'probe_pings_total',
      'Pings of peers by outcome: answered, or lost (no answer until the next). Alert on a steady share of lost: packets are dropped.',
      ['outcome'],
      () => {
        const { prober } = parts
        if (prober === undefined) return []
        return [
          [{ outcome: 'answered' }, prober.rtts.count],
          [{ outcome: 'lost' }, prober.lost],
        ]
      },
    )

    this.#counter('firewall_checks_total', 'Looks at the firewall rules that went well.', [], () => [
      [{}, status().firewall.checks],
    ])
    this.#counter(
      'firewall_repairs_total',
      'Times that firewall rules were written, the first included. Alert on a steady rate: something rewrites them.',
      [],
      () => [[{}, status().firewall.repairs]],
    )
    this.#counter(
      'firewall_failures_total',
      'Looks or writes of firewall rules that failed. Alert on a steady rate.',
      [],
      () => [[{}, status().firewall.failures]],
    )
  }

  #gauge(name: string, help: string, labelNames: readonly string[], samples: () => Sample[]): void {
    const gauge = new Gauge({ name: `flannel_${name}`, help, labelNames, registers: [this.#registry] })
    this.#before.push(() => {
      gauge.reset()
      for (const [labels, value] of samples()) gauge.set({ ...labels }, value)
    })
  }

  /** The parts keep the totals; a counter is set to them anew each time. */
  #counter(name: string, help: string, labelNames: readonly string[], samples: () => Sample[]): void {
    const counter = new Counter({ name: `flannel_${name}`, help, labelNames, registers: [this.#registry] })
    this.#before.push(() => {
      counter.reset()
      for (const [labels, value] of samples()) counter.inc({ ...labels }, value)
    })
  }

  #histogram(
    name: string,
    help: string,
    labelNames: readonly string[],
    samples: () => (readonly [Labels, Durations])[],
  ): void {
    this.#registry.registerMetric(new Histogram(`flannel_${name}`, help, labelNames, samples) as never)
  }
}

/** A histogram that is read, not fed: prom-client's own wants every single observation. */
class Histogram {
  readonly name: string
  readonly help: string
  readonly labelNames: readonly string[]
  readonly type = 'histogram'
  readonly aggregator = 'sum'
  readonly #samples: () => (readonly [Labels, Durations])[]

  constructor(
    name: string,
    help: string,
    labelNames: readonly string[],
    samples: () => (readonly [Labels, Durations])[],
  ) {
    this.name = name
    this.help = help
    this.labelNames = labelNames
    this.#samples = samples
  }

  async get(): Promise<object> {
    const { name, help, type, aggregator } = this
    const values = this.#samples().flatMap(([labels, durations]) => {
      const buckets = durations.cumulative().map((value, i) => ({
        labels: { le: durations.bounds[i] ?? '+Inf', ...labels },
        value,
        metricName: `${name}_bucket`,
      }))
      return [
        ...buckets,
        { labels, value: durations.seconds, metricName: `${name}_sum` },
        { labels, value: durations.count, metricName: `${name}_count` },
      ]
    })
    return { name, help, type, aggregator, values }
  }
}
