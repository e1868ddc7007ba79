import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { systemClock } from '../src/clock.ts'
import { Durations } from '../src/durations.ts'
import { dispatch } from '../src/http.ts'
import { openLog } from '../src/log.ts'
import { metricsRoutes } from '../src/metrics.ts'
import { EtcdTally } from '../src/subnet/etcd/tally.ts'
import { View, type ViewedParts } from '../src/view.ts'

/** A view of parts that are no more than what is looked at. */
async function makeView(): Promise<View> {
  const about = { version: 'v1', pid: 1, etcdPrefix: '/x', masquerade: true, forwardRules: true }
  const view = new View(systemClock, about)
  const sink = { write: () => 0, journal: false, colour: false }
  view.watchLog(await openLog({ format: 'text', level: 'warn', sink, clock: systemClock }))
  const tally = new EtcdTally(['http://a:1', 'http://b:1'])
  tally.answered(0, 'watch', 0, 30)
  tally.finished('watch', 'ok')
  tally.failed(1, 'no')
  const applies = new Durations()
  for (const ms of [1, 3, 20_000]) applies.add(ms)
  const none = { notification: 0, compare: 0, device: 0 }
  const network = {
    name: 'flannel.1',
    mtu: 1450,
    status: { peers: 2, skipped: 1, tables: { route: { wanted: 3, held: 2, failed: 1 } } },
    history: {
      ...{
        lastApply: { at: 0, took: 1, entries: 1 },
        lastCompare: undefined,
        applies,
        compares: new Durations(),
      },
      ...{
        repairs: { route: { ...none, notification: 4 } },
        refusals: [],
        skipped: ['x'],
        trouble: undefined,
      },
    },
  }
  const parts = {
    tally,
    network,
    firewall: { counters: { checks: 5, repairs: 2, failures: 1 }, lastError: undefined },
    rtnl: { counters: { batches: 1, requests: 2, dumps: 3, errors: 4 } },
    monitor: { counters: { notifications: 5, overruns: 6 } },
    keeper: {
      lease: { subnet: { address: 0, length: 24 }, attributes: { publicIP: 1 } },
      secondsLeft: Number.POSITIVE_INFINITY,
      renewals: 7,
    },
    table: { size: 3, badCount: 2, bad: () => [] },
    watch: {
      index: 42,
      heardAt: systemClock.now(),
      triedAt: 0,
      snapshots: 1,
      failures: 8,
      lastError: undefined,
    },
  }
  const rtts = new Durations([0.0005, 0.001])
  for (const ms of [0.3, 0.6, 4]) rtts.add(ms)
  const prober = {
    ...{ interval: 10_000, lost: 3, rounds: 4, rtts },
    summary: { reachable: 5, unreachable: 1, pending: 2, rtt: { least: 0.3, median: 0.6, most: 4 } },
  }
  // Only what the view looks at is there.
  Object.assign(view.parts, { ...parts, prober } as unknown as ViewedParts)
  view.pulses.push({ loop: 'firewall', last: 0, due: systemClock.now() - 5_000 })
  return view
}

let text: string
let again: string

beforeAll(async () => {
  const view = await makeView()
  const server = createServer(dispatch(metricsRoutes(view), (error) => expect.unreachable(String(error))))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/metrics`
  const response = await fetch(url)
  expect(response.headers.get('content-type')).toBe('text/plain; version=0.0.4; charset=utf-8')
  text = await response.text()
  again = await (await fetch(url)).text()
  await new Promise((resolve) => server.close(resolve))
})

it.each([
  'flannel_build_info{version="v1"} 1',
  'flannel_alive 0',
  'flannel_ready 0',
  'flannel_log_level_info{level="warn"} 1',
  'flannel_log_level_info{level="info"} 0',
  'flannel_lease_seconds_left +Inf',
  'flannel_lease_renewals_total 7',
  'flannel_leases{state="in_use"} 2',
  'flannel_leases{state="skipped"} 3',
  'flannel_kernel_entries{table="route",state="wanted"} 3',
  'flannel_kernel_entries{table="route",state="failed"} 1',
  'flannel_kernel_repairs_total{table="route",cause="notification"} 4',
  'flannel_apply_duration_seconds_bucket{le="0.001"} 1',
  'flannel_apply_duration_seconds_bucket{le="0.005"} 2',
  'flannel_apply_duration_seconds_bucket{le="10"} 2',
  'flannel_apply_duration_seconds_bucket{le="+Inf"} 3',
  'flannel_apply_duration_seconds_count 3',
  'flannel_compare_duration_seconds_count 0',
  'flannel_netlink_batches_total 1',
  'flannel_netlink_requests_total 2',
  'flannel_netlink_dumps_total 3',
  'flannel_netlink_errors_total 4',
  'flannel_netlink_notifications_total 5',
  'flannel_netlink_overruns_total 6',
  'flannel_etcd_requests_total{operation="watch",outcome="ok"} 1',
  'flannel_etcd_request_duration_seconds_bucket{le="0.05",operation="watch"} 1',
  'flannel_etcd_endpoint_up{endpoint="http://a:1"} 1',
  'flannel_etcd_endpoint_up{endpoint="http://b:1"} 0',
  'flannel_watch_index 42',
  'flannel_watch_failures_total 8',
  'flannel_watch_snapshots_total 1',
  'flannel_probe_peers{state="reachable"} 5',
  'flannel_probe_peers{state="unreachable"} 1',
  'flannel_probe_peers{state="pending"} 2',
  'flannel_probe_rtt_seconds_bucket{le="0.0005"} 1',
  'flannel_probe_rtt_seconds_bucket{le="0.001"} 2',
  'flannel_probe_rtt_seconds_bucket{le="+Inf"} 3',
  'flannel_probe_pings_total{outcome="answered"} 3',
  'flannel_probe_pings_total{outcome="lost"} 3',
  'flannel_firewall_checks_total 5',
  'flannel_firewall_repairs_total 2',
  'flannel_firewall_failures_total 1',
])('%s', (line) => {
  expect(text.split('\n')).toContain(line)
})

it('counts nothing twice when it is scraped again', () => {
  const own = (of: string): string[] =>
    of.split('\n').filter((line) => line.startsWith('flannel_') && !/_overdue_|_age_/.test(line))
  expect(own(again)).toEqual(own(text))
  expect(text).toMatch(/^flannel_loop_overdue_seconds\{loop="firewall"\} [5-9]/m)
})

it('has metrics of the process and the event loop', () => {
  expect(text).toMatch(/^process_cpu_seconds_total \d/m)
  expect(text).toMatch(/^nodejs_eventloop_lag_p99_seconds \d/m)
})

const promtool = (args: string[], input?: string) => spawnSync('promtool', args, { input, encoding: 'utf8' })
const missing = promtool(['--version']).error !== undefined
if (missing)
  process.stderr.write('promtool (Debian package prometheus) is not there: its checks are left out\n')

describe.skipIf(missing)('promtool finds nothing to say about', () => {
  it('the scrape', () => {
    const { status, stdout, stderr } = promtool(['check', 'metrics'], text)
    expect([status, stdout, stderr]).toEqual([0, '', ''])
  })

  it('the alert rules', () => {
    const { status, stderr } = promtool(['check', 'rules', 'docs/alerts.yml'])
    expect([status, stderr]).toEqual([0, ''])
  })

  it('what the alert rules do', () => {
    const { status, stdout, stderr } = promtool(['test', 'rules', 'test/testdata/alerts.test.yml'])
    expect([status, stderr], stdout).toEqual([0, ''])
  })
})

describe('every metric in', () => {
  const known = (): Set<string> => new Set(text.match(/^[a-z_]+/gm))

  it('the alert rules is in the scrape', () => {
    const used = readFileSync('docs/alerts.yml', 'utf8').match(/\b(flannel|process|nodejs)_[a-z_]+/g) ?? []
    expect(used.filter((name) => !known().has(name))).toEqual([])
    expect(used.length).toBeGreaterThan(8)
  })

  it('the dashboard is in the scrape', () => {
    const dashboard = JSON.parse(readFileSync('docs/grafana.json', 'utf8')) as {
      panels: { title: string; targets?: { expr: string }[] }[]
    }
    const expressions = dashboard.panels.flatMap(({ targets = [] }) => targets.map(({ expr }) => expr))
    const used = expressions.flatMap((expr) => expr.match(/\b(flannel|process|nodejs)_[a-z_]+/g) ?? [])
    expect(used.filter((name) => !known().has(name))).toEqual([])
    expect(expressions.length).toBeGreaterThan(10)
    if (missing) return
    // promtool checks expressions as rules.
    const rules = expressions.map(
      (expr, i) =>
        `  - {record: 'panel:${i}', expr: ${JSON.stringify(expr.replaceAll('$__rate_interval', '5m').replaceAll('$instance', '.*'))}}`,
    )
    const file = `groups:\n- name: dashboard\n  rules:\n${rules.join('\n')}\n`
    const dir = mkdtempSync(join(tmpdir(), 'flannel-dashboard-'))
    onTestFinished(() => rmSync(dir, { recursive: true }))
    writeFileSync(join(dir, 'rules.yml'), file)
    const { status, stderr } = promtool(['check', 'rules', join(dir, 'rules.yml')])
    expect([status, stderr]).toEqual([0, ''])
  })
})
