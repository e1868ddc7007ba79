import { describe } from 'vitest'
import { kernelSuite } from './kernelsuite.ts'
import { RealMachine } from './machine.ts'

describe('the real kernel', () => kernelSuite(() => new RealMachine()))
