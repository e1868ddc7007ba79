import { type FlagTable, type FlagValues, formatFlags, parseFlags } from '../goflag.ts'
import { NoDaemonError } from './client.ts'
import { COMMANDS, type CommandName } from './names.ts'

/** What a command is run with. */
export interface CommandContext {
  readonly env: Readonly<Record<string, string | undefined>>
  /** The program's own version. */
  readonly version: string
  readonly out: { write(text: string): unknown; readonly isTTY?: boolean }
  readonly err: { write(text: string): unknown }
}

/** A command: arguments in, exit status out. */
export type Run = (args: readonly string[], context: CommandContext) => Promise<number>

/** The flags of a command, in the daemon's own syntax. */
export type CommandFlags = FlagTable

/** What each command's module exports. */
export interface Command {
  readonly run: Run
  readonly FLAGS: CommandFlags
}

const LOAD: Readonly<Record<CommandName, () => Promise<Command>>> = {
  status: () => import('./status.ts'),
  doctor: () => import('./doctor.ts'),
  'log-level': () => import('./loglevel.ts'),
  bundle: () => import('./bundle.ts'),
  cleanup: () => import('./cleanup.ts'),
  completion: () => import('./completion.ts'),
}

export function loadCommand(name: CommandName): Promise<Command> {
  return LOAD[name]()
}

/** Runs a command; what an operator can do something about ends it with one line and exit status 1. */
export async function runCommand(
  name: CommandName,
  args: readonly string[],
  context: CommandContext,
): Promise<number> {
  try {
    const { run } = await loadCommand(name)
    return await run(args, context)
  } catch (error) {
    if (!(error instanceof NoDaemonError)) throw error
    context.err.write(`flanneld ${name}: ${error.message}\n`)
    return 1
  }
}

/** The flags' values with what was left after them; an exit status when the command line was bad, or asked for help. */
export function readFlags<T extends CommandFlags>(
  name: CommandName,
  table: T,
  args: readonly string[],
  context: CommandContext,
  operands = '',
): (FlagValues<T> & { readonly rest: readonly string[] }) | number {
  const parsed = parseFlags(table, args)
  if (parsed.kind === 'error') return usageError(context, name, parsed.message)
  if (parsed.kind === 'help') {
    const usage = `Usage: flanneld ${name} [OPTION]...${operands === '' ? '' : ` ${operands}`}`
    context.err.write(`${usage}\n${capital(COMMANDS[name].summary)}.\n\n${formatFlags(table)}`)
    return 0
  }
  if (operands === '' && parsed.rest.length > 0) {
    return usageError(context, name, `unexpected argument ${JSON.stringify(parsed.rest[0])}`)
  }
  const defaults = Object.fromEntries(
    Object.entries(table).map(([flag, { default: value }]) => [flag, value]),
  )
  // Each default has its own flag's type: the table says so.
  return { ...(defaults as FlagValues<T>), ...parsed.given, rest: parsed.rest }
}

/** One line, and where to find more; exit status 2. */
export function usageError({ err }: CommandContext, name: CommandName, message: string): 2 {
  err.write(`flanneld ${name}: ${message}\nTry 'flanneld ${name} -help'.\n`)
  return 2
}

function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1)
}
