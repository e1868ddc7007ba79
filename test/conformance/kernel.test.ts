import { describe } from 'vitest'
import { kernelSuite } from './kernelsuite.ts'
import { FakeMachine } from './machine.ts'

describe('the fake kernel', () => kernelSuite(() => new FakeMachine()))
