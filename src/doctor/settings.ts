/**
 * The flags and variables that the checks go by. An operator types `flanneld doctor` and nothing more: what the running daemon
 * was started with, or else what its unit would start it with, counts as typed, after what is really typed.
 */
import { parseFlags } from '../goflag.ts'
import { type Options, optionTable, parseOptions, variableOf } from '../options.ts'
import { parseDotenv } from '../subnetfile.ts'

/** Those of the daemon's flags that the checks have a use for. */
const NAMES = [
  'etcd-endpoints',
  'etcd-prefix',
  'etcd-keyfile',
  'etcd-certfile',
  'etcd-cafile',
  'etcd-username',
  'etcd-password',
  'etcd-password-file',
  'iface',
  'iface-regex',
  'public-ip',
  'subnet-file',
  'docker-opts-file',
  'ip-masq',
  'iptables-forward-rules',
  'control-socket',
] as const

type Name = (typeof NAMES)[number]

/** Their rows of the one table of flags. */
export const DAEMON_FLAGS = Object.fromEntries(NAMES.map((name) => [name, optionTable[name]])) as Pick<
  typeof optionTable,
  Name
>

type Environment = Readonly<Record<string, string | undefined>>

/** How a daemon was or would be started; both may be empty. */
export interface Started {
  /** As /proc/PID/cmdline has them, without the program. */
  readonly args: readonly string[]
  readonly env: Environment
}

/** Options of all that is known; a text when they make no sense. */
export function settle(
  typed: Readonly<Record<string, unknown>>,
  env: Environment,
  started: Started,
): { readonly options: Options; readonly env: Environment } | string {
  const parsed = parseFlags(optionTable, started.args)
  const theirs: Readonly<Record<string, unknown>> = parsed.kind === 'flags' ? parsed.given : {}
  const own = Object.fromEntries(
    Object.entries(env).filter(
      ([name, value]) => /^(FLANNELD_|CREDENTIALS_DIRECTORY$)/.test(name) && value !== '',
    ),
  )
  const argv = NAMES.flatMap((name) => {
    const value = typed[name] ?? (variableOf(name) in own ? undefined : theirs[name])
    if (value === undefined || value === '***') return []
    return (Array.isArray(value) ? value : [value]).map((each) => `-${name}=${each}`)
  })
  const all = { ...started.env, ...own }
  const result = parseOptions(argv, all, { program: 'flanneld doctor', version: '' })
  if (result.kind === 'run') return { options: result.options, env: all }
  return result.kind === 'error' ? result.message : 'nothing to do'
}

/** The arguments of /proc/PID/cmdline after the program: node and its flags come first, or it is one text with spaces. */
export function argumentsAfterProgram(cmdline: string): string[] {
  const words = cmdline.includes('\0') ? cmdline.split('\0') : cmdline.split(' ')
  if (words.at(-1) === '') words.pop()
  const flat = words[0]?.includes(' ') ? words[0].split(' ') : words
  const program = flat.findIndex((word) => /(^|\/)(start\.cjs|flanneld[^/]*)$/.test(word))
  return flat.slice(program + 1)
}

/** The FLANNELD_* of /proc/PID/environ, or of a file for EnvironmentFile= (systemd.exec(5)). */
export function variablesOf(text: string): Environment {
  const pairs = text.includes('\0')
    ? text
        .split('\0')
        .map((pair) => [pair.slice(0, pair.indexOf('=')), pair.slice(pair.indexOf('=') + 1)] as const)
    : lenient(text)
  return Object.fromEntries(pairs.filter(([name]) => /^(FLANNELD_|CREDENTIALS_DIRECTORY$)/.test(name)))
}

function lenient(text: string): (readonly [string, string])[] {
  const variables = parseDotenv(text)
  return typeof variables === 'string' ? [] : [...variables]
}
