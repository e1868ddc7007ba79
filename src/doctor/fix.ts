import { execFile } from 'node:child_process'
import type { Finding } from './finding.ts'

/** Asks a question, and resolves to the answer as it was typed. */
export type Ask = (question: string) => Promise<string>

/** Runs a command; resolves to what went wrong, undefined for nothing. */
export type RunFix = (argv: readonly string[]) => Promise<string | undefined>

/** Mends what can be mended safely, each after a yes of its own. Resolves to whether anything was done. */
export async function mendAll(
  findings: readonly Finding[],
  { ask, run, say }: { readonly ask: Ask; readonly run: RunFix; readonly say: (line: string) => void },
): Promise<boolean> {
  let done = false
  for (const { what, fix } of findings) {
    if (fix === undefined) continue
    const answer = await ask(`${what}\nRun: ${fix.join(' ')} [y/N] `)
    if (!/^y(es)?$/i.test(answer.trim())) continue
    const problem = await run(fix)
    say(problem === undefined ? 'done' : `${fix.join(' ')}: ${problem}`)
    done ||= problem === undefined
  }
  return done
}

export const systemFix: RunFix = ([program = '', ...args]) =>
  new Promise((resolve) => {
    execFile(program, args, { timeout: 20_000 }, (error, _, stderr) =>
      resolve(error === null ? undefined : stderr.trim() || error.message),
    )
  })
