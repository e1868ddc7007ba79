import { describe } from 'vitest'
import { healingSuite } from './healingsuite.ts'
import { RealMachine } from './machine.ts'

describe('a VXLAN network that is interfered with on the real kernel', () =>
  healingSuite(() => new RealMachine()))
