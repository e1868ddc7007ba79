import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { differences } from './checker.ts'
import {
  type Daemon,
  Lab,
  leaseValue,
  monotonic,
  PREFIX,
  peerLeases,
  REPOSITORY,
  startMonitor,
  startPinger,
  waitFor,
} from './lab.ts'
import { run } from './process.ts'
import { startProxy } from './proxy.ts'

vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 })

/** The lab itself, shown with a tunnel made by hand: no flanneld is needed. */
describe('two nodes and an etcd', () => {
  let lab: Lab

  beforeAll(async () => {
    lab = await Lab.create({ nodes: 2 })
    await lab.startEtcd()
  })
  afterAll(() => lab?.close())

  test('nodes reach each other and the world outside, pods reach each other through a tunnel', async () => {
    expect(await lab.node(1).ping(lab.address(2))).toBe(true)
    expect(await lab.node(2).ping(lab.outside)).toBe(true)
    for (const [here, there] of [
      [1, 2],
      [2, 1],
    ] as const) {
      await lab
        .node(here)
        .ipBatch([
          `link add flannel.1 address 02:00:00:00:00:0${here} type vxlan id 1 dev eth0 local ${lab.address(here)} dstport 8472 nolearning`,
          `address add 10.9.${here}.0/32 dev flannel.1`,
          'link set flannel.1 up',
          `neigh replace 10.9.${there}.0 lladdr 02:00:00:00:00:0${there} dev flannel.1 nud permanent`,
          `route replace 10.9.${there}.0/24 via 10.9.${there}.0 dev flannel.1 onlink`,
        ])
      await lab
        .node(here)
        .bridge(`fdb replace 02:00:00:00:00:0${there} dev flannel.1 dst ${lab.address(there)} self permanent`)
    }
    expect(await lab.node(1).routes('flannel.1')).toEqual(['10.9.2.0/24 via 10.9.2.0 onlink'])
    expect(await lab.node(1).neighbours('flannel.1')).toEqual(['10.9.2.0 lladdr 02:00:00:00:00:02 PERMANENT'])
    expect(await lab.node(1).fdb('flannel.1')).toEqual([
      `02:00:00:00:00:02 dst ${lab.address(2)} self permanent`,
    ])
    expect(await lab.node(1).ping('10.9.2.0')).toBe(true)
  })

  test('a pinger counts every echo that a pulled cable loses, and none otherwise', async () => {
    const calm = await startPinger(lab.node(1), lab.address(2))
    await waitFor(() => calm.received() >= 10, { what: 'ten answers' })
    expect(await calm.stop()).toMatchObject({ lost: [] })

    const rough = await startPinger(lab.node(1), lab.address(2))
    await lab.switch.ip('link set p2 down')
    const before = rough.received()
    const pulledAt = monotonic()
    await waitFor(() => monotonic() - pulledAt > 200, { what: 'some echoes to be lost' })
    await lab.switch.ip('link set p2 up')
    await waitFor(() => rough.received() > before + 5, { what: 'answers again' })
    const report = await rough.stop()
    expect(report.lost.length).toBeGreaterThanOrEqual(5)
    expect(report.sent).toBe(report.received + report.lost.length)
  })

  test('a monitor sees what the kernel is told from the moment it is started', async () => {
    const monitor = await startMonitor(lab.node(1), 'route')
    await lab.node(1).ip('route add blackhole 192.0.2.0/24')
    await waitFor(() => monitor.lines().some((line) => line.includes('192.0.2.0/24')), { what: 'the route' })
    expect((await monitor.stop()).join('\n')).toContain('blackhole 192.0.2.0/24')
  })

  test('the observer tells when each route, neighbour and FDB entry first appeared', async () => {
    const node = lab.node(2)
    await lab.observer.watch(node.name)
    const before = monotonic() * 1e6
    await node.ip('route add 198.51.100.0/24 via 10.77.0.1')
    await node.ip('neigh add 10.77.0.99 lladdr 02:00:00:00:00:99 dev eth0 nud permanent')
    await node.bridge('fdb add 02:00:00:00:00:98 dev flannel.1 dst 10.77.0.98 self permanent')
    const { route, neighbour, fdb } = await lab.observer.firstSeen(node.name)
    for (const at of [route['198.51.100.0'], neighbour['10.77.0.99'], fdb['02:00:00:00:00:98']]) {
      expect(at).toBeGreaterThan(before)
      expect(at).toBeLessThan(monotonic() * 1e6)
    }
    expect(await lab.observer.counts(node.name)).toMatchObject({ route: 1, overrun: 0 })
  })

  test('etcd is seeded, killed, restarted with its data, and replaced by an empty one', async () => {
    const { etcd } = lab
    const leases = peerLeases(300)
    await etcd.seed(leases)
    const stored = await etcd.leases()
    expect(new Map(stored.map(({ key, value }) => [key, value]))).toEqual(
      new Map(leases.map((lease) => [`${PREFIX}/subnets/${lease.key}`, leaseValue(lease)])),
    )
    expect(stored[0]?.ttl).toBeGreaterThan(86_000)
    await etcd.stop('SIGKILL')
    await expect(etcd.get(PREFIX)).rejects.toThrow()
    await etcd.restart()
    expect(await etcd.leases()).toHaveLength(300)
    await etcd.delete(`${PREFIX}/subnets/${leases[0]?.key}`)
    expect(await etcd.leases()).toHaveLength(299)
    await etcd.replace()
    expect(await etcd.get(PREFIX)).toBeUndefined()
  })
})

test('the checker finds nothing on a right node, and every kind of wrong entry on a wrong one', async () => {
  const lab = await Lab.create({ nodes: 1 })
  try {
    const node = lab.node(1)
    const etcd = await lab.startEtcd()
    await node.ipBatch([
      `link add flannel.1 address 02:00:00:00:00:0a type vxlan id 1 dev eth0 local ${lab.address(1)} dstport 8472 nolearning`,
      'address add 10.9.1.0/32 dev flannel.1',
      'link set flannel.1 up',
    ])
    const own = { key: '10.9.1.0-24', publicIP: lab.address(1), mac: '02:00:00:00:00:0a' }
    const peers = peerLeases(3, { network: '10.9.16.0' })
    await etcd.seed([own, ...peers])
    const expected = { leases: await etcd.leases(), own: own.key, local: lab.address(1) }
    const [, second] = peers
    expect(await differences(node, expected)).toHaveLength(9)
    for (const { key, publicIP, mac } of peers) {
      const [subnet, length] = key.split('-')
      await node.ip(`neigh replace ${subnet} lladdr ${mac} dev flannel.1 nud permanent`)
      await node.bridge(`fdb replace ${mac} dev flannel.1 dst ${publicIP} self permanent`)
      await node.ip(`route replace ${subnet}/${length} via ${subnet} dev flannel.1 onlink`)
    }
    expect(await differences(node, expected)).toEqual([])

    await node.ip('route del 10.9.17.0/24')
    await node.ip('route add 10.99.0.0/24 via 10.9.18.0 dev flannel.1 onlink')
    await node.ip(`neigh replace 10.9.17.0 lladdr ${second?.mac} dev flannel.1 nud permanent`)
    await node.bridge('fdb add 02:00:00:00:00:77 dev flannel.1 dst 10.200.9.9 self permanent')
    await node.ip('address add 10.9.1.1/32 dev flannel.1')
    await node.ip('link set flannel.1 mtu 1400')
    expect([...(await differences(node, expected))].sort()).toEqual([
      'device flannel.1: addresses is 10.9.1.0/32 10.9.1.1/32, should be 10.9.1.0/32',
      'device flannel.1: mtu is 1400, should be 1450',
      'missing neigh: 10.9.17.0 lladdr 02:00:00:00:00:01 PERMANENT',
      'missing route: 10.9.17.0/24 via 10.9.17.0 proto boot onlink',
      'stale fdb: 02:00:00:00:00:77 dst 10.200.9.9 self permanent',
      'stale neigh: 10.9.17.0 lladdr 02:00:00:00:00:02 PERMANENT',
      'stale route: 10.99.0.0/24 via 10.9.18.0 proto boot onlink',
    ])
    await node.ip('link del flannel.1')
    expect(await differences(node, expected)).toEqual(['missing device: flannel.1'])
  } finally {
    await lab.close()
  }
})

test('a proxy in the switch stands between a node and etcd', async () => {
  const lab = await Lab.create({ nodes: 1 })
  try {
    const etcd = await lab.startEtcd()
    await etcd.config('here')
    const listen = { host: lab.outside, port: 4001 }
    const proxy = await startProxy(lab.switch, listen, { host: lab.outside, port: 2379 })
    lab.onClose(() => proxy.close())
    const read = (): Promise<string> =>
      lab
        .node(1)
        .run('curl', '-sS', '-m', '1', `http://${listen.host}:${listen.port}/v2/keys${PREFIX}/config`)
    expect(await read()).toContain('here')
    await proxy.set({ toClient: { kind: 'stall' } })
    await expect(read()).rejects.toThrow(/timed out/)
    await proxy.set({ toClient: { kind: 'pass' }, door: 'refuse' })
    await expect(read()).rejects.toThrow(/curl: \(/)
    await proxy.set({ door: 'open' })
    expect(await read()).toContain('here')
    expect((await proxy.stats()).accepted).toBe(4)
  } finally {
    await lab.close()
  }
})

test('the in-memory etcd serves a node where there is no real one', async () => {
  const lab = await Lab.create({ nodes: 1 })
  try {
    const etcd = await lab.startEtcd({ inMemory: true })
    await etcd.config('in memory')
    await etcd.seed(peerLeases(100))
    expect(await etcd.leases()).toHaveLength(100)
    expect(await lab.node(1).run('curl', '-sS', `${etcd.endpoints}/v2/keys${PREFIX}/config`)).toContain(
      'in memory',
    )
  } finally {
    await lab.close()
  }
})

test('three etcd members with TLS serve nodes that show a certificate, and only those', async () => {
  const lab = await Lab.create({ nodes: 1 })
  try {
    const etcd = await lab.startEtcd({ members: 3, tls: true })
    await etcd.config({ Network: '10.9.0.0/16' })
    const [first = ''] = etcd.endpoints.split(',')
    const url = `${first}/v2/keys${PREFIX}/config`
    const { caFile = '', clientCertFile = '', clientKeyFile = '' } = etcd.tls ?? {}
    const curl = ['curl', '-sS', '--cacert', caFile, url]
    const answer = await lab.node(1).run(...curl, '--cert', clientCertFile, '--key', clientKeyFile)
    expect(answer).toContain('10.9.0.0/16')
    await expect(lab.node(1).run(...curl)).rejects.toThrow(/curl/)
  } finally {
    await lab.close()
  }
})

test('close removes every namespace, process and file, also when something fails to start', async () => {
  const lab = await Lab.create({ nodes: 2 })
  const etcd = await lab.startEtcd()
  const pids = etcd.members.map(({ pid }) => pid)
  lab.onClose(() => Promise.reject(new Error('one clean-up fails')))
  await expect(lab.startEtcd({ args: ['--no-such-flag'] })).rejects.toThrow()
  await expect(lab.close()).rejects.toThrow(/clean-up/)
  expect(await run(['ip', 'netns', 'list'])).not.toContain(lab.name)
  for (const pid of pids) expect(() => process.kill(pid ?? 0, 0)).toThrow()
  await expect(run(['ls', lab.dir])).rejects.toThrow()
})

test('a killed test process leaves no namespace and no etcd behind', async () => {
  const script = `import { Lab } from './test/netns/lab.ts'
    const lab = await Lab.create({ nodes: 1 })
    const etcd = await lab.startEtcd()
    process.stdout.write(lab.name + ' ' + etcd.members[0].pid + '\\n')
    setInterval(() => undefined, 1000)`
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], { cwd: REPOSITORY })
  const [line] = (await once(child.stdout, 'data')) as [Buffer]
  const [name = '', pid] = line.toString().trim().split(' ')
  expect(await run(['ip', 'netns', 'list'])).toContain(name)
  child.kill('SIGKILL')
  await waitFor(async () => !(await run(['ip', 'netns', 'list'])).includes(name), {
    what: 'namespaces to go',
  })
  await waitFor(() => !existsSync(`/proc/${pid}`), { what: 'etcd to go' })
})

/** With another flanneld at hand, the whole way: daemon, files, readiness, pods. */
test.runIf(process.env.FLANNEL_PEER)('a daemon is started, watched and stopped; its pods talk', async () => {
  const binary = process.env.FLANNEL_PEER ?? ''
  const lab = await Lab.create({ nodes: 2 })
  try {
    const etcd = await lab.startEtcd()
    await etcd.config({ Network: '10.9.0.0/16', Backend: { Type: 'vxlan' } })
    const daemons: Daemon[] = []
    for (const i of [1, 2]) daemons.push(await lab.daemon(i, { binary, args: ['-ip-masq'] }))
    const [one, two] = daemons as [Daemon, Daemon]
    expect(await one.waitReady()).toBeGreaterThan(0)
    await two.waitReady()
    expect((await etcd.leases()).map(({ key }) => key.split('/').at(-1)).sort()).toEqual(
      daemons.map((daemon) => daemon.leaseKey()).sort(),
    )
    await one.waitLog(/Wrote subnet file/)
    expect(one.status().rss).toBeGreaterThan(1000)
    const pods = [await lab.pod(one), await lab.pod(two)] as const
    await waitFor(() => pods[0].namespace.ping(pods[1].address), { what: 'pods to reach each other' })
    expect(await one.stop()).toEqual({ code: 0, signal: null })
  } finally {
    await lab.close()
  }
})
