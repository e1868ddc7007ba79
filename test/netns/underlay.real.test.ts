/** The interface under the overlay changes while the daemon runs: device, lease, files and peers follow. */
import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { statusOf } from './control.ts'
import { type Daemon, Lab, type Namespace, PREFIX, peerLeases, startMonitor, waitFor } from './lab.ts'
import { lines } from './namespace.ts'
import type { Pod } from './pod.ts'
import { startProxy } from './proxy.ts'
import { ruled, settled } from './settled.ts'
import { Spans } from './spans.ts'

vi.setConfig({ testTimeout: 90_000, hookTimeout: 90_000 })

describe('two nodes with pods', () => {
  let lab: Lab
  let one: Daemon
  let two: Daemon
  let node: Namespace
  let pods: readonly [Pod, Pod]
  let spans: Spans

  const publicIP = async (): Promise<string> => {
    const lease = await lab.etcd.get(`${PREFIX}/subnets/${one.leaseKey()}`)
    return JSON.parse(lease?.value ?? '{}').PublicIP
  }
  const complaints = (since: number): readonly string[] =>
    lines(one.log().slice(since)).filter((line) => / (warn|error) /.test(line))
  const podsTalk = async (): Promise<void> => {
    for (const [from, to] of [pods, [pods[1], pods[0]]] as const) {
      await waitFor(() => from.namespace.ping(to.address), { what: 'pods to reach each other' })
    }
  }
  const addressed = (address: string): readonly string[] => [
    `address add ${address}/16 dev eth0`,
    `route replace default via ${lab.outside}`,
  ]

  beforeAll(async () => {
    lab = await Lab.create({ nodes: 2 })
    const etcd = await lab.startEtcd()
    await etcd.config('{"Network":"172.30.0.0/16","SubnetLen":21,"Backend":{"Type":"vxlan"}}')
    await etcd.seed(peerLeases(5, { network: '172.30.0.0', length: 21 }))
    one = await lab.daemon(1, { args: ['-ip-masq'] })
    two = await lab.daemon(2, { args: ['-ip-masq'] })
    for (const daemon of [one, two]) await daemon.waitReady()
    node = one.namespace
    pods = [await lab.pod(one), await lab.pod(two)]
    await settled(lab, one, 1)
    await settled(lab, two, 2)
    await ruled(one)
    spans = new Spans(await startMonitor(node, 'link address route neigh'))
  })
  afterAll(() => lab?.close())

  test('down and up: nothing of ours is lost, and nothing is written', async () => {
    const since = one.log().length
    await node.ip('link set eth0 down')
    await node.ip('link set eth0 up')
    await node.ip(`route replace default via ${lab.outside}`)
    await settled(lab, one, 1)
    await podsTalk()
    // That it was down is told if it lasts for more than a moment.
    expect(complaints(since).filter((line) => !/eth0 is down or has no carrier/.test(line))).toEqual([])
    expect(await publicIP()).toBe(lab.address(1))
  })

  test('a cable that is pulled is told of once, keeps the node from being ready, and is told of when it is back', async () => {
    const health = async (): Promise<readonly string[]> => {
      const { health } = await statusOf(one)
      return health.ready ? [] : health.reasons
    }
    const since = one.log().length
    await lab.switch.ip('link set p1 down')
    await waitFor(async () => (await health()).length > 0, { what: 'the node not to be ready' })
    expect(await health()).toEqual(['interface eth0 is down or has no carrier'])
    const logged = (pattern: RegExp) =>
      waitFor(() => pattern.test(one.log().slice(since)), {
        what: () => `${pattern} in ${one.log().slice(since)}`,
      })
    await logged(/warn {2}eth0 is down or has no carrier: nothing passes to other nodes until it is back/)
    await lab.switch.ip('link set p1 up')
    await waitFor(async () => (await health()).length === 0, { what: 'the node to be ready again' })
    await logged(/info {2}eth0 is up again/)
    await settled(lab, one, 1)
    await podsTalk()
    const told = one
      .log()
      .slice(since)
      .match(/eth0 is down or has no carrier/g)
    expect(told).toHaveLength(1)
  })

  test.each([1400, 1500])('MTU %i: device, subnet.env and docker options follow', async (mtu) => {
    const since = one.log().length
    spans.begin()
    await node.ip(`link set eth0 mtu ${mtu}`)
    await settled(lab, one, 1, { mtu: mtu - 50 })
    spans.end()
    await waitFor(() => readFileSync(one.subnetFile, 'utf8').includes(`FLANNEL_MTU=${mtu - 50}\n`), {
      what: 'the MTU in subnet.env',
    })
    await waitFor(() => readFileSync(one.dockerFile, 'utf8').includes(`--mtu=${mtu - 50}`), {
      what: 'the MTU in the docker options',
    })
    await podsTalk()
    const following = complaints(since).filter((line) => line.includes('following it'))
    expect(following, one.log().slice(since)).toHaveLength(1)
  })

  test.each([
    ['another', '10.77.9.9'],
    ['its first', undefined],
  ])('%s address: lease, device and the peers follow', async (_, given) => {
    const address = given ?? lab.address(1)
    const since = one.log().length
    const own = one.leaseKey()
    await node.ipBatch(['address flush dev eth0', ...addressed(address)])
    await settled(lab, one, 1, { local: address })
    await waitFor(async () => (await publicIP()) === address, { what: 'the new PublicIP in the lease' })
    // The checker reads the lease: the other node's FDB entry for us points at the new address.
    await settled(lab, two, 2)
    await podsTalk()
    expect(one.leaseKey()).toBe(own)
    // A connection that leaves the network leaves it with the new address.
    await ruled(one)
    const following = complaints(since).filter((line) => line.includes('following it'))
    expect(following, one.log().slice(since)).toHaveLength(1)
  })

  test('deleted and made again, with another index: all of it comes back', async () => {
    const since = one.log().length
    await node.ip('link del eth0')
    await waitFor(async () => !(await node.ip('link show')).includes('flannel.1'), {
      what: 'flannel.1 to go along',
    })
    await one.waitLog(/keeping eth0 as it was/)
    await node.ipBatch([
      'link add spacer type bridge',
      `link add eth0 type veth peer name p1 netns ${lab.switch.name}`,
      'link set eth0 up',
      ...addressed(lab.address(1)),
      'link del spacer',
    ])
    await lab.switch.ip('link set p1 master br0 up')
    await settled(lab, one, 1)
    await settled(lab, two, 2)
    await podsTalk()
    // What was wrong, that it could be followed, and the device: no line a second.
    expect(complaints(since).length, complaints(since).join('\n')).toBeLessThanOrEqual(5)
  })

  test('with -public-ip, the device follows the address, and the lease keeps what the operator said', async () => {
    await one.stop()
    one = await lab.daemon(1, { args: ['-ip-masq', '-public-ip', lab.address(1)] })
    await one.waitReady()
    await settled(lab, one, 1)
    const address = '10.77.9.10'
    await node.ipBatch(['address flush dev eth0', ...addressed(address)])
    await settled(lab, one, 1, { local: address })
    expect(await publicIP()).toBe(lab.address(1))
    // As a NAT in between would have it.
    await node.ip(`address add ${lab.address(1)}/32 dev eth0`)
    await podsTalk()
    await settled(lab, two, 2)
    process.stdout.write(`from a change of the interface's MTU to the last line of the answer: ${spans}\n`)
  })

  test('chosen by the default route, which is gone while the MTU changes: followed as soon as it is back', async () => {
    await node.ipBatch(['address flush dev eth0', ...addressed(lab.address(1))])
    await one.stop()
    const files = ['-subnet-file', one.subnetFile, '-docker-opts-file', one.dockerFile]
    one = await lab.daemon(1, { flags: [...lab.etcd.flags, ...files, '-ip-masq'] })
    await one.waitReady()
    for (const mtu of [1400, 1500]) {
      const since = one.log().length
      await node.ip('link set eth0 down')
      await node.ipBatch([`link set eth0 mtu ${mtu}`, 'link set eth0 up'])
      await waitFor(() => /keeping eth0 as it was/.test(one.log().slice(since)), {
        what: 'the trouble to be told',
      })
      await node.ip(`route replace default via ${lab.outside}`)
      await settled(lab, one, 1, { mtu: mtu - 50 })
      await podsTalk()
      const told = complaints(since).filter((line) => /as it was|following it/.test(line))
      expect(told, one.log().slice(since)).toHaveLength(2)
    }
  })
})

describe('connections to etcd that were reset while nothing could be heard are not waited for', () => {
  let lab: Lab
  beforeAll(async () => {
    // With the other node connected, the switch keeps its carrier, and does not keep packets for later.
    lab = await Lab.create({ nodes: 2 })
    await (await lab.startEtcd()).config('{"Network":"172.30.0.0/16","Backend":{"Type":"vxlan"}}')
  })
  afterAll(() => lab?.close())

  test.each([
    { what: 'down', at: () => lab.node(1), port: 'eth0', n: 1 },
    { what: 'without a carrier', at: () => lab.switch, port: 'p1', n: 2 },
  ])('the interface was $what', async ({ at, port, n }) => {
    const inner = { host: lab.outside, port: 2379 }
    const proxy = await startProxy(lab.switch, { host: lab.outside, port: 4000 + n }, inner)
    lab.onClose(() => proxy.close())
    const daemon = await lab.daemon(1, { args: ['-etcd-endpoints', `http://${lab.outside}:${4000 + n}`] })
    await daemon.waitReady()
    // Both long polls are under way, and neither side has anything left to say that the other would answer.
    const quiet = async (): Promise<boolean> => {
      const open = lines(await lab.switch.run('ss', '-Htn', 'sport', `${4000 + n}`))
      return open.length === 2 && open.every((line) => /^ESTAB +0 +0 /.test(line))
    }
    await waitFor(quiet, { what: 'the watches to wait' })
    const deaf = async (): Promise<boolean> => (await lab.node(1).ip('link show eth0')).includes('state DOWN')
    await at().ip(`link set ${port} down`)
    await waitFor(deaf, { what: 'the interface to be cut off' })
    await proxy.cut()
    await at().ip(`link set ${port} up`)
    await lab.etcd.seed(peerLeases(1, { network: '172.30.0.0', first: n }))
    // The kernel itself asks after half a minute whether the other end is still there.
    await waitFor(async () => (await lab.node(1).ip('route')).includes(`172.30.${n}.0/24`), {
      what: 'the route to the new peer',
      timeout: 15_000,
    })
    await daemon.stop()
  })
})
