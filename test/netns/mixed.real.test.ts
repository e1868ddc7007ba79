/**
 * A cluster of our nodes and Go flannel's, and one taking over a node from the other. FLANNEL_PEER names the other
 * flanneld (v0.11); without it there is nothing to test against.
 */
import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { type Daemon, Lab, OURS, startPinger, waitFor } from './lab.ts'
import { startMirror } from './mirror.ts'
import type { Pod } from './pod.ts'
import { ruled, settled } from './settled.ts'
import { kernelState } from './state.ts'

vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 })

const { FLANNEL_PEER: GO } = process.env
if (!GO) process.stderr.write('tests of mixed clusters skipped: FLANNEL_PEER names no other flanneld\n')

describe.skipIf(!GO)('our node 1 and a node 2 of Go flannel', () => {
  let lab: Lab
  let ours: Daemon
  let theirs: Daemon
  let pods: readonly [Pod, Pod]

  const start = (i: number, binary: string | undefined): Promise<Daemon> =>
    lab.daemon(i, { binary: binary ?? '', args: ['-ip-masq'] })

  /** Go says READY=1 before its rules and routes are there. */
  const complete = async (): Promise<void> => {
    await settled(lab, ours, 1)
    await settled(lab, theirs, 2)
    for (const daemon of [ours, theirs]) await ruled(daemon)
  }

  beforeAll(async () => {
    lab = await Lab.create({ nodes: 2 })
    const config = '{"Network":"172.30.0.0/16","SubnetLen":21,"Backend":{"Type":"vxlan"}}'
    await (await lab.startEtcd()).config(config)
    theirs = await start(2, GO)
    await theirs.waitReady()
    ours = await start(1, OURS)
    await ours.waitReady()
    await complete()
    pods = [await lab.pod(ours), await lab.pod(theirs)]
  })
  afterAll(() => lab?.close())

  test('one describes itself as the other does: lease, device, rules, files', async () => {
    const described = async (daemon: Daemon, i: number): Promise<Readonly<Record<string, unknown>>> => {
      const { namespace: node } = daemon
      const { link, address } = await kernelState(node)
      const [own = ''] = daemon.leaseKey().split('-')
      const mac = /link\/ether (\S+)/.exec(link ?? '')?.[1] ?? ''
      const lease = (await lab.etcd.leases()).find(({ key }) => key.includes(`/${own}-`))
      const neutral = (text = ''): string =>
        text
          .replaceAll(mac, 'MAC')
          .replaceAll(lab.address(i), 'LOCAL')
          .replaceAll(own, 'OWN')
          .replaceAll(own.replace(/0$/, '1'), 'BRIDGE')
          .replaceAll(/^\d+: /gm, '')
      return {
        lease: neutral(lease?.value),
        device: neutral(link),
        address: neutral(address),
        nat: neutral(await node.run('iptables', '-t', 'nat', '-S', 'POSTROUTING')),
        forward: neutral(await node.run('iptables', '-S', 'FORWARD')),
        file: neutral(readFileSync(daemon.subnetFile, 'utf8')),
      }
    }
    expect(await described(ours, 1)).toEqual(await described(theirs, 2))
  })

  test('pods reach each other both ways with their own address, and the world as their node', async () => {
    const outside = await startMirror(lab.switch)
    lab.onClose(() => outside.close())
    for (const [i, from, to] of [
      [1, pods[0], pods[1]],
      [2, pods[1], pods[0]],
    ] as const) {
      const mirror = await startMirror(to.namespace)
      expect(await mirror.seenFrom(from.namespace, to.address)).toBe(from.address)
      await mirror.close()
      expect(await outside.seenFrom(from.namespace, lab.outside)).toBe(lab.address(i))
    }
  })

  test('each takes over node 2 from the other: no ping is lost and nothing in the kernel is written', async () => {
    const before = await kernelState(lab.node(2))
    const key = theirs.leaseKey()
    const pingers = [
      await startPinger(pods[0].namespace, pods[1].address),
      await startPinger(pods[1].namespace, pods[0].address),
    ]
    for (const binary of [OURS, GO, OURS]) {
      await theirs.stop('SIGKILL')
      theirs = await start(2, binary)
      await theirs.waitReady()
      const counts = pingers.map((pinger) => pinger.received())
      const all = (): boolean => pingers.every((pinger, n) => pinger.received() > (counts[n] ?? 0) + 10)
      await waitFor(all, { what: 'pings to go on' })
      await complete()
      expect(theirs.leaseKey()).toBe(key)
      expect(await kernelState(lab.node(2))).toEqual(before)
    }
    for (const pinger of pingers) expect((await pinger.stop()).lost).toEqual([])
  })

  test("a peer that is ours comes and goes in Go's kernel, and the reverse", async () => {
    await theirs.stop()
    theirs = await start(2, GO)
    await theirs.waitReady()
    const third = await lab.addNode()
    for (const binary of [OURS, GO]) {
      const daemon = await start(3, binary)
      await daemon.waitReady()
      await settled(lab, daemon, 3)
      await complete()
      await daemon.stop()
      await lab.etcd.delete(`/coreos.com/network/subnets/${daemon.leaseKey()}`)
      await complete()
      await third.ip('link del flannel.1')
    }
  })
})
