import { describe } from 'vitest'
import { HOST_GW } from './backends.ts'
import { backendSuite, hostGwSuite, peerRouteSuite } from './backendsuite.ts'
import { FakeMachine } from './machine.ts'

describe('host-gw on the fake kernel', () => {
  const make = () => new FakeMachine()
  describe('as every backend', () => backendSuite(HOST_GW, make))
  describe('as those with routes to peers', () => peerRouteSuite(HOST_GW, make))
  describe('by itself', () => hostGwSuite(HOST_GW, make))
})
