/** Many nodes that start at the same moment and have hardly more subnets than they are. */
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { type Daemon, Lab } from './lab.ts'
import { settled } from './settled.ts'

vi.setConfig({ testTimeout: 300_000, hookTimeout: 300_000 })

const NODES = 12
/** 16 subnets, as long as SubnetMin is the network's first. */
const CONFIG = {
  Network: '172.30.0.0/20',
  SubnetLen: 24,
  SubnetMin: '172.30.0.0',
  Backend: { Type: 'vxlan' },
}

let lab: Lab
beforeAll(async () => {
  lab = await Lab.create({ nodes: NODES })
  await lab.startEtcd()
  await lab.etcd.config(CONFIG)
})
afterAll(() => lab?.close())

test('each gets a subnet of its own, after few tries, and knows all others', async () => {
  const before = await lab.etcd.creations()
  const daemons: Daemon[] = await Promise.all(lab.nodes.map((_, i) => lab.daemon(i + 1)))
  await Promise.all(daemons.map((daemon) => daemon.waitReady(200_000)))
  expect(new Set(daemons.map((daemon) => daemon.leaseKey())).size).toBe(NODES)
  expect(await lab.etcd.leases()).toHaveLength(NODES)
  const tries = ((await lab.etcd.creations()) - before) / NODES
  expect(tries).toBeGreaterThanOrEqual(1)
  expect(tries).toBeLessThanOrEqual(4)
  for (const [i, daemon] of daemons.entries()) await settled(lab, daemon, i + 1)
})
