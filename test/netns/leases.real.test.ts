/** Leases that run out or are taken, with real daemons, a real etcd and real pods. */
import { isDeepStrictEqual } from 'node:util'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { statusOf } from './control.ts'
import { type Daemon, Lab, leaseValue, PREFIX, peerLeases, startPinger, waitFor } from './lab.ts'
import { lines } from './namespace.ts'
import { type ProxyControl, startProxy } from './proxy.ts'
import { expectSoon, timed } from './scene.ts'
import { settled } from './settled.ts'

vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 })

const CONFIG = { Network: '172.30.0.0/16', SubnetLen: 24, Backend: { Type: 'vxlan' } }

let lab: Lab
let proxy: ProxyControl

beforeEach(async () => {
  lab = await Lab.create({ nodes: 2 })
  const etcd = await lab.startEtcd()
  await etcd.config(CONFIG)
  const target = { host: lab.outside, port: 2379 }
  proxy = await startProxy(lab.switch, { host: lab.outside, port: 4001 }, target)
  lab.onClose(() => proxy.close())
})
afterEach(() => lab?.close())

/** Node 1 asks etcd through the proxy. */
const throughProxy = (): readonly string[] => ['-etcd-endpoints', `http://${lab.outside}:4001`]
const keyOf = (daemon: Daemon): string => `${PREFIX}/subnets/${daemon.leaseKey()}`
const errors = (daemon: Daemon): readonly string[] =>
  lines(daemon.log()).filter((line) => / error /.test(line))

/** Lets the lease of a daemon run out in a second, and waits until it has. */
async function expire(daemon: Daemon): Promise<void> {
  const key = keyOf(daemon)
  await lab.etcd.put(key, (await lab.etcd.get(key))?.value ?? '', 1)
  await waitFor(async () => (await lab.etcd.get(key)) === undefined, { what: 'the lease to expire' })
}

const cut = async (): Promise<void> => {
  await proxy.set({ door: 'refuse' })
  await proxy.cut()
}
const heal = (): Promise<void> => proxy.set({ door: 'open' })

describe('a node that is away for longer than its lease', () => {
  type Away = readonly [what: string, leave: (daemon: Daemon) => unknown, back: (daemon: Daemon) => unknown]
  const ways: readonly Away[] = [
    ['cut off from etcd', cut, heal],
    ['suspended', (daemon) => daemon.signal('SIGSTOP'), (daemon) => daemon.signal('SIGCONT')],
  ]

  test.each(ways)('%s: it gets the same subnet again when that is free', async (_, leave, back) => {
    const daemon = await lab.daemon(1, { args: throughProxy() })
    const other = await lab.daemon(2)
    for (const each of [daemon, other]) await each.waitReady()
    const key = keyOf(daemon)
    const { value } = (await lab.etcd.get(key)) ?? {}
    await leave(daemon)
    await expire(daemon)
    await back(daemon)
    await waitFor(() => lab.etcd.get(key), { what: () => `the lease to be back: ${daemon.log()}` })
    expect(await lab.etcd.get(key)).toMatchObject({ value })
    await daemon.waitLog(/Lease \(172\.30\.\d+\.0\/24\) was deleted or had expired; claimed it again/)
    expect(daemon.running).toBe(true)
    await settled(lab, daemon, 1)
    await settled(lab, other, 2)
  })

  test.each(ways)(
    '%s: it gives way when another node has the subnet, and starts with a new one',
    async (_, leave, back) => {
      const daemon = await lab.daemon(1, { args: throughProxy() })
      await daemon.waitReady()
      const key = keyOf(daemon)
      const thief = { key: daemon.leaseKey(), publicIP: '10.200.9.9', mac: '02:00:00:00:00:09' }
      await leave(daemon)
      await expire(daemon)
      const { index } = await lab.etcd.putLease(thief)
      await back(daemon)
      expect(await daemon.exited()).toEqual({ code: 1, signal: null })
      expect(errors(daemon).at(-1)).toMatch(/Lease has been revoked\. .* 10\.200\.9\.9 holds/)
      expect(await lab.etcd.get(key)).toMatchObject({ value: leaseValue(thief), modifiedIndex: index })
      const again = await lab.daemon(1, { args: throughProxy() })
      await again.waitReady()
      expect(again.leaseKey()).not.toBe(thief.key)
      await settled(lab, again, 1)
    },
  )
})

describe('the lease of a peer that lives runs out', () => {
  /** Waits until a daemon knows all that etcd holds up to an index. */
  const heard = (daemon: Daemon, index: number): Promise<unknown> =>
    waitFor(async () => ((await statusOf(daemon)).etcd.watch?.index ?? 0) >= index, {
      what: `event ${index}`,
    })

  const valuesOf = (keys: readonly string[]): Promise<readonly (string | undefined)[]> =>
    Promise.all(keys.map(async (key) => (await lab.etcd.get(key))?.value))

  test.each<[what: string, between: (daemon: Daemon, keys: readonly string[]) => Promise<void>]>([
    ['before our eyes', async () => undefined],
    [
      'while etcd is away, and our own with it',
      async (daemon, [own = '']) => {
        await cut()
        await lab.etcd.put(own, (await lab.etcd.get(own))?.value ?? '', 1)
        await lab.etcd.stop('SIGKILL')
        await daemon.waitLog(/Watch subnets: /)
        await lab.etcd.restart()
      },
    ],
  ])('%s: the pods lose no packet, and both nodes get their subnets again', async (_, between) => {
    // By its lease, which stands as it stood, the store is known to be the same.
    await lab.etcd.seed(peerLeases(1, { network: '172.30.0.0' }))
    const daemon = await lab.daemon(1, { args: throughProxy() })
    const peer = await lab.daemon(2)
    for (const each of [daemon, peer]) await each.waitReady()
    const pods = [await lab.pod(daemon), await lab.pod(peer)] as const
    for (const [i, each] of [daemon, peer].entries()) await settled(lab, each, i + 1)
    const pinger = await startPinger(pods[0].namespace, pods[1].address)
    const keys = [daemon, peer].map(keyOf)
    const values = await valuesOf(keys)
    // Its pods talk on while it cannot renew.
    peer.signal('SIGSTOP')
    const { index } = await lab.etcd.put(keys[1] ?? '', values[1] ?? '', 2)
    await heard(daemon, index)
    await between(daemon, keys)
    await waitFor(async () => (await lab.etcd.get(keys[1] ?? '')) === undefined, {
      what: 'the lease to expire',
    })
    await heal()
    await daemon.waitLog(/ info +(The subnet lease .* has|1 subnet leases have) expired; keeping the routes /)
    peer.signal('SIGCONT')
    await peer.waitLog(/was deleted or had expired; claimed it again/)
    await heard(daemon, (await lab.etcd.get(keys[1] ?? ''))?.modifiedIndex ?? Number.NaN)
    for (const [i, each] of [daemon, peer].entries()) await settled(lab, each, i + 1)
    await waitFor(async () => isDeepStrictEqual(await valuesOf(keys), values), {
      what: 'the same subnets again',
    })
    expect((await pinger.stop()).lost).toEqual([])
    expect(errors(peer)).toEqual([])
    // The next outage is no reason to keep what somebody deletes.
    await peer.stop()
    await lab.etcd.delete(keys[1] ?? '')
    await settled(lab, daemon, 1)
  })
})

test('a peer whose entries the kernel refuses delays no other, and is written once the kernel takes it', async () => {
  const daemon = await lab.daemon(1)
  const other = await lab.daemon(2)
  for (const each of [daemon, other]) await each.waitReady()
  const [here, there] = [await lab.pod(daemon), await lab.pod(other)]
  const pinger = await startPinger(here.namespace, there.address)
  const taken = [daemon.leaseKey(), other.leaseKey()]
  const [refused, ...peers] = peerLeases(50, { network: '172.30.0.0' }).filter(
    ({ key }) => !taken.includes(key),
  )
  // A gateway must not be an address of this node.
  const address = refused?.key.replace(/-.*/, '')
  await lab.node(1).ip(`address add ${address}/32 dev lo`)
  await lab.etcd.seed(refused === undefined ? [] : [refused])
  await daemon.waitLog(/ error write route 172\.30\.\d+\.0\/24 .*EINVAL/)
  const reached = async (): Promise<boolean> => {
    const routes = await lab.node(1).routes('flannel.1')
    return peers.every(({ key }) => routes.some((route) => route.startsWith(key.replace('-', '/'))))
  }
  await lab.etcd.seed(peers)
  expectSoon(await timed(() => waitFor(reached, { what: 'the other routes' })))
  await lab.node(1).ip(`address del ${address}/32 dev lo`)
  await settled(lab, daemon, 1)
  expect(errors(daemon).length).toBeLessThan(3)
  expect((await pinger.stop()).lost).toEqual([])
})
