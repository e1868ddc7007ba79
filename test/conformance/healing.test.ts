import { describe } from 'vitest'
import { healingSuite } from './healingsuite.ts'
import { FakeMachine } from './machine.ts'

describe('a VXLAN network that is interfered with on the fake kernel', () =>
  healingSuite(() => new FakeMachine()))
