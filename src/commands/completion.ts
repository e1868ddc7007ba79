/**
 * Completion for bash, zsh and fish, written from the tables that the parsers use. Each script completes the daemon's own
 * flags, the commands, and each command's flags; values where they are few, files and interfaces.
 */
import type { Flag } from '../goflag.ts'
import { optionTable } from '../options.ts'
import { type CommandContext, type CommandFlags, type LoadCommand, readFlags, usageError } from './command.ts'
import { COMMANDS, type CommandName } from './names.ts'

export const FLAGS = {} as const satisfies CommandFlags

const SHELLS = { bash, zsh, fish } as const

export async function run(
  args: readonly string[],
  context: CommandContext,
  load: LoadCommand,
): Promise<number> {
  const flags = readFlags('completion', FLAGS, args, context, Object.keys(SHELLS).join('|'))
  if (typeof flags === 'number') return flags
  const [shell, ...more] = flags.rest
  if (shell === undefined || more.length > 0 || !Object.hasOwn(SHELLS, shell)) {
    return usageError(context, 'completion', `name one shell: ${Object.keys(SHELLS).join(', ')}`)
  }
  // Object.hasOwn has just said so.
  context.out.write(SHELLS[shell as keyof typeof SHELLS](await words(load)))
  return 0
}

/** What can follow `flanneld`, or `flanneld COMMAND`. */
interface Words {
  readonly flags: readonly Completed[]
  readonly commands: readonly {
    readonly name: string
    readonly summary: string
    readonly flags: readonly Completed[]
    readonly operands: readonly string[]
  }[]
}

interface Completed {
  readonly name: string
  readonly help: string
  readonly takes: 'nothing' | 'file' | 'interface' | 'text' | readonly string[]
}

const OPERANDS: Readonly<Partial<Record<CommandName, readonly string[]>>> = {
  completion: Object.keys(SHELLS),
  'log-level': optionTable['log-level'].choices,
}

async function words(load: LoadCommand): Promise<Words> {
  const names = Object.keys(COMMANDS) as CommandName[]
  return {
    flags: completed(optionTable),
    commands: await Promise.all(
      names.map(async (name) => ({
        name,
        summary: COMMANDS[name].summary,
        flags: completed((await load(name)).FLAGS),
        operands: OPERANDS[name] ?? [],
      })),
    ),
  }
}

function completed(table: CommandFlags): Completed[] {
  return Object.entries(table)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, flag]) => ({ name, help: flag.help, takes: taken(name, flag) }))
}

function taken(name: string, { type, choices }: Flag): Completed['takes'] {
  if (type === 'bool') return 'nothing'
  if (choices !== undefined) return choices
  if (name === 'iface') return 'interface'
  return /file$|socket$|^o$/.test(name) ? 'file' : 'text'
}

function bash({ flags, commands }: Words): string {
  const values = (all: readonly Completed[]): string[] =>
    all.flatMap(({ name, takes }) => {
      const pattern = `-${name}|--${name}`
      if (takes === 'file') return [`    ${pattern}) COMPREPLY=($(compgen -f -- "$cur")); return ;;`]
      if (takes === 'interface')
        return [`    ${pattern}) COMPREPLY=($(compgen -W "$(ls /sys/class/net)" -- "$cur")); return ;;`]
      if (takes === 'text') return [`    ${pattern}) return ;;`]
      return takes === 'nothing'
        ? []
        : [`    ${pattern}) COMPREPLY=($(compgen -W '${takes.join(' ')}' -- "$cur")); return ;;`]
    })
  const list = (all: readonly Completed[]): string => all.map(({ name }) => `-${name}`).join(' ')
  return `# bash completion for flanneld: source <(flanneld completion bash)
_flanneld() {
  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD-1]} words
  case $prev in
${[...new Set([...values(flags), ...commands.flatMap((command) => values(command.flags))])].join('\n')}
  esac
  case \${COMP_WORDS[1]} in
${commands
  .map(
    ({ name, flags: own, operands }) =>
      `    ${name}) words='${[list(own), ...operands].join(' ').trim()}' ;;`,
  )
  .join('\n')}
    *)
      words='${list(flags)}'
      [ "$COMP_CWORD" -gt 1 ] || words="${commands.map(({ name }) => name).join(' ')} $words" ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -F _flanneld flanneld
`
}

function zsh({ flags, commands }: Words): string {
  const quote = (text: string): string => text.replace(/[[\]:\\]/g, '\\$&').replaceAll("'", "'\\''")
  const action = (takes: Completed['takes']): string => {
    if (takes === 'nothing') return ''
    if (takes === 'file') return ':file:_files'
    if (takes === 'interface') return ':interface:_net_interfaces'
    return takes === 'text' ? ':value:' : `:value:(${takes.join(' ')})`
  }
  const specs = (all: readonly Completed[]): string =>
    all.map(({ name, help, takes }) => `'-${name}[${quote(help)}]${action(takes)}'`).join(' \\\n        ')
  return `#compdef flanneld
# zsh completion for flanneld: put it into a folder of $fpath as _flanneld
_flanneld() {
  local -a commands
  commands=(
${commands.map(({ name, summary }) => `    '${name}:${quote(summary)}'`).join('\n')}
  )
  case \${words[2]} in
${commands
  .map(({ name, flags: own, operands }) => {
    const rest = operands.length === 0 ? '' : ` '*:value:(${operands.join(' ')})'`
    return `    ${name}) shift words; (( CURRENT-- )); _arguments ${specs(own)}${rest} ;;`
  })
  .join('\n')}
    *)
      (( CURRENT == 2 )) && _describe command commands
      _arguments \\
        ${specs(flags)} ;;
  esac
}
_flanneld "$@"
`
}

function fish({ flags, commands }: Words): string {
  const quote = (text: string): string => `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`
  const line = (condition: string, { name, help, takes }: Completed): string => {
    const value =
      takes === 'nothing'
        ? ''
        : takes === 'file'
          ? ' -r -F'
          : takes === 'interface'
            ? " -x -a '(ls /sys/class/net)'"
            : takes === 'text'
              ? ' -x'
              : ` -x -a ${quote(takes.join(' '))}`
    return `complete -c flanneld -n ${quote(condition)} -o ${name}${value} -d ${quote(help)}`
  }
  const none = `not __fish_seen_subcommand_from ${commands.map(({ name }) => name).join(' ')}`
  return `${[
    '# fish completion for flanneld: flanneld completion fish | source',
    'complete -c flanneld -f',
    ...commands.map(
      ({ name, summary }) => `complete -c flanneld -n '__fish_is_first_arg' -a ${name} -d ${quote(summary)}`,
    ),
    ...flags.map((flag) => line(none, flag)),
    ...commands.flatMap(({ name, flags: own, operands }) => [
      ...own.map((flag) => line(`__fish_seen_subcommand_from ${name}`, flag)),
      ...(operands.length === 0
        ? []
        : [
            `complete -c flanneld -n ${quote(`__fish_seen_subcommand_from ${name}`)} -a ${quote(operands.join(' '))}`,
          ]),
    ]),
  ].join('\n')}\n`
}
