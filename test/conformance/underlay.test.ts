import { describe } from 'vitest'
import { FakeMachine } from './machine.ts'
import { underlaySuite } from './underlaysuite.ts'

describe('the interface under the overlay on the fake kernel', () => underlaySuite(() => new FakeMachine()))
