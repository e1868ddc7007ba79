import { describe } from 'vitest'
import { RealMachine } from './machine.ts'
import { underlaySuite } from './underlaysuite.ts'

describe('the interface under the overlay on the real kernel', () => underlaySuite(() => new RealMachine()))
