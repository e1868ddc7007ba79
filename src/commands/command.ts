import { type FlagTable, type FlagValues, formatFlags, parseFlags } from '../goflag.ts'
import { COMMANDS, type CommandName } from './names.ts'

/** What a command is run with. */
export interface CommandContext {
  readonly env: Readonly<Record<string, string | undefined>>
  /** The program's own version. */
  readonly version: string
  readonly out: { write(text: string): unknown; readonly isTTY?: boolean }
  readonly err: { write(text: string): unknown }
}

/** A command: arguments in, exit status out. `load` is for the one that tells of all the others. */
export type Run = (args: readonly string[], context: CommandContext, load: LoadCommand) => Promise<number>

export type LoadCommand = (name: CommandName) => Promise<Command>

/** The flags of a command, in the daemon's own syntax. */
export type CommandFlags = FlagTable

/** What each command's module exports. */
export interface Command {
  readonly run: Run
  readonly FLAGS: CommandFlags
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
