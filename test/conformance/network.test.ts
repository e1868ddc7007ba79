import { describe } from 'vitest'
import { FakeMachine } from './machine.ts'
import { networkSuite } from './networksuite.ts'

describe('a VXLAN network on the fake kernel', () => networkSuite(() => new FakeMachine()))
