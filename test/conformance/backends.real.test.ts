import { describe } from 'vitest'
import { changeSuite } from './changesuite.ts'
import { kernelHas } from './kinds.ts'
import { RealMachine } from './machine.ts'
import { runSuites, SUBJECTS, type Subject } from './suites.ts'

const make = () => new RealMachine()

// `make vm-test` runs, under another kernel, those for which this one may lack a module, and no others.
const elsewhere = process.env.VM !== undefined
const possible = SUBJECTS.filter(
  ({ only, module }) => only !== 'fake' && (module === undefined || kernelHas(module)),
)
const isWanted = ({ module }: Subject): boolean => !elsewhere || module !== undefined

describe.each(possible.filter(isWanted))('$name on the real kernel', (subject) => runSuites(subject, make))

describe('on the real kernel', () => {
  // There, what one with a module does to two of the others is what it does to all: each takes its time.
  const some = possible.filter((subject) => isWanted(subject) || ['vxlan', 'udp'].includes(subject.name))
  for (const from of some) changeSuite(from, isWanted(from) ? some : some.filter(isWanted), make)
})
