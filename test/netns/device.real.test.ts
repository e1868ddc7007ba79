/** A start over a `flannel.1` that is there already, as an earlier run or somebody else left it. */
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import { differences } from './checker.ts'
import { type Daemon, Lab, type Namespace, peerLeases } from './lab.ts'
import { settled } from './settled.ts'
import { linkOf } from './state.ts'

vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 })

const CONFIG = '{"Network":"172.30.0.0/16","SubnetLen":21,"Backend":{"Type":"vxlan"}}'

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

  const start = async (): Promise<Daemon> => {
    const daemon = await lab.daemon(1)
    onTestFinished(() => void daemon.stop('SIGKILL'))
    await daemon.waitReady()
    return daemon
  }

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
    const daemon = await start()
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
      const daemon = await start()
      macs.push((await linkOf(node)).mac)
      await daemon.stop()
      await node.ip('link del flannel.1')
    }
    expect(macs[1]).toBe(macs[0])
  })

  test('of a node whose address changed meanwhile follows it, with the subnet, the lease and the MAC that it had', async () => {
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

  test('of somebody else that has its name as an alternative one is left alone', async () => {
    await node.ip('link del flannel.1').catch(() => undefined)
    await node.ipBatch([
      'link add theirs type vxlan id 7 dev eth0 dstport 4789',
      'link property add dev theirs altname flannel.1',
    ])
    const daemon = await lab.daemon(1)
    onTestFinished(() => void daemon.stop('SIGKILL'))
    expect(await daemon.exited()).toEqual({ code: 1, signal: null })
    expect(daemon.log()).toContain('flannel.1 is an alternative name of interface theirs; take it away')
    // It is there still.
    await node.ip('link del theirs')
  })

  test('that was renamed meanwhile gets its name back', async () => {
    await node.ip('link del flannel.1').catch(() => undefined)
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
