import { describe } from 'vitest'
import { HOST_GW, IPIP, IPIP_DIRECT, WIREGUARD } from './backends.ts'
import { backendSuite, hostGwSuite, ipipSuite, peerRouteSuite, wireGuardSuite } from './backendsuite.ts'
import { kernelHas } from './kinds.ts'
import { RealMachine } from './machine.ts'

const make = () => new RealMachine()

// `make vm-test` runs, under another kernel, those for which this one may lack a module, and no others.
const elsewhere = process.env.VM !== undefined
describe.each([
  { name: 'host-gw', row: HOST_GW, there: !elsewhere },
  { name: 'ipip', row: IPIP, there: kernelHas('ipip') },
  { name: 'ipip with DirectRouting', row: IPIP_DIRECT, there: kernelHas('ipip') },
  { name: 'wireguard', row: WIREGUARD, there: kernelHas('wireguard') },
])('$name on the real kernel', ({ row, there }) => {
  describe.runIf(there)('as every backend', () => backendSuite(row, make))
  const routes = there && row !== WIREGUARD
  describe.runIf(routes)('as those with routes to peers', () => peerRouteSuite(row, make))
})

describe.skipIf(elsewhere)('host-gw by itself', () => hostGwSuite(HOST_GW, make))
describe.runIf(kernelHas('ipip'))('ipip by itself', () => ipipSuite(IPIP, make))
describe.runIf(kernelHas('wireguard'))('wireguard by itself', () => wireGuardSuite(WIREGUARD, make))
