import { describe, expect, it } from 'vitest'
import { BackendNode } from './backendnode.ts'
import { IPIP, VXLAN, WIREGUARD } from './backends.ts'
import { changeSuite } from './changesuite.ts'
import { FakeMachine } from './machine.ts'
import { prepare } from './node.ts'
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
