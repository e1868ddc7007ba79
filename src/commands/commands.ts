import { NoDaemonError } from './client.ts'
import type { Command, CommandContext } from './command.ts'
import type { CommandName } from './names.ts'

const MODULES: Readonly<Record<CommandName, () => Promise<Command>>> = {
  status: () => import('./status.ts'),
  doctor: () => import('./doctor.ts'),
  'log-level': () => import('./loglevel.ts'),
  bundle: () => import('./bundle.ts'),
  cleanup: () => import('./cleanup.ts'),
  completion: () => import('./completion.ts'),
}

export function loadCommand(name: CommandName): Promise<Command> {
  return MODULES[name]()
}

/** Runs a command; what an operator can do something about ends it with one line and exit status 1. */
export async function runCommand(
  name: CommandName,
  args: readonly string[],
  context: CommandContext,
): Promise<number> {
  try {
    const { run } = await loadCommand(name)
    return await run(args, context, loadCommand)
  } catch (error) {
    if (!(error instanceof NoDaemonError)) throw error
    context.err.write(`flanneld ${name}: ${error.message}\n`)
    return 1
  }
}
