/** Stopping and starting: what stays, and what a start finds and puts right. Under all of it the pods keep talking. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { differences } from './checker.ts'
import {
  type Daemon,
  Lab,
  monotonic,
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
import { kernelState, linkOf } from './state.ts'

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
