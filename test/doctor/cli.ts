/** The program out of its sources, for tests that run a command of it in a namespace. */
import { run } from '../../src/main.ts'

await run()
