import { describe, expect, it } from 'vitest'
import { BackendNode } from './backendnode.ts'
import { HOST_GW, IPIP, VXLAN, WIREGUARD } from './backends.ts'
import { changeSuite } from './changesuite.ts'
import { FakeMachine } from './machine.ts'
import { prepare, underlayOf } from './node.ts'
import { Operator } from './operator.ts'
import { runSuites, SUBJECTS } from './suites.ts'

const make = () => new FakeMachine()

const here = SUBJECTS.filter(({ only }) => only !== 'real')

describe.each(here)('$name on the fake kernel', (subject) => runSuites(subject, make))

describe('on the fake kernel', () => {
  for (const subject of here) changeSuite(subject, here, make)
})

describe('a kernel without the module', () => {
  it.each([
    { kind: 'vxlan', row: VXLAN },
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
