/** -peer-probe-interval: a peer that is cut off is named and counted, and comes back, over each backend that can be pinged. */
import { execFile, spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { DaemonClient } from '../../src/commands/client.ts'
import type { PeerLine, Status } from '../../src/status.ts'
import { faultsOf } from '../schema.ts'
import { type Daemon, Lab, OURS, waitFor } from './lab.ts'

const PORT = 10_402
const EVERY_SECOND = ['-peer-probe-interval', '1', '-healthz-port', String(PORT)]

/** Tests run side by side, each in a lab of its own: they wait more than they work. */
async function makeLab(
  nodes: number,
  Backend: unknown,
  end: (clean: () => Promise<void>) => void,
): Promise<Lab> {
  const lab = await Lab.create({ nodes })
  end(() => lab.close())
  await lab.startEtcd()
  await configure(lab, Backend)
  return lab
}

const configure = (lab: Lab, Backend: unknown): Promise<unknown> =>
  lab.etcd.config({ Network: '172.30.0.0/16', SubnetLen: 24, Backend })

const client = (daemon: Daemon): DaemonClient => new DaemonClient(daemon.controlSocket, {})
const probes = async (daemon: Daemon): Promise<Status['probes']> =>
  (await client(daemon).json<Status>('/status')).probes

async function peers(daemon: Daemon): Promise<PeerLine[]> {
  const lines: PeerLine[] = []
  for await (const line of await client(daemon).lines('/peers')) lines.push(JSON.parse(line) as PeerLine)
  expect(lines.flatMap((line) => faultsOf(line, 'peer'))).toEqual([])
  return lines
}

const get = (lab: Lab, path: string): Promise<string> =>
  lab.node(1).run('curl', '-s', `http://127.0.0.1:${PORT}${path}`)

function statusOf(daemon: Daemon): Promise<string> {
  return new Promise((resolve) =>
    execFile(OURS, ['status', '-socket', daemon.controlSocket], (_, out) => resolve(out)),
  )
}

const waitCounts = (daemon: Daemon, counts: Partial<NonNullable<Status['probes']>>): Promise<unknown> =>
  waitFor(
    async () => {
      const now = await probes(daemon)
      return Object.entries(counts).every(([name, count]) => now?.[name as 'reachable'] === count)
    },
    {
      what: () => `probes to be ${JSON.stringify(counts)}; the log: ${daemon.log().slice(-2000)}`,
      timeout: 30_000,
    },
  )

/** What a real scrape is to Prometheus: nothing to complain of, and all there that the alerts and the dashboard ask for. */
function expectScrape(text: string): void {
  const { error, status, stdout, stderr } = spawnSync('promtool', ['check', 'metrics'], {
    input: text,
    encoding: 'utf8',
  })
  // metrics.test.ts says so when there is no promtool.
  if (error === undefined) expect([status, stdout, stderr]).toEqual([0, '', ''])
  const there = new Set(text.match(/^[a-z_]+/gm))
  for (const file of ['docs/alerts.yml', 'docs/grafana.json']) {
    const asked = readFileSync(file, 'utf8').match(/\b(flannel|process|nodejs)_[a-z_]+\b/g) ?? []
    expect(asked.filter((name) => !there.has(name))).toEqual([])
  }
}

const literally = (text: string): string => text.replaceAll(/[.()/]/g, '\\$&')

test.concurrent.for([
  { name: 'vxlan', backend: { Type: 'vxlan' } },
  { name: 'vxlan with DirectRouting', backend: { Type: 'vxlan', DirectRouting: true } },
  { name: 'host-gw', backend: { Type: 'host-gw' } },
  { name: 'udp', backend: { Type: 'udp' } },
])(
  '$name: a peer that is cut off is named and counted, and so is its return',
  async ({ backend }, { onTestFinished }) => {
    const lab = await makeLab(3, backend, onTestFinished)
    const daemon = await lab.daemon(1, { args: EVERY_SECOND })
    const others = [await lab.daemon(2), await lab.daemon(3)]
    for (const each of [daemon, ...others]) await each.waitReady()
    await waitCounts(daemon, { reachable: 2, unreachable: 0, pending: 0 })
    const { rttMs } = (await probes(daemon)) ?? {}
    expect(rttMs?.least).toBeGreaterThan(0)
    expect(rttMs?.most).toBeLessThan(1_000)
    expect(await statusOf(daemon)).toMatch(/^pings {6}2 reachable, round trip \S+ ms, every 1s$/m)

    const away = others[1] as Daemon
    const name = `${away.leaseKey().replace('-', '/')} (${lab.address(3)})`
    await lab.switch.ip('link set p3 down')
    await waitCounts(daemon, { reachable: 1, unreachable: 1, pending: 0 })
    await daemon.waitLog(
      new RegExp(`warn {2}Peers no longer answer pings: ${literally(name)}; 1 of 2 do not answer`),
    )
    expect((await peers(daemon)).map(({ subnet, probe }) => [subnet, probe?.reachable])).toEqual([
      [away.leaseKey().replace('-', '/'), false],
      [others[0]?.leaseKey().replace('-', '/'), true],
    ])
    const screen = await statusOf(daemon)
    expect(screen).toMatch(/^state {6}ready$/m)
    expect(screen).toMatch(/^pings {6}1 reachable, 1 UNREACHABLE, /m)
    expect(screen).toMatch(new RegExp(`^${literally(away.leaseKey().replace('-', '/'))} .* LOST `, 'm'))
    expect(await get(lab, '/readyz')).toBe('flanneld is ready')
    const metrics = await get(lab, '/metrics')
    expectScrape(metrics)
    expect(metrics).toContain('\nflannel_probe_peers{state="unreachable"} 1\n')
    expect(metrics).toMatch(/^flannel_probe_pings_total\{outcome="lost"\} ([3-9]|\d{2,})$/m)
    expect(metrics).toMatch(/^flannel_probe_rtt_seconds_count [1-9]/m)
    expect(await get(lab, '/')).toMatch(/1 of 2 peers are not as they should be/)
    expect(await get(lab, '/page/table?state=amiss')).toContain('does not answer')

    await lab.switch.ip('link set p3 up')
    await waitCounts(daemon, { reachable: 2, unreachable: 0 })
    await daemon.waitLog(
      new RegExp(`info {2}Peers answer pings again: ${literally(name)}; 0 of 2 do not answer`),
    )
    const events = await client(daemon).json<{ text: string }[]>('/events')
    expect(events.filter(({ text }) => text.startsWith('Peers '))).toHaveLength(2)
  },
)

test.concurrent('off, nothing is pinged, and nothing of it is shown', async ({ onTestFinished }) => {
  const lab = await makeLab(1, { Type: 'vxlan' }, onTestFinished)
  const daemon = await lab.daemon(1, { args: ['-healthz-port', String(PORT)] })
  await daemon.waitReady()
  await waitFor(async () => (await get(lab, '/readyz')) === 'flanneld is ready', { what: 'readiness' })
  expect(await probes(daemon)).toBeNull()
  expect(await statusOf(daemon)).not.toContain('pings')
  expect(await get(lab, '/metrics')).not.toMatch(/^flannel_probe/m)
  expect(await lab.node(1).run('cat', '/proc/net/raw')).not.toMatch(/^ *\d+:/m)
})

test.concurrent('says in one line why it cannot ping: no right to, or nothing that answers', async ({
  onTestFinished,
}) => {
  const lab = await makeLab(2, { Type: 'vxlan' }, onTestFinished)
  // Without CAP_NET_RAW, as a container may be.
  const weak = join(lab.dir, 'weak')
  writeFileSync(weak, `#!/bin/sh\nexec setpriv --inh-caps -net_raw --bounding-set -net_raw ${OURS} "$@"\n`, {
    mode: 0o755,
  })
  const daemon = await lab.daemon(1, {
    binary: weak,
    args: [...EVERY_SECOND, '-iptables-forward-rules=false', '-docker-opts-file=', '-control-socket='],
  })
  await daemon.waitReady()
  await daemon.waitLog(
    /warn {2}Peers are not pinged: open a raw socket for pings: EPERM: give flanneld CAP_NET_RAW/,
  )
  expect(daemon.running).toBe(true)
  expect(await get(lab, '/readyz')).toBe('flanneld is ready')
  await configure(lab, { Type: 'alloc' })
  const alloc = await lab.daemon(2, { args: EVERY_SECOND })
  await alloc.waitReady()
  await alloc.waitLog(
    /-peer-probe-interval has no effect: nothing of a peer answers pings over backend alloc/,
  )
})
