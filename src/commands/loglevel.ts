import { isLevel, LEVELS } from '../log.ts'
import { DaemonClient } from './client.ts'
import { type CommandContext, type CommandFlags, readFlags, usageError } from './command.ts'

export const FLAGS = {
  socket: { type: 'string', default: '', help: "the daemon's control socket" },
} as const satisfies CommandFlags

/** Prints the level, after setting it when one is given. */
export async function run(args: readonly string[], context: CommandContext): Promise<number> {
  const flags = readFlags('log-level', FLAGS, args, context, `[${LEVELS.join('|')}]`)
  if (typeof flags === 'number') return flags
  const [level, ...more] = flags.rest
  if (more.length > 0 || (level !== undefined && !isLevel(level))) {
    return usageError(context, 'log-level', `the level must be one of ${LEVELS.join(', ')}`)
  }
  context.out.write(await new DaemonClient(flags.socket, context.env).text('/log-level', level))
  return 0
}
