/**
 * Stopping and starting: what stays, what a start finds and puts right, and when systemd is told so. Under all of it the
 * pods keep talking.
 */
import { spawnSync } from 'node:child_process'
import { readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import { differences } from './checker.ts'
import {
  type Daemon,
  Lab,
  monotonic,
  type Namespace,
  OURS,
  type PeerLease,
  PREFIX,
  peerLeases,
  startMonitor,
  startPinger,
  waitFor,
} from './lab.ts'
import type { Pod } from './pod.ts'
import { startProxy } from './proxy.ts'
import { ruled, settled } from './settled.ts'
import { kernelState } from './state.ts'

vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 })

const CONFIG = '{"Network":"172.30.0.0/16","SubnetLen":21,"Backend":{"Type":"vxlan"}}'

/** All that a start must find again. */
async function stateOf(daemon: Daemon): Promise<Readonly<Record<string, string>>> {
  return {
    ...(await kernelState(daemon.namespace)),
    subnetFile: readFileSync(daemon.subnetFile, 'utf8'),
    dockerFile: readFileSync(daemon.dockerFile, 'utf8'),
  }
}

describe('two nodes with pods, and peers that exist in etcd only', () => {
  let lab: Lab
  let one: Daemon
  let two: Daemon
  let pods: readonly [Pod, Pod]
  const peers = peerLeases(20, { network: '172.30.0.0', length: 21 })

  const start = (i: number): Promise<Daemon> => lab.daemon(i, { args: ['-ip-masq'] })

  beforeAll(async () => {
    lab = await Lab.create({ nodes: 2 })
    const etcd = await lab.startEtcd()
    await etcd.config(CONFIG)
    await etcd.seed(peers)
    one = await start(1)
    two = await start(2)
    for (const daemon of [one, two]) await daemon.waitReady()
    pods = [await lab.pod(one), await lab.pod(two)]
    await settled(lab, one, 1)
    await settled(lab, two, 2)
    for (const daemon of [one, two]) await ruled(daemon)
  })
  afterAll(() => lab?.close())

  test.each(['SIGTERM', 'SIGINT'] as const)(
    '%s ends it with status 0 at once, and everything stays',
    async (signal) => {
      const before = await stateOf(one)
      const lease = await lab.etcd.get(`${PREFIX}/subnets/${one.leaseKey()}`)
      const took: number[] = []
      for (let run = 0; run < 5; run++) {
        const at = monotonic()
        expect(await one.stop(signal)).toEqual({ code: 0, signal: null })
        took.push(monotonic() - at)
        expect(one.log()).toMatch(/shutdownHandler sent cancel signal\.\.\.[\s\S]*Exiting cleanly\.\.\.\n$/)
        await waitFor(() => one.notices.at(-1)?.text === 'STOPPING=1', { what: 'STOPPING=1' })
        expect(await stateOf(one)).toEqual(before)
        one = await start(1)
        await one.waitReady()
      }
      took.sort((a, b) => a - b)
      expect(took.at(-1)).toBeLessThan(1000)
      process.stdout.write(`${signal} to exit: median ${took[2]?.toFixed(0)} ms of 5\n`)
      expect(await stateOf(one)).toEqual(before)
      expect((await lab.etcd.get(`${PREFIX}/subnets/${one.leaseKey()}`))?.value).toBe(lease?.value)
    },
  )

  test('a restart writes nothing to the kernel: no entry is deleted, and none is made anew', async () => {
    // The kernel tells of a link-local address once more when a second has passed in which nobody else claimed it.
    const addresses = (): Promise<string> => one.namespace.ip('-6 address show dev flannel.1')
    await waitFor(async () => !(await addresses()).includes('tentative'), { what: 'the link-local address' })
    const before = await stateOf(one)
    const monitor = await startMonitor(one.namespace, 'link address route neigh nexthop')
    await lab.observer.watch(one.namespace.name)
    await one.stop()
    one = await start(1)
    await one.waitReady()
    await settled(lab, one, 1)
    // A route that we know of tells that the monitor has seen all before it.
    await one.namespace.ip('route add blackhole 192.0.2.0/24')
    await waitFor(() => monitor.lines().some((line) => line.includes('192.0.2.0/24')), { what: 'the marker' })
    await one.namespace.ip('route del blackhole 192.0.2.0/24')
    const seen = (await monitor.stop()).filter((line) => !line.includes('192.0.2.0/24'))
    expect(seen.filter((line) => /flannel\.1|172\.30\.|[Dd]eleted/.test(line))).toEqual([])
    const { route, fdb, neighbour } = await lab.observer.firstSeen(one.namespace.name)
    expect(Object.keys(route)).toEqual(['192.0.2.0'])
    expect(Object.keys(fdb)).toEqual([])
    expect(Object.keys(neighbour).filter((key) => key.startsWith('172.30.'))).toEqual([])
    expect(await stateOf(one)).toEqual(before)
  })

  test('kill -9 and a start lose no packet between pods, and keep subnet, MAC and interface index', async () => {
    const before = await stateOf(one)
    const pingers = [
      await startPinger(pods[0].namespace, pods[1].address),
      await startPinger(pods[1].namespace, pods[0].address),
    ]
    const more = async (): Promise<void> => {
      const counts = pingers.map((pinger) => pinger.received())
      const all = (): boolean => pingers.every((pinger, i) => pinger.received() > (counts[i] ?? 0) + 10)
      await waitFor(all, { what: 'pings to go on' })
    }
    for (let run = 0; run < 3; run++) {
      await one.stop('SIGKILL')
      await more()
      one = await start(1)
      await one.waitReady()
      await more()
    }
    for (const pinger of pingers) expect((await pinger.stop()).lost).toEqual([])
    expect(await stateOf(one)).toEqual(before)
  })

  test('a MAC that somebody changed while nobody looked is changed back: peers know the one in the lease', async () => {
    const before = await stateOf(one)
    const lease = await lab.etcd.get(`${PREFIX}/subnets/${one.leaseKey()}`)
    await one.stop('SIGKILL')
    await one.namespace.ip('link set flannel.1 address 02:00:00:00:77:77')
    one = await start(1)
    await one.waitReady()
    expect(await stateOf(one)).toEqual(before)
    expect((await lab.etcd.get(`${PREFIX}/subnets/${one.leaseKey()}`))?.value).toBe(lease?.value)
    await settled(lab, one, 1)
    await settled(lab, two, 2)
  })

  test('what is wrong in the kernel at the start is right when READY=1 comes', async () => {
    const node = one.namespace
    await one.stop('SIGKILL')
    const { mac, mtu } = await linkOf(node)
    const [right, wrongMac, wrongDst, noRoute, noNeighbour, noFdb, gone] = peers as PeerLease[]
    const at = (peer: PeerLease | undefined): string => (peer?.key ?? '').split('-')[0] ?? ''
    await lab.etcd.delete(`${PREFIX}/subnets/${gone?.key}`)
    await node.ipBatch([
      // A peer of an earlier run, of which etcd knows nothing.
      'neigh replace 172.30.200.0 lladdr 02:00:00:00:0d:ad dev flannel.1 nud permanent',
      'route replace 172.30.200.0/21 via 172.30.200.0 dev flannel.1 onlink',
      `neigh replace ${at(wrongMac)} lladdr 02:00:00:00:0b:ad dev flannel.1 nud permanent`,
      `route del ${at(noRoute)}/21`,
      `neigh del ${at(noNeighbour)} dev flannel.1`,
      // Not ours by its form, but on our device.
      'route add 203.0.113.0/24 dev flannel.1',
      `route replace ${at(right)}/24 via ${lab.outside} dev eth0`,
      // Not ours.
      `route add 198.51.100.0/24 via ${lab.outside} dev eth0`,
      `link set flannel.1 mtu ${mtu - 100}`,
    ])
    await node.bridge('fdb replace 02:00:00:00:0d:ad dev flannel.1 dst 10.200.200.200 self permanent')
    await node.bridge(`fdb replace ${wrongDst?.mac} dev flannel.1 dst 10.200.201.201 self permanent`)
    await node.bridge(`fdb del ${noFdb?.mac} dev flannel.1 dst ${noFdb?.publicIP} self permanent`)
    const leases = await lab.etcd.leases()
    const expected = { leases, own: one.leaseKey(), local: lab.address(1) }
    expect((await differences(node, expected)).length).toBeGreaterThan(10)

    one = await start(1)
    await one.waitReady()
    expect(await differences(node, expected)).toEqual([])
    expect((await linkOf(node)).mac).toBe(mac)
    const routes = await node.routes()
    expect(routes).toContain(`198.51.100.0/24 via ${lab.outside} dev eth0 `.trim())
    expect(await pods[0].namespace.ping(pods[1].address, 3)).toBe(true)
    await node.ipBatch(['route del 198.51.100.0/24'])
    await node.ip(`route del ${at(right)}/24`).catch(() => undefined)
  })

  test('what is changed while etcd makes its list of leases is right at READY=1, too', async () => {
    await one.stop()
    const node = one.namespace
    const target = { host: lab.outside, port: 2379 }
    const proxy = await startProxy(lab.switch, { host: lab.outside, port: 4001 }, target)
    lab.onClose(() => proxy.close())
    // The config is shorter than that, the list longer.
    await proxy.set({ toClient: { kind: 'stall', after: 1500 } })
    one = await lab.daemon(1, { args: ['-ip-masq', '-etcd-endpoints', `http://${lab.outside}:4001`] })
    await waitFor(async () => (await proxy.stats()).held > 0, { what: 'the list to be on its way' })
    await one.waitLog(/Found network config/)
    const [first, second, third] = peers.map(({ key, mac }) => ({ at: key.split('-')[0] ?? '', mac }))
    await node.ipBatch([
      `route del ${first?.at}/21 dev flannel.1`,
      `neigh replace ${second?.at} lladdr 02:00:00:00:0d:ad dev flannel.1 nud reachable`,
    ])
    await node.bridge(`fdb replace ${third?.mac} dev flannel.1 dst 10.200.201.201 self permanent`)
    const expected = { leases: await lab.etcd.leases(), own: one.leaseKey(), local: lab.address(1) }
    expect((await differences(node, expected)).length).toBeGreaterThanOrEqual(3)
    await proxy.set({ toClient: { kind: 'pass' } })
    await one.waitReady()
    expect(await differences(node, expected)).toEqual([])
    await proxy.close()
    await one.stop()
    one = await start(1)
    await one.waitReady()
  })

  test('without its lease in etcd, the subnet of the last run is leased again', async () => {
    const key = one.leaseKey()
    await one.stop()
    await lab.etcd.delete(`${PREFIX}/subnets/${key}`)
    one = await start(1)
    await one.waitReady()
    expect(one.leaseKey()).toBe(key)
    expect(one.log()).toContain(`Found previously leased subnet (${key.replace('-', '/')}), reusing`)
    await settled(lab, one, 1)
    await settled(lab, two, 2)
  })

  test('a subnet that another node has meanwhile is not taken back, and the rules for it go', async () => {
    const key = one.leaseKey()
    await one.stop()
    await lab.etcd.putLease({ key, publicIP: '10.200.77.77', mac: '02:00:00:00:77:77' })
    // Docker would be started over with the new options.
    await one.namespace.ip('link del docker0')
    one = await start(1)
    await one.waitReady()
    expect(one.leaseKey()).not.toBe(key)
    expect(one.log()).toMatch(/ warn +Previously leased subnet \(.*\) is leased to 10\.200\.77\.77 meanwhile/)
    await settled(lab, one, 1)
    await settled(lab, two, 2)
    await waitFor(async () => !(await one.namespace.run('iptables-save')).includes(key.replace('-', '/')), {
      what: 'the old rule to go',
    })
    await ruled(one)
    const rules = await one.namespace.run('iptables-save', '-t', 'nat')
    expect(rules).toContain(`! -s 172.30.0.0/16 -d ${one.leaseKey().replace('-', '/')} -j RETURN`)
    expect([...rules.matchAll(/^-A POSTROUTING/gm)]).toHaveLength(4)
  })

  test('it ends at once while etcd is away, or was never there', async () => {
    await lab.etcd.stop('SIGKILL')
    try {
      await two.waitLog(/ error .*Watch subnets: /)
      const waiting = await lab.daemon(1, { runDir: join(lab.dir, 'waiting') })
      await waiting.waitLog(/ error .*Couldn't fetch network config: /)
      for (const daemon of [two, waiting]) {
        const at = monotonic()
        expect(await daemon.stop()).toEqual({ code: 0, signal: null })
        expect(monotonic() - at).toBeLessThan(1000)
      }
    } finally {
      await lab.etcd.restart()
    }
    two = await start(2)
    await two.waitReady()
    await settled(lab, two, 2)
  })
})

describe('a device that is there already', () => {
  let lab: Lab
  let node: Namespace
  const MAC = '0a:00:00:00:00:0a'
  const usual = 'id 1 dev eth0 local 10.77.1.2 dstport 8472 nolearning'

  beforeAll(async () => {
    lab = await Lab.create({ nodes: 1 })
    const etcd = await lab.startEtcd()
    await etcd.config(CONFIG)
    await etcd.seed(peerLeases(3, { network: '172.30.0.0', length: 21 }))
    node = lab.node(1)
    await node.ipBatch(['link add eth1 type bridge', 'address add 10.78.0.1/24 dev eth1', 'link set eth1 up'])
  })
  afterAll(() => lab?.close())

  test.each<
    [string, { readonly vxlan: string; readonly also?: readonly string[]; readonly remade?: RegExp }]
  >([
    ['as it should be is left alone', { vxlan: usual, also: ['link set flannel.1 up'] }],
    ['set down is set up', { vxlan: usual }],
    ['of another MTU is corrected', { vxlan: usual, also: ['link set flannel.1 mtu 1300 up'] }],
    [
      'with another address gets its own',
      { vxlan: usual, also: ['address add 172.30.248.0/32 dev flannel.1'] },
    ],
    [
      'with its address as a whole subnet gets a single one',
      { vxlan: usual, also: ['address add 172.30.248.0/21 dev flannel.1'] },
    ],
    ['of another VNI is made anew', { vxlan: usual.replace('id 1', 'id 5'), remade: /vni: 1 vs 5/ }],
    [
      'on another interface is made anew',
      { vxlan: usual.replace('eth0', 'eth1'), remade: /interface: \d+ vs \d+/ },
    ],
    [
      'with another local address is made anew',
      { vxlan: usual.replace('77.1.2', '78.0.1'), remade: /IP: 10\.77\.1\.2 vs 10\.78\.0\.1/ },
    ],
    [
      'without a local address is made anew',
      { vxlan: usual.replace('local 10.77.1.2 ', ''), remade: /IP: 10\.77\.1\.2 vs none/ },
    ],
    ['on another port is made anew', { vxlan: usual.replace('8472', '4789'), remade: /port: 8472 vs 4789/ }],
    [
      'that learns is made anew',
      { vxlan: usual.replace('nolearning', 'learning'), remade: /learning: false vs true/ },
    ],
    [
      'that reports misses is made anew',
      { vxlan: `${usual} l2miss l3miss`, remade: /l2miss: false vs true/ },
    ],
    ['with GBP is made anew', { vxlan: `${usual} gbp`, remade: /gbp: false vs true/ }],
    ['in a multicast group is made anew', { vxlan: `${usual} group 239.1.1.1`, remade: /group/ }],
  ])('%s', async (_, { vxlan, also = [], remade }) => {
    await node.ip('link del flannel.1').catch(() => undefined)
    await node.ipBatch([`link add flannel.1 address ${MAC} type vxlan ${vxlan}`, ...also])
    const before = await linkOf(node)
    const daemon = await lab.daemon(1)
    onTestFinished(() => void daemon.stop('SIGKILL'))
    await daemon.waitReady()
    expect(
      await differences(node, {
        leases: await lab.etcd.leases(),
        own: daemon.leaseKey(),
        local: lab.address(1),
      }),
    ).toEqual([])
    const after = await linkOf(node)
    expect(after.mac).toBe(MAC)
    if (remade) {
      expect(daemon.log()).toMatch(
        / warn +"flannel\.1" already exists with incompatable configuration: .*; recreating device/,
      )
      expect(daemon.log()).toMatch(remade)
      expect(after.index).not.toBe(before.index)
    } else {
      expect(daemon.log()).not.toContain('recreating device')
      expect(after.index).toBe(before.index)
    }
    expect(await daemon.stop()).toEqual({ code: 0, signal: null })
  })

  test('that was removed is made again with the MAC of the lease, so that peers learn nothing new', async () => {
    await node.ip('link del flannel.1').catch(() => undefined)
    const macs: string[] = []
    for (let run = 0; run < 2; run++) {
      const daemon = await lab.daemon(1)
      onTestFinished(() => void daemon.stop('SIGKILL'))
      await daemon.waitReady()
      macs.push((await linkOf(node)).mac)
      await daemon.stop()
      await node.ip('link del flannel.1')
    }
    expect(macs[1]).toBe(macs[0])
  })

  test('of a node whose address changed meanwhile follows it, with the subnet, the lease and the MAC that it had', async () => {
    const start = async (): Promise<Daemon> => {
      const daemon = await lab.daemon(1)
      onTestFinished(() => void daemon.stop('SIGKILL'))
      await daemon.waitReady()
      return daemon
    }
    const before = await start()
    const [key, { mac }] = [before.leaseKey(), await linkOf(node)]
    await before.stop()
    const readdress = (from: string, to: string): Promise<string> =>
      node.ipBatch([`address del ${from}/16 dev eth0`, `address add ${to}/16 dev eth0`])
    await readdress('10.77.1.2', '10.77.9.19')
    onTestFinished(() => readdress('10.77.9.19', '10.77.1.2').then(() => undefined))
    const daemon = await start()
    expect(daemon.leaseKey()).toBe(key)
    expect((await lab.etcd.leases()).map(({ value }) => value)).toContain(
      `{"PublicIP":"10.77.9.19","BackendType":"vxlan","BackendData":{"VtepMAC":"${mac}"}}`,
    )
    expect(await node.ip('-d link show dev flannel.1')).toContain(' local 10.77.9.19 ')
    await daemon.stop()
  })

  test('that was renamed meanwhile gets its name back', async () => {
    await node.ip('link del flannel.1').catch(() => undefined)
    const start = async (): Promise<Daemon> => {
      const daemon = await lab.daemon(1)
      onTestFinished(() => void daemon.stop('SIGKILL'))
      await daemon.waitReady()
      return daemon
    }
    await (await start()).stop()
    const before = await linkOf(node)
    await node.ip('link set flannel.1 name stolen0')
    const daemon = await start()
    expect(await linkOf(node)).toEqual(before)
    expect(daemon.log()).toContain('flannel.1: renamed stolen0 back to flannel.1')
    await settled(lab, daemon, 1)
    await daemon.stop()
  })
})

describe('what systemd is told', () => {
  const noStrace = spawnSync('strace', ['-qq', '-e', 'trace=none', 'true']).status !== 0
  let lab: Lab

  beforeAll(async () => {
    lab = await Lab.create({ nodes: 1 })
    const etcd = await lab.startEtcd()
    await etcd.config(CONFIG)
    await etcd.seed(peerLeases(20, { network: '172.30.0.0', length: 21 }))
  })
  afterAll(() => lab?.close())

  test.skipIf(noStrace)(
    'READY=1 comes after the lease, the last entry in the kernel and both files',
    async () => {
      const trace = join(lab.dir, 'trace')
      const runDir = join(lab.dir, 'traced')
      const daemon = await lab.daemon(1, {
        runDir,
        binary: 'strace',
        flags: [
          ...[
            '-f',
            '-qq',
            '-s',
            '200',
            '-e',
            'trace=sendmsg,sendto,write,writev,rename,renameat,renameat2',
            '-o',
            trace,
          ],
          ...[OURS, ...lab.etcd.flags, '-iface', 'eth0', '-ip-masq'],
          ...['-subnet-file', join(runDir, 'subnet.env'), '-docker-opts-file', join(runDir, 'docker')],
        ],
      })
      await daemon.waitReady()
      // strace's only child: it ends with it.
      const children = readFileSync(`/proc/${daemon.pid}/task/${daemon.pid}/children`, 'utf8')
      process.kill(Number(children), 'SIGTERM')
      await daemon.exited()
      const calls = readFileSync(trace, 'utf8').split('\n')
      const last = (pattern: RegExp): number => calls.findLastIndex((call) => pattern.test(call))
      const lease = last(/PUT \/v2\/keys\/coreos\.com\/network\/subnets\//)
      const kernel = last(/RTM_NEWROUTE/)
      const subnetFile = last(/rename.*\/subnet\.env"/)
      const dockerFile = last(/rename.*\/docker"/)
      const ready = calls.findIndex((call) => call.includes('READY=1'))
      expect(lease).toBeGreaterThan(0)
      expect(kernel).toBeGreaterThan(lease)
      expect(subnetFile).toBeGreaterThan(kernel)
      expect(dockerFile).toBeGreaterThan(kernel)
      expect(ready).toBeGreaterThan(Math.max(subnetFile, dockerFile))
      // This is the first start of the node: all routes are made by it.
      expect(calls.findIndex((call) => call.includes('RTM_NEWROUTE'))).toBeGreaterThan(lease)
    },
  )

  test('STATUS while it starts and runs, READY=1 once, STOPPING=1 at the end', async () => {
    const daemon = await lab.daemon(1)
    await daemon.waitReady()
    await waitFor(() => daemon.notices.some(({ text }) => /^STATUS=.*20 peers/.test(text)), {
      what: () => `the number of peers: ${daemon.notices.map(({ text }) => text).join(' | ')}`,
    })
    await daemon.stop()
    await waitFor(() => daemon.notices.at(-1)?.text === 'STOPPING=1', { what: 'STOPPING=1' })
    const texts = daemon.notices.map(({ text }) => text)
    expect(texts.filter((text) => text === 'READY=1')).toHaveLength(1)
    expect(texts[0]).toBe('STATUS=waiting for the network config from etcd')
    expect(texts.filter((text) => !/^(STATUS=[^\n]+|READY=1|STOPPING=1)$/.test(text))).toEqual([])
  })

  test('WATCHDOG=1 again and again when WATCHDOG_USEC asks for it, and not when it asks another process', async () => {
    const daemon = await lab.daemon(1, { env: { WATCHDOG_USEC: '400000' } })
    const pings = (): number => daemon.notices.filter(({ text }) => text === 'WATCHDOG=1').length
    await waitFor(() => pings() >= 6, { what: 'six pings' })
    await daemon.stop()
    const other = await lab.daemon(1, { env: { WATCHDOG_USEC: '100000', WATCHDOG_PID: '1' } })
    await other.waitReady()
    await other.stop()
    expect(other.notices.filter(({ text }) => text === 'WATCHDOG=1')).toEqual([])
  })

  test('an abstract socket is told the same', async () => {
    const name = `flanneld-test-${process.pid}`
    const script = `import socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind('\\0${name}')
print('bound', flush=True)
while True: print(s.recv(4096).decode(), flush=True)`
    const child = lab.node(1).start(['python3', '-c', script], { stdio: ['ignore', 'pipe', 'inherit'] })
    lab.onClose(() => void child.kill('SIGKILL'))
    const heard: string[] = []
    if (child.stdout) createInterface(child.stdout).on('line', (line) => heard.push(line))
    await waitFor(() => heard.includes('bound'), { what: 'the listener' })
    const daemon = await lab.daemon(1, { notify: false, env: { NOTIFY_SOCKET: `@${name}` } })
    await waitFor(() => heard.includes('READY=1'), { what: 'READY=1' })
    await daemon.stop()
    await waitFor(() => heard.includes('STOPPING=1'), { what: 'STOPPING=1' })
  })

  test('a socket that nobody reads is no reason not to start', async () => {
    const daemon = await lab.daemon(1, { notify: false, env: { NOTIFY_SOCKET: '/nowhere/notify' } })
    await daemon.waitLog(/Cannot tell systemd that flanneld is ready: .*\/nowhere\/notify.*ENOENT/)
    await settled(lab, daemon, 1)
    await daemon.stop()
    rmSync(daemon.subnetFile)
  })
})

async function linkOf(
  node: Namespace,
): Promise<{ readonly index: number; readonly mac: string; readonly mtu: number }> {
  const [link] = await node.ipJson<{ ifindex: number; address: string; mtu: number }>('link show flannel.1')
  if (!link) throw new Error('no flannel.1')
  return { index: link.ifindex, mac: link.address, mtu: link.mtu }
}
