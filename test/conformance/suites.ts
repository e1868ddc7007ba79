/** Which suites each backend has to pass. */
import { describe } from 'vitest'
import type { Row } from './backendnode.ts'
import {
  ALLOC,
  EXTENSION,
  EXTENSION_IDLE,
  HOST_GW,
  IPIP,
  IPIP_DIRECT,
  UDP,
  VXLAN,
  VXLAN_DIRECT,
  WIREGUARD,
} from './backends.ts'
import { everyBackendSuite, healingBackendSuite, peerTypeSuite, restartSuite } from './backendsuite.ts'
import { hostGwSuite } from './hostgwsuite.ts'
import { ipipSuite } from './ipipsuite.ts'
import type { Machine } from './machine.ts'
import { directPeersSuite, manyPeersSuite, peerRouteSuite } from './peerroutesuite.ts'
import { vxlanSuite } from './vxlansuite.ts'
import { wireGuardSuite } from './wireguardsuite.ts'

type Suite = (row: Row, make: () => Machine) => void

export interface Subject {
  readonly name: string
  readonly row: Row
  readonly suites: readonly Suite[]
  /** The kernel module without which it cannot be. */
  readonly module?: 'ipip' | 'wireguard'
  /** Where it runs, if not everywhere. */
  readonly only?: 'fake' | 'real'
}

const KERNEL = [everyBackendSuite, peerTypeSuite, healingBackendSuite, restartSuite]
const DIRECT = [...KERNEL, manyPeersSuite, directPeersSuite]
const ROUTES = [...KERNEL, peerRouteSuite, manyPeersSuite]

export const SUBJECTS: readonly Subject[] = [
  { name: 'vxlan', row: VXLAN, suites: [...KERNEL, vxlanSuite] },
  { name: 'vxlan with DirectRouting', row: VXLAN_DIRECT, suites: DIRECT },
  { name: 'host-gw', row: HOST_GW, suites: [...ROUTES, hostGwSuite] },
  { name: 'ipip', row: IPIP, suites: [...ROUTES, ipipSuite], module: 'ipip' },
  { name: 'ipip with DirectRouting', row: IPIP_DIRECT, suites: DIRECT, module: 'ipip' },
  { name: 'wireguard', row: WIREGUARD, suites: [...KERNEL, wireGuardSuite], module: 'wireguard' },
  { name: 'udp', row: UDP, suites: [everyBackendSuite, healingBackendSuite], only: 'real' },
  { name: 'alloc', row: ALLOC, suites: [everyBackendSuite] },
  { name: 'extension', row: EXTENSION, suites: [everyBackendSuite, peerTypeSuite], only: 'real' },
  { name: 'extension', row: EXTENSION_IDLE, suites: [everyBackendSuite, peerTypeSuite], only: 'fake' },
]

/** Each on machines of its own. */
export function runSuites({ row, suites }: Subject, make: () => Machine): void {
  for (const suite of suites) describe(suite.name, () => suite(row, make))
}
