import { expect, it } from 'vitest'
import { openBackend } from '../../../src/backend/vxlan/backend.ts'
import { Rtnl } from '../../../src/netlink/conn.ts'
import { FakeMachine } from '../../conformance/machine.ts'
import { prepare, subnet, underlayOf } from '../../conformance/node.ts'
import { Operator } from '../../conformance/operator.ts'
import { ManualClock } from '../../masq/manual-clock.ts'
import { LogLines } from '../../subnet/support.ts'

it('chooses one MAC address for a device that is not there yet, however often it is asked', () => {
  const machine = new FakeMachine()
  const op = new Operator(machine.open())
  prepare(op)
  const backend = openBackend({
    rtnl: new Rtnl(machine.open()),
    generic: () => new Rtnl(machine.open()),
    log: new LogLines(),
    clock: new ManualClock(),
    network: subnet('10.244.0.0/16'),
    subnetLen: 24,
    options: { Type: 'vxlan' },
    underlay: underlayOf(op),
    resyncPeriod: 60_000,
    env: {},
    signal: new AbortController().signal,
  })
  const { backendData } = backend.attributes(undefined)
  expect(backendData).toEqual({ VtepMAC: expect.stringMatching(/^[0-9a-f][26ae](:[0-9a-f]{2}){5}$/) })
  expect(backend.attributes(undefined).backendData).toEqual(backendData)
})
