import { writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { loadCommand } from '../src/commands/commands.ts'
import { COMMANDS, type CommandName } from '../src/commands/names.ts'
import { type Flag, valueWord } from '../src/goflag.ts'
import { OPTION_GROUPS, type Option, optionTable, variableOf } from '../src/options.ts'

/**
 * Writes docs/flags.md from the tables that the parsers use.
 *
 *     node scripts/flags.ts
 */
const target = join(dirname(import.meta.dirname), 'docs/flags.md')

export async function renderFlags(): Promise<string> {
  const all: [string, Option][] = Object.entries(optionTable)
  const groups = Object.entries(OPTION_GROUPS).flatMap(([group, title]) => [
    `## ${capital(title)}`,
    '',
    '| Flag | Default | Variable | |',
    '|---|---|---|---|',
    ...all
      .filter(([, option]) => option.group === group)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, option]) => {
        const variable = name === 'version' ? '' : `\`${variableOf(name)}\``
        return `| ${flag(name, option)} | ${defaultOf(option)} | ${variable} | ${cell(option.help)} |`
      }),
    '',
  ])
  const names = Object.keys(COMMANDS) as CommandName[]
  const commands = await Promise.all(
    names.map(async (name) => {
      const flags = Object.entries((await loadCommand(name)).FLAGS)
      const own = flags
        .filter(([flagName]) => !Object.hasOwn(optionTable, flagName))
        .map(([flagName, option]) => `${flag(flagName, option)} (${cell(option.help)})`)
      if (own.length < flags.length) own.push("and the daemon's own")
      return `| \`flanneld ${name}\` | ${cell(capital(COMMANDS[name].summary))} | ${own.join('<br>')} |`
    }),
  )
  return [
    '# Flags',
    '',
    '<!-- Made by scripts/flags.ts from the tables in src/options.ts and src/commands. -->',
    '',
    "Flags are written as Go's are: one dash or two, `-name=value` or `-name value`; a boolean is turned off with `-name=false`. The command",
    'line beats the environment variable, which beats the default; an empty variable counts as unset. A flag or variable that cannot',
    'be read is an error with exit status 2; one that can be read and not be used, such as a port beyond 65535, with exit status 1.',
    '',
    ...groups,
    '## Commands',
    '',
    '| Command | | Flags |',
    '|---|---|---|',
    ...commands,
    '',
  ].join('\n')
}

function flag(name: string, option: Flag): string {
  const value = option.choices?.join('\\|') ?? valueWord(option)
  return `\`-${name}\`${value === '' ? '' : ` ${value}`}`
}

function defaultOf({ default: value }: Flag): string {
  return value === '' || Array.isArray(value) ? '' : `\`${String(value)}\``
}

function cell(text: string): string {
  return text.replaceAll('|', '\\|')
}

function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1)
}

if (import.meta.main) writeFileSync(target, await renderFlags())
