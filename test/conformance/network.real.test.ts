import { describe } from 'vitest'
import { RealMachine } from './machine.ts'
import { networkSuite } from './networksuite.ts'

describe('a VXLAN network on the real kernel', () => networkSuite(() => new RealMachine()))
