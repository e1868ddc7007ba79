import { describe, expect, it } from 'vitest'
import { BackendNode } from './backendnode.ts'
import { HOST_GW, IPIP, IPIP_DIRECT, WIREGUARD } from './backends.ts'
import { backendSuite, hostGwSuite, ipipSuite, peerRouteSuite, wireGuardSuite } from './backendsuite.ts'
import { FakeMachine } from './machine.ts'
import { prepare, underlayOf } from './node.ts'
import { Operator } from './operator.ts'

const make = () => new FakeMachine()

describe.each([
  { name: 'host-gw', row: HOST_GW },
  { name: 'ipip', row: IPIP },
  { name: 'ipip with DirectRouting', row: IPIP_DIRECT },
  { name: 'wireguard', row: WIREGUARD },
])('$name on the fake kernel', ({ row }) => {
  describe('as every backend', () => backendSuite(row, make))
  if (row !== WIREGUARD) describe('as those with routes to peers', () => peerRouteSuite(row, make))
})

describe('host-gw by itself', () => hostGwSuite(HOST_GW, make))
describe('ipip by itself', () => ipipSuite(IPIP, make))
describe('wireguard by itself', () => wireGuardSuite(WIREGUARD, make))

describe('a kernel without the module', () => {
  it.each([
    { kind: 'ipip', row: IPIP },
    { kind: 'wireguard', row: WIREGUARD },
  ])('$kind is named in one line', async ({ kind, row }) => {
    const machine = make()
    machine.kernel.lacking.add(kind)
    const op = new Operator(machine.open())
    prepare(op)
    const node = new BackendNode(machine, op, row, '/nonexistent')
    await expect(node.start([])).rejects.toMatchObject({
      name: 'DeviceError',
      message: expect.stringMatching(new RegExp(`^this kernel has no .*modprobe ${kind}\\)`)),
    })
    await node.stop()
  })
})

describe("vxlan's MTU option", () => {
  it("makes packets smaller, but never larger than the interface's", async () => {
    const machine = make()
    const op = new Operator(machine.open())
    prepare(op)
    const row = { ...HOST_GW, type: 'vxlan', options: { MTU: 1300 } }
    const node = await new BackendNode(machine, op, row, '/nonexistent').start([])
    expect([op.link('flannel.1').mtu, node.network.mtu]).toEqual([1250, 1250])
    op.do(op.set('eth0', { mtu: 1200 }))
    node.network.setUnderlay(underlayOf(op))
    node.network.apply()
    expect([op.link('flannel.1').mtu, node.network.mtu]).toEqual([1150, 1150])
    await node.stop()
  })
})
