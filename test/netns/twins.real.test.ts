/** The same public IP on two nodes: the second one is refused, and what only looks like that is not. */
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { statusOf } from './control.ts'
import { type Daemon, Lab, PREFIX, waitFor } from './lab.ts'
import { lines } from './namespace.ts'
import { settled } from './settled.ts'

vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 })

const { FLANNEL_PEER: GO } = process.env
const CONFIG = { Network: '172.30.0.0/16', SubnetLen: 24, Backend: { Type: 'vxlan' } }

let lab: Lab

beforeEach(async () => {
  lab = await Lab.create({ nodes: 2 })
  await (await lab.startEtcd()).config(CONFIG)
})
afterEach(() => lab?.close())

const keyOf = (daemon: Daemon): string => `${PREFIX}/subnets/${daemon.leaseKey()}`
const errors = (daemon: Daemon): readonly string[] =>
  lines(daemon.log()).filter((line) => / error /.test(line))

describe('an address on the link, which the other machine answers for', () => {
  const KEY = '172.30.5.0-24'
  const path = `${PREFIX}/subnets/${KEY}`

  /** The second node starts, is refused, and has touched nothing. */
  async function refused(args: readonly string[] = []): Promise<void> {
    const before = await lab.etcd.leases()
    const second = await lab.daemon(2, { args })
    expect(await second.exited()).toEqual({ code: 1, signal: null })
    const [{ address: mac = '' } = {}] = await lab.node(1).ipJson<{ address: string }>('link show eth0')
    expect(errors(second)).toEqual([
      expect.stringContaining(
        `Public IP ${lab.address(1)} is in use by another machine, ${mac}, and nothing`,
      ),
    ])
    const value = ({ key, value, modifiedIndex }: (typeof before)[number]): object => ({
      key,
      value,
      modifiedIndex,
    })
    expect((await lab.etcd.leases()).map(value)).toEqual(before.map(value))
    expect(await lab.node(2).run('ip', 'link')).not.toContain('flannel.1')
  }
  const sameAddress = (): Promise<unknown> => lab.node(2).ip(`address add ${lab.address(1)}/16 dev eth0`)
  const copied = (): readonly string[] => ['-public-ip', lab.address(1)]

  test.each([
    ['runs out in a day', 86_400],
    ['is a reservation', undefined],
  ])('a node of whom nothing is heard but its lease, which %s', async (_, ttl) => {
    const value = JSON.stringify({
      PublicIP: lab.address(1),
      BackendType: 'vxlan',
      BackendData: { VtepMAC: '02:00:00:00:00:01' },
    })
    await lab.etcd.put(path, value, ttl)
    await refused(copied())
    await sameAddress()
    await refused(copied())
  })

  test('a backend whose leases all look the same', async () => {
    await lab.etcd.config({ ...CONFIG, Backend: { Type: 'udp' } })
    await lab.etcd.put(path, JSON.stringify({ PublicIP: lab.address(1) }), 86_400)
    await refused(copied())
  })

  test.skipIf(!GO)('Go flannel', async () => {
    const first = await lab.daemon(1, { binary: GO ?? '' })
    await first.waitReady()
    await refused(copied())
    expect(first.running).toBe(true)
  })

  test('a node that starts anew, on a machine that answers for its address on another interface too', async () => {
    await lab.etcd.put(path, JSON.stringify({ PublicIP: lab.address(1), BackendType: 'vxlan' }), 86_400)
    await lab
      .node(1)
      .ipBatch([`link add eth1 type veth peer name q1 netns ${lab.switch.name}`, 'link set eth1 up'])
    await lab.switch.ip('link set q1 master br0 up')
    const daemon = await lab.daemon(1)
    await daemon.waitReady()
    expect(daemon.leaseKey()).toBe(KEY)
    await settled(lab, daemon, 1)
  })
})

describe('an address that nobody on the link has', () => {
  const args = ['-public-ip', '10.77.9.9']

  const reserve = async (daemon: Daemon): Promise<void> => {
    const key = keyOf(daemon)
    await lab.etcd.put(key, (await lab.etcd.get(key))?.value ?? '')
    const known = async (): Promise<boolean> => (await statusOf(daemon)).lease?.secondsLeft === null
    await waitFor(known, { what: 'the daemon to know that its lease is a reservation' })
  }
  const refused = async (first: Daemon, second: Daemon): Promise<void> => {
    expect(await second.exited()).toEqual({ code: 1, signal: null })
    expect(errors(second).at(-1)).toMatch(
      / a running node holds it that has the public IP 10\.77\.9\.9 too; give every node its own -public-ip$/,
    )
    await first.waitLog(/ warn .*was overwritten, putting it right: .*same public IP 10\.77\.9\.9/)
    expect(first.running).toBe(true)
    await settled(lab, first, 1, { local: lab.address(1) })
  }

  test('the second finds the lease of the first, takes it for its own, and gives way', async () => {
    const first = await lab.daemon(1, { args })
    await first.waitReady()
    const before = await lab.etcd.get(keyOf(first))
    const second = await lab.daemon(2, { args })
    await refused(first, second)
    expect((await lab.etcd.get(keyOf(first)))?.value).toBe(before?.value)
    expect(await lab.etcd.leases()).toHaveLength(1)
  })

  test('the lease of the first is a reservation', async () => {
    const first = await lab.daemon(1, { args })
    await first.waitReady()
    await reserve(first)
    const second = await lab.daemon(2, { args })
    await refused(first, second)
    expect((await lab.etcd.get(keyOf(first)))?.ttl).toBeUndefined()
  })

  test('the second has a device, and so a MAC, of its own', async () => {
    const first = await lab.daemon(1, { args })
    await first.waitReady()
    await lab
      .node(2)
      .ip('link add flannel.1 address 02:00:00:00:00:22 type vxlan id 1 dev eth0 dstport 8472 nolearning')
    const second = await lab.daemon(2, { args })
    await refused(first, second)
  })

  test('a node that starts again with an empty disk is no second node', async () => {
    const first = await lab.daemon(1, { args })
    await first.waitReady()
    const key = first.leaseKey()
    await first.stop('SIGKILL')
    await lab.node(1).ip('link del flannel.1')
    const again = await lab.daemon(1, { args, runDir: `${lab.dir}/empty` })
    await again.waitReady()
    expect(again.leaseKey()).toBe(key)
    await settled(lab, again, 1)
    expect(again.log()).not.toMatch(/ (warn|error) .*Lease/)
  })
})
