import { describe, expect, it } from 'vitest'
import { BackendNode } from './backendnode.ts'
import { HOST_GW, IPIP, IPIP_DIRECT, WIREGUARD } from './backends.ts'
import { backendSuite, hostGwSuite, ipipSuite, peerRouteSuite, wireGuardSuite } from './backendsuite.ts'
import { FakeMachine } from './machine.ts'
import { prepare } from './node.ts'
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
