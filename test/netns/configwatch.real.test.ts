/** The network config is written to while nodes run. */
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { type Daemon, Lab, PREFIX, startPinger, waitFor } from './lab.ts'
import { lines } from './namespace.ts'
import type { Pod } from './pod.ts'
import { settled } from './settled.ts'
import { kernelState } from './state.ts'

vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 })

const CONFIG = { Network: '172.30.0.0/16', SubnetLen: 24, Backend: { Type: 'vxlan', VNI: 1 } }

let lab: Lab
const daemons: Daemon[] = []
const pods: Pod[] = []

beforeAll(async () => {
  lab = await Lab.create({ nodes: 3 })
  const etcd = await lab.startEtcd()
  await etcd.config(CONFIG)
  for (const i of [1, 2]) daemons.push(await lab.daemon(i))
  for (const daemon of daemons) {
    await daemon.waitReady()
    pods.push(await lab.pod(daemon))
  }
  for (const i of [1, 2]) await settled(lab, daemons[i - 1] as Daemon, i)
})
afterAll(() => lab?.close())

/** Has something happen to the config, and waits for the line that both nodes log; nothing else may change. */
async function unmoved(write: () => Promise<unknown>, line: RegExp): Promise<void> {
  const [here, there] = pods as [Pod, Pod]
  const pinger = await startPinger(here.namespace, there.address)
  const before = await kernelState(lab.node(1))
  const from = daemons.map((daemon) => daemon.log().length)
  await write()
  for (const [i, daemon] of daemons.entries()) {
    await waitFor(() => line.test(daemon.log().slice(from[i])), {
      what: () => `${line}: ${daemon.log().slice(from[i])}`,
    })
    expect(lines(daemon.log().slice(from[i]))).toHaveLength(1)
    expect(daemon.running).toBe(true)
  }
  expect(await kernelState(lab.node(1))).toEqual(before)
  expect((await pinger.stop()).lost).toEqual([])
}

test('what needs a restart is named, the config in use stays, and going back is noticed', async () => {
  await unmoved(
    () => lab.etcd.config({ Network: '172.31.0.0/16', SubnetLen: 25, Backend: { Type: 'host-gw', VNI: 2 } }),
    / warn +The network config in etcd has changed: Network, SubnetLen, Backend\.Type, Backend\.VNI: restart flanneld/,
  )
  await waitFor(() => daemons[0]?.notices.some(({ text }) => /restart for Network, SubnetLen, /.test(text)), {
    what: 'the status for systemd',
  })
  await unmoved(() => lab.etcd.config(CONFIG), / info +The network config in etcd is the one in use again/)
})

test.each([
  ['no JSON', () => lab.etcd.config('{"Network"')],
  ['nonsense', () => lab.etcd.config({ Network: '172.30.0.0/16', SubnetLen: 99 })],
  ['gone', () => lab.etcd.delete(`${PREFIX}/config`)],
  [
    'a folder',
    async () => {
      await lab.etcd.delete(`${PREFIX}/config`)
      await lab.etcd.put(`${PREFIX}/config/inside`, '1')
    },
  ],
])('a config that is %s leaves the old one running', async (what, spoil) => {
  await unmoved(
    spoil,
    / error The network config in etcd cannot be used any more, going on with the one from the start: /,
  )
  await unmoved(async () => {
    if (what === 'a folder') await lab.etcd.delete(`${PREFIX}/config`, true)
    await lab.etcd.config(CONFIG)
  }, / info +The network config in etcd is the one in use again/)
})

test('another range counts for the node that comes next, and is no reason to move', async () => {
  const range = { SubnetMin: '172.30.250.0', SubnetMax: '172.30.251.0' }
  await unmoved(
    () => lab.etcd.config({ ...CONFIG, ...range }),
    / info +The network config in etcd has changed: SubnetMin, SubnetMax: it counts for the next lease/,
  )
  const late = await lab.daemon(3)
  await late.waitReady()
  expect(late.leaseKey()).toMatch(/^172\.30\.25[01]\.0-24$/)
  for (const [i, daemon] of [...daemons, late].entries()) await settled(lab, daemon, i + 1)
})
