/** Seeing into a running daemon: status, control socket, health, metrics, log level, the bundle; and what it costs. */
import { execFile, execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { DaemonClient } from '../../src/commands/client.ts'
import type { PeerLine, Status } from '../../src/status.ts'
import { faultsOf } from '../schema.ts'
import { type Daemon, Lab, OURS, peerLeases, waitFor } from './lab.ts'

const PEERS = 3
const PORT = 10_401
const CONFIG = {
  Network: '100.64.0.0/10',
  SubnetLen: 24,
  SubnetMin: '100.124.0.0',
  Backend: { Type: 'vxlan' },
}

let lab: Lab
let daemon: Daemon

beforeAll(async () => {
  lab = await Lab.create()
  const etcd = await lab.startEtcd()
  await etcd.config(CONFIG)
  await etcd.seed(peerLeases(PEERS))
  daemon = await lab.daemon(1, {
    args: ['-ip-masq', '-healthz-port', String(PORT), '-metrics-port', String(PORT + 1)],
    env: { FLANNELD_ETCD_PASSWORD: 'hunter2' },
  })
  await daemon.waitReady()
  await waitFor(() => existsSync(daemon.controlSocket), { what: 'the control socket' })
})
afterAll(() => lab.close())

interface Outcome {
  readonly code: number
  readonly out: string
  readonly err: string
}

/** A command of the built program, as an operator types it. */
function flanneld(...args: string[]): Promise<Outcome> {
  const env = { ...process.env, FLANNELD_CONTROL_SOCKET: daemon.controlSocket }
  return new Promise((resolve) => {
    const options = { env, maxBuffer: 1 << 28 }
    const child = execFile(OURS, args, options, (_, out, err) =>
      resolve({ code: child.exitCode ?? -1, out, err }),
    )
  })
}

const client = () => new DaemonClient(daemon.controlSocket, {})
const status = () => client().json<Status>('/status')

/** What the endpoint answers: status code and body. */
async function get(path: string, port = PORT): Promise<[number, string]> {
  const text = await lab.node(1).run('curl', '-s', '-w', '\n%{http_code}', `http://127.0.0.1:${port}${path}`)
  const end = text.lastIndexOf('\n')
  return [Number(text.slice(end + 1)), text.slice(0, end)]
}

async function metric(line: string): Promise<number> {
  const [, text] = await get('/metrics')
  const found = text.split('\n').find((each) => each.startsWith(`${line} `))
  return Number(found?.slice(line.length + 1))
}

describe('flanneld status', () => {
  it('shows what the daemon believes and the kernel holds', async () => {
    await waitFor(async () => (await status()).firewall.checks > 0, { what: 'the firewall rules' })
    const { code, out } = await flanneld('status')
    expect(out).toMatch(/^state {6}ready$/m)
    expect(out).toMatch(
      new RegExp(`^lease {6}\\S+ for ${lab.address(1)}, (1d|23h59m) left, 0 renewals$`, 'm'),
    )
    expect(out).toMatch(/^interface {2}eth0 .* \(-iface eth0\)$/m)
    expect(out).toMatch(/^etcd {7}http:\/\/\S+ ok \d+\.\d ms$/m)
    expect(out).toMatch(/^route {6}3 wanted, 3 held$/m)
    expect(out.match(/^100\.64\.\d\.0\/24 .* plain {3}ok {3}ok {3}ok$/gm)).toHaveLength(PEERS)
    expect(code).toBe(0)
    for (const line of out.split('\n')) expect(line.length).toBeLessThanOrEqual(80)
  })

  it('-json is one object with every peer', async () => {
    const { out } = await flanneld('status', '-json')
    const all = JSON.parse(out) as Status & { peers: PeerLine[] }
    expect(faultsOf(all)).toEqual([])
    expect(all.version).toBe(1)
    expect(all.daemon).toMatchObject({ pid: daemon.pid, phase: 'running' })
    expect(all.lease?.subnet.replace('/', '-')).toBe(daemon.leaseKey())
    expect(all.peers.map(({ subnet }) => subnet).sort()).toEqual([
      '100.64.1.0/24',
      '100.64.2.0/24',
      '100.64.3.0/24',
    ])
    expect(all.loops.map(({ loop }) => loop).sort()).toEqual([
      'firewall',
      'lease keeper',
      'lease watch',
      'reconciler',
      'status line',
      'underlay',
    ])
    expect(all.loops.filter(({ stuck }) => stuck)).toEqual([])
  })

  it('-peers 0 lists none', async () => {
    expect((await flanneld('status', '-peers', '0')).out).not.toContain('SUBNET')
  })

  it('says so in one line when no daemon runs', async () => {
    expect(await flanneld('status', '-socket', '/nowhere/sock')).toEqual({
      code: 1,
      out: '',
      err: 'flanneld status: no flanneld is running here: there is no /nowhere/sock; if its -control-socket is another, name that with -socket\n',
    })
  })

  it('follows: a repair, a lease that joins, a bad one', async () => {
    const before = (await status()).kernel?.repairs.route?.notification ?? 0
    await lab.node(1).ip('route del 100.64.1.0/24 dev flannel.1')
    await waitFor(async () => ((await status()).kernel?.repairs.route?.notification ?? 0) === before + 1, {
      what: 'the repair to be counted',
    })
    await lab.etcd.seed(peerLeases(1, { first: 9 }))
    const joined = await waitFor(
      async () => {
        const { out } = await flanneld('status', '-json')
        const { peers } = JSON.parse(out) as { peers: PeerLine[] }
        return peers.find(({ subnet }) => subnet === '100.64.9.0/24')
      },
      { what: 'the new peer' },
    )
    expect(joined.entries).toEqual({ neighbour: 'ok', fdb: 'ok', route: 'ok' })
    expect(Date.now() - Date.parse(joined.changedAt ?? '')).toBeLessThan(60_000)
    await lab.etcd.put('/coreos.com/network/subnets/garbage', 'x')
    await waitFor(async () => (await status()).leases.skipped === 1, { what: 'the bad lease to be counted' })
    expect((await flanneld('status')).out).toMatch(/1 SKIPPED\n {11}\S*garbage: /)
    const events = await client().json<{ kind: string; text: string }[]>('/events')
    expect(events.map(({ kind, text }) => `${kind} ${text}`)).toEqual(
      expect.arrayContaining([
        expect.stringContaining('warn repaired what was changed behind our back'),
        expect.stringMatching(/^lease put lease 100\.64\.9\.0\/24 of /),
      ]),
    )
  })
})

describe('health', () => {
  it('is flannel’s /healthz, and /readyz beside it', async () => {
    expect(await get('/healthz')).toEqual([200, 'flanneld is running'])
    expect(await get('/readyz')).toEqual([200, 'flanneld is ready'])
  })

  it('is not ready while the device cannot be had, and ready again afterwards', async () => {
    const node = lab.node(1)
    // It would be back before the second command.
    daemon.signal('SIGSTOP')
    await node.ipBatch(['link del flannel.1', 'link add flannel.1 type bridge'])
    daemon.signal('SIGCONT')
    await waitFor(async () => (await get('/readyz'))[0] === 503, { what: '/readyz to go back' })
    const [, reasons] = await get('/readyz')
    expect(reasons).toContain("an interface flannel.1 of kind bridge exists already and is not flannel's")
    expect(await get('/healthz')).toEqual([200, 'flanneld is running'])
    expect(await metric('flannel_ready')).toBe(0)
    expect(await flanneld('status')).toMatchObject({ code: 1, out: expect.stringContaining('NOT READY') })
    await node.ip('link del flannel.1')
    await waitFor(async () => (await get('/readyz'))[0] === 200, { what: 'readiness to come back' })
  })

  it('has metrics that tell the same', async () => {
    expect(await metric('flannel_ready')).toBe(1)
    expect(await metric('flannel_kernel_entries{table="route",state="held"}')).toBe(PEERS + 1)
    expect(await metric('flannel_leases{state="skipped"}')).toBe(1)
    expect(await metric('flannel_lease_seconds_left')).toBeGreaterThan(80_000)
    expect(await get('/metrics', PORT + 1)).toEqual([200, expect.stringContaining('flannel_ready 1')])
    expect((await get('/healthz', PORT + 1))[0]).toBe(404)
  })
})

describe('log level', () => {
  it('is changed by a command, and by SIGUSR1', async () => {
    expect(await flanneld('log-level')).toEqual({ code: 0, out: 'info\n', err: '' })
    expect(await flanneld('log-level', 'trace')).toEqual({ code: 0, out: 'trace\n', err: '' })
    await lab.node(1).ip('route del 100.64.2.0/24 dev flannel.1')
    await daemon.waitLog(/trace netlink < RTM_DELROUTE .*100\.64\.2\.0/)
    await daemon.waitLog(/trace netlink > RTM_NEWROUTE .*100\.64\.2\.0/)
    daemon.signal('SIGUSR1')
    await daemon.waitLog(/Log level changed from trace to info/)
    daemon.signal('SIGUSR1')
    await daemon.waitLog(/Log level changed from info to debug/)
    daemon.signal('SIGUSR1')
    await daemon.waitLog(/Log level changed from debug to info/)
    expect(await flanneld('log-level', 'loud')).toMatchObject({ code: 2, out: '' })
  })
})

it('the bundle has all that a report needs, and no secret', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'flannel-bundle-'))
  onTestFinished(() => rmSync(dir, { recursive: true }))
  const file = join(dir, 'b.tar.gz')
  expect(await flanneld('bundle', '-o', file)).toMatchObject({ code: 0, out: `${file}\n` })
  expect(statSync(file).mode & 0o777).toBe(0o600)
  const names = execFileSync('tar', ['-tzf', file], { encoding: 'utf8' }).trim().split('\n')
  for (const part of [
    'daemon/status.json',
    'daemon/peers.jsonl',
    'kernel/route.txt',
    'firewall/iptables-save.txt',
    'journal.txt',
  ])
    expect(
      names.some((name) => name.endsWith(`/${part}`)),
      part,
    ).toBe(true)
  execFileSync('tar', ['-xzf', file, '-C', dir, '--strip-components=1'])
  expect(JSON.parse(readFileSync(join(dir, 'daemon/status.json'), 'utf8'))).toMatchObject({ version: 1 })
  const environment = readFileSync(join(dir, 'daemon/environment.txt'), 'utf8')
  expect(environment).toContain('FLANNELD_ETCD_PASSWORD=(removed)')
  expect(execFileSync('tar', ['-xzOf', file], { encoding: 'utf8' })).not.toContain('hunter2')
})

it('a second daemon says that the socket is taken, and runs all the same', async () => {
  const second = await lab.daemon(1, {
    runDir: join(lab.dir, 'second'),
    args: ['-control-socket', daemon.controlSocket],
  })
  await second.waitReady()
  await second.waitLog(
    new RegExp(`warn {2}Another flanneld \\(pid ${daemon.pid}\\) serves the control socket`),
  )
  await second.stop()
  expect((await status()).daemon.pid).toBe(daemon.pid)
})

it('an orderly end takes the socket along; an empty flag opens none', async () => {
  await daemon.stop()
  expect(existsSync(daemon.controlSocket)).toBe(false)
  const without = await lab.daemon(1, { runDir: join(lab.dir, 'without'), args: ['-control-socket='] })
  await without.waitReady()
  await waitFor(
    () =>
      /Adding iptables rule|iptables rules/.test(without.log()) ||
      without.log().includes('Wrote docker options'),
    {
      what: 'the daemon to go about its work',
    },
  )
  expect(existsSync(without.controlSocket)).toBe(false)
  await without.stop()
})

it('a daemon that waits for etcd can be asked what it waits for', async () => {
  await lab.etcd.delete('/coreos.com/network/config')
  daemon = await lab.daemon(1, { runDir: join(lab.dir, 'waiting') })
  await waitFor(() => existsSync(daemon.controlSocket), { what: 'the control socket' })
  const { code, out } = await flanneld('status')
  expect(code).toBe(1)
  expect(out).toMatch(/^state {6}NOT READY \(waiting for config\)$/m)
  await daemon.stop()
})
