import type { CommandName } from './names.ts'

/** What a command is run with. */
export interface CommandContext {
  readonly env: Readonly<Record<string, string | undefined>>
  /** The program's own version. */
  readonly version: string
}

/** A command: arguments in, exit status out. */
export type Run = (args: readonly string[], context: CommandContext) => Promise<number>

const LOAD: Readonly<Record<CommandName, () => Promise<{ readonly run: Run }>>> = {
  status: () => import('./status.ts'),
  'log-level': () => import('./loglevel.ts'),
  bundle: () => import('./bundle.ts'),
  completion: () => import('./completion.ts'),
}

export async function runCommand(
  name: CommandName,
  args: readonly string[],
  context: CommandContext,
): Promise<number> {
  const { run } = await LOAD[name]()
  return await run(args, context)
}
