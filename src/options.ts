import { isIPv6 } from 'node:net'
import { COMMANDS } from './commands/names.ts'
import { type Flag, type FlagValues, formatFlags, parseFlags, parseValue } from './goflag.ts'
import { type Ipv4, parseIpv4 } from './ip.ts'
import { isLevel, LEVELS, type Level, levelOfVerbosity } from './log.ts'

/** The groups of the usage text, in its order. */
export const OPTION_GROUPS = {
  etcd: 'etcd',
  network: 'Interface, lease and routes',
  firewall: 'Firewall',
  files: 'Files for Docker and others',
  insight: 'Seeing into it',
  ignored: 'For old command lines',
} as const

export interface Option extends Flag {
  readonly group: keyof typeof OPTION_GROUPS
  /** Accepted for the sake of old command lines, and warned of. */
  readonly ignored?: true
  /** Inclusive; a value outside ends the program, or with `clamp` is moved to the nearest end and warned of. */
  readonly range?: {
    readonly min: number
    readonly max: number
    readonly unit: string
    readonly clamp?: true
  }
}

/** setTimeout holds at most 2^31 - 1 milliseconds. */
const maxSeconds = 2_147_483

/** The one table of flags: parser, FLANNELD_* variables, usage text, shell completion and docs/flags.md all come from it. */
export const optionTable = {
  'etcd-endpoints': {
    group: 'etcd',
    type: 'string',
    default: 'http://127.0.0.1:4001,http://127.0.0.1:2379',
    help: 'etcd URLs, separated by commas',
  },
  'etcd-prefix': {
    group: 'etcd',
    type: 'string',
    default: '/coreos.com/network',
    help: 'root of all etcd keys',
  },
  'etcd-keyfile': { group: 'etcd', type: 'string', default: '', help: 'TLS client key for etcd (PEM file)' },
  'etcd-certfile': {
    group: 'etcd',
    type: 'string',
    default: '',
    help: 'TLS client certificate for etcd (PEM file)',
  },
  'etcd-cafile': {
    group: 'etcd',
    type: 'string',
    default: '',
    help: 'certificate authorities that etcd servers are checked against (PEM file)',
  },
  'etcd-username': { group: 'etcd', type: 'string', default: '', help: 'user name for etcd (HTTP Basic)' },
  'etcd-password': {
    group: 'etcd',
    type: 'string',
    default: '',
    help: 'password for etcd; others can read a command line, so better use -etcd-password-file',
  },
  'etcd-password-file': {
    group: 'etcd',
    type: 'string',
    default: '',
    help: 'file with the password for etcd (default: the systemd credential etcd-password, if there is one)',
  },
  'subnet-lease-renew-margin': {
    group: 'network',
    type: 'int',
    default: 60,
    range: { min: 1, max: 1439, unit: 'minutes' },
    help: 'minutes before its expiry at which the lease is renewed, 1 to 1439',
  },
  iface: {
    group: 'network',
    type: 'strings',
    default: [],
    help: 'interface (name or IPv4 address) for traffic between hosts; may be repeated, the first match wins',
  },
  'iface-regex': {
    group: 'network',
    type: 'strings',
    default: [],
    help: 'like -iface, as a regular expression on addresses, then names; tried after every -iface; may be repeated',
  },
  'public-ip': {
    group: 'network',
    type: 'string',
    default: '',
    help: "IPv4 address at which other nodes reach this one (default: the interface's address)",
  },
  'subnet-file': {
    group: 'files',
    type: 'string',
    default: '/run/flannel/subnet.env',
    help: 'file that gets the subnet, MTU, ... as environment variables',
  },
  'ip-masq': {
    group: 'firewall',
    type: 'bool',
    default: false,
    help: 'masquerade traffic that leaves the overlay network',
  },
  'iptables-forward-rules': {
    group: 'firewall',
    type: 'bool',
    default: true,
    help: 'accept traffic from and to the overlay network in the FORWARD chain',
  },
  'iptables-resync': {
    group: 'firewall',
    type: 'int',
    default: 5,
    range: { min: 1, max: maxSeconds, unit: 'seconds', clamp: true },
    help: 'seconds between two checks of the firewall rules',
  },
  'kernel-resync': {
    group: 'network',
    type: 'int',
    default: 60,
    range: { min: 1, max: maxSeconds, unit: 'seconds' },
    help: 'seconds between two complete comparisons of device, routes, ARP and FDB entries with the leases',
  },
  'docker-opts-file': {
    group: 'files',
    type: 'string',
    default: '/run/flannel/docker',
    help: 'file that gets the options for dockerd; empty for none',
  },
  'docker-opts-key': {
    group: 'files',
    type: 'string',
    default: 'DOCKER_NETWORK_OPTIONS',
    help: 'variable in -docker-opts-file that holds all options',
  },
  'healthz-ip': {
    group: 'insight',
    type: 'string',
    default: '0.0.0.0',
    help: 'address that the health endpoint listens on',
  },
  'healthz-port': {
    group: 'insight',
    type: 'int',
    default: 0,
    help: 'port that the health endpoint listens on; 0 or less for none',
  },
  'metrics-ip': {
    group: 'insight',
    type: 'string',
    default: '0.0.0.0',
    help: 'address that the metrics endpoint listens on',
  },
  'metrics-port': {
    group: 'insight',
    type: 'int',
    default: 0,
    help: "port of Prometheus' /metrics and of the page; 0 or less for none but those on -healthz-port",
  },
  'peer-probe-interval': {
    group: 'insight',
    type: 'int',
    default: 0,
    range: { min: 0, max: maxSeconds, unit: 'seconds' },
    help: 'seconds between two pings of each peer over the overlay, for status, metrics and page; 0 for none',
  },
  'control-socket': {
    group: 'insight',
    type: 'string',
    default: '/run/flannel/flanneld.sock',
    help: 'unix socket for flanneld status and the other commands, root only; empty for none',
  },
  'kube-subnet-mgr': {
    group: 'ignored',
    type: 'bool',
    default: false,
    help: 'not supported here: take the subnet from Kubernetes instead of etcd',
  },
  'kube-api-url': {
    group: 'ignored',
    type: 'string',
    default: '',
    ignored: true,
    help: 'accepted and ignored',
  },
  'kubeconfig-file': {
    group: 'ignored',
    type: 'string',
    default: '',
    ignored: true,
    help: 'accepted and ignored',
  },
  'kube-annotation-prefix': {
    group: 'ignored',
    type: 'string',
    default: 'flannel.alpha.coreos.com',
    ignored: true,
    help: 'accepted and ignored',
  },
  version: { group: 'insight', type: 'bool', default: false, help: 'print the version and exit' },
  'log-format': {
    group: 'insight',
    type: 'string',
    default: 'text',
    choices: ['text', 'json'],
    help: 'text or json',
  },
  'log-level': {
    group: 'insight',
    type: 'string',
    default: '',
    choices: LEVELS,
    help: 'error, warn, info, debug or trace; without it, what -v says',
  },
  v: {
    group: 'insight',
    type: 'int',
    default: 0,
    placeholder: 'value',
    help: 'verbosity: 1 adds debug, 4 adds trace lines',
  },
  vmodule: {
    group: 'ignored',
    type: 'string',
    default: '',
    placeholder: 'value',
    ignored: true,
    help: 'accepted and ignored',
  },
  log_backtrace_at: {
    group: 'ignored',
    type: 'string',
    default: '',
    placeholder: 'value',
    ignored: true,
    help: 'accepted and ignored',
  },
} as const satisfies Readonly<Record<string, Option>>

type Values = FlagValues<typeof optionTable>
type Name = keyof Values

/** Everything the command line and the environment say, parsed and within its range. */
export interface Options {
  readonly etcd: {
    /** As given: `parseEndpoints` takes it apart, and checks that each is a URL. */
    readonly endpoints: string
    readonly prefix: string
    /** Paths; '' means none. */
    readonly keyFile: string
    readonly certFile: string
    readonly caFile: string
    readonly username: string
    readonly password: Secret
    /** A path; '' means that the password is above, or in a systemd credential, or that there is none. */
    readonly passwordFile: string
  }
  /** 1..1439. */
  readonly renewMarginMinutes: number
  readonly ifaces: readonly string[]
  readonly ifaceRegexes: readonly string[]
  readonly publicIP: Ipv4 | undefined
  readonly subnetFile: string
  readonly ipMasq: boolean
  readonly forwardRules: boolean
  readonly firewallResyncSeconds: number
  readonly kernelResyncSeconds: number
  /** undefined when no such file is wanted. */
  readonly dockerOpts: { readonly file: string; readonly key: string } | undefined
  /** undefined when the endpoint is off. */
  readonly healthz: { readonly ip: string; readonly port: number } | undefined
  /** undefined when metrics have no endpoint of their own. */
  readonly metrics: { readonly ip: string; readonly port: number } | undefined
  /** Seconds between two pings of a peer; 0 for none. */
  readonly peerProbeSeconds: number
  /** Path of the control socket; '' for none. */
  readonly controlSocket: string
  readonly log: { readonly format: 'text' | 'json'; readonly level: Level }
}

/** A value that no dump, log line or JSON text shows; `reveal` is the one way to it. */
export class Secret {
  readonly #value: string

  constructor(value: string) {
    this.#value = value
  }

  reveal(): string {
    return this.#value
  }

  toString(): string {
    return this.#value === '' ? '' : '(secret)'
  }

  toJSON(): string {
    return this.toString()
  }
}

export type ParsedOptions =
  | { readonly kind: 'run'; readonly options: Options; readonly warnings: readonly string[] }
  /** For stderr, exit 0. */
  | { readonly kind: 'help' | 'version'; readonly text: string }
  /** For stderr, with the exit status: 2 when the text was no flag or value, 1 when the value cannot be used. */
  | { readonly kind: 'error'; readonly message: string; readonly status: 1 | 2 }

/**
 * Reads the arguments (without program name) and FLANNELD_* variables; the command line beats the environment,
 * which beats the default, and an empty variable counts as unset. Unlike Go flannel, which ignores a malformed
 * variable and exits 0 on a malformed flag, both are errors here.
 */
export function parseOptions(
  argv: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
  about: { readonly program: string; readonly version: string },
): ParsedOptions {
  const unreadable = (message: string): ParsedOptions => ({
    kind: 'error',
    message: `${message}\nTry '${about.program} -help' for all flags.`,
    status: 2,
  })
  const unusable = (message: string): ParsedOptions => ({ kind: 'error', message, status: 1 })

  const [first = ''] = argv
  // Flannel ignores it and runs: beside the daemon that was to be asked, and with the defaults in the place of its flags.
  if (/^[a-z]/i.test(first)) {
    return unreadable(`no command ${JSON.stringify(first)}; there are ${Object.keys(COMMANDS).join(', ')}`)
  }
  const parsed = parseFlags(optionTable, argv)
  if (parsed.kind === 'error') return unreadable(parsed.message)
  if (parsed.kind === 'help') return { kind: 'help', text: usage(about.program) }
  if (parsed.given.version) return { kind: 'version', text: `${about.version}\n` }

  const fromEnvironment = readEnvironment(env, parsed.given)
  if (fromEnvironment.kind === 'error') return unreadable(fromEnvironment.message)
  const values: Values = { ...defaults(), ...fromEnvironment.values, ...parsed.given }

  const warnings: string[] = []
  const [stray, ...others] = parsed.rest
  if (stray !== undefined) {
    // Only the first is shown: there may be a password among the others.
    warnings.push(
      `Ignoring argument ${JSON.stringify(stray)} and the ${others.length} after it: flags end at the first argument ` +
        'that is none (a boolean is turned off with -flag=false)',
    )
  }
  if (values['etcd-password'] !== '' && values['etcd-password-file'] !== '') {
    return unusable('both -etcd-password and -etcd-password-file are set: leave one of them out')
  }
  if (parsed.given['etcd-password']) {
    warnings.push(
      '-etcd-password on a command line can be read by every user: better use -etcd-password-file',
    )
  }
  warnings.push(...warnOfIgnored(values))
  const outside = checkRanges(values, warnings)
  if (outside !== undefined) return unusable(outside)

  if (values['kube-subnet-mgr']) {
    return unusable(
      'Failed to create SubnetManager: -kube-subnet-mgr is not supported, this flanneld keeps its leases in etcd; ' +
        'leave the flag out',
    )
  }
  const format = values['log-format']
  if (format !== 'text' && format !== 'json') {
    return unreadable(`invalid value ${JSON.stringify(format)} for flag -log-format: neither text nor json`)
  }
  const level = values['log-level'] || levelOfVerbosity(values.v)
  if (!isLevel(level)) {
    return unreadable(
      `invalid value ${JSON.stringify(level)} for flag -log-level: it must be one of ${LEVELS.join(', ')}`,
    )
  }
  const publicText = values['public-ip']
  const publicIP = parseIpv4(publicText)
  if (publicIP === undefined && publicText !== '') {
    const hint = isIPv6(publicText) ? ': it must be an IPv4 address' : ''
    return unusable(`invalid public IP address: ${publicText}${hint} (-public-ip)`)
  }
  for (const name of ['healthz-port', 'metrics-port'] as const) {
    if (values[name] > 65535) {
      return unusable(`Invalid ${name} option, out of acceptable range: ${values[name]} (at most 65535)`)
    }
  }
  const key = values['docker-opts-key']
  if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(key)) {
    return unusable(`-docker-opts-key ${JSON.stringify(key)} is no variable name`)
  }
  return { kind: 'run', options: toOptions(values, { publicIP, format, level }), warnings }
}

/** Grouped, each flag with its default and its variable; flannel's first line. */
function usage(program: string): string {
  const lines = [`Usage: ${program} [OPTION]...`, `       ${program} COMMAND [ARGUMENT]...`, '', 'Commands:']
  for (const [name, { summary }] of Object.entries(COMMANDS)) lines.push(`  ${name.padEnd(12)}${summary}`)
  const all: [string, Option][] = Object.entries(optionTable)
  for (const [group, title] of Object.entries(OPTION_GROUPS)) {
    const members = all.filter(([, option]) => option.group === group)
    const note = (name: string): string => (name === 'version' ? '' : ` [$${variableOf(name)}]`)
    lines.push('', `${title}:`, formatFlags(Object.fromEntries(members), note).trimEnd())
  }
  return `${lines.join('\n')}\n`
}

function toOptions(
  values: Values,
  checked: {
    readonly publicIP: Ipv4 | undefined
    readonly format: 'text' | 'json'
    readonly level: Level
  },
): Options {
  const file = values['docker-opts-file']
  const port = values['healthz-port']
  return {
    etcd: {
      endpoints: values['etcd-endpoints'],
      prefix: values['etcd-prefix'],
      keyFile: values['etcd-keyfile'],
      certFile: values['etcd-certfile'],
      caFile: values['etcd-cafile'],
      username: values['etcd-username'],
      password: new Secret(values['etcd-password']),
      passwordFile: values['etcd-password-file'],
    },
    renewMarginMinutes: values['subnet-lease-renew-margin'],
    ifaces: values.iface,
    ifaceRegexes: values['iface-regex'],
    publicIP: checked.publicIP,
    subnetFile: values['subnet-file'],
    ipMasq: values['ip-masq'],
    forwardRules: values['iptables-forward-rules'],
    firewallResyncSeconds: values['iptables-resync'],
    kernelResyncSeconds: values['kernel-resync'],
    dockerOpts: file === '' ? undefined : { file, key: values['docker-opts-key'] },
    healthz: port > 0 ? { ip: values['healthz-ip'], port } : undefined,
    metrics:
      values['metrics-port'] > 0 ? { ip: values['metrics-ip'], port: values['metrics-port'] } : undefined,
    peerProbeSeconds: values['peer-probe-interval'],
    controlSocket: values['control-socket'],
    log: { format: checked.format, level: checked.level },
  }
}

function defaults(): Values {
  const values: Record<string, unknown> = {}
  for (const [name, option] of Object.entries(optionTable)) values[name] = option.default
  // Each default has its own flag's type: the table says so.
  return values as Values
}

export function variableOf(flagName: string): string {
  return `FLANNELD_${flagName.toUpperCase().replaceAll('-', '_')}`
}

function readEnvironment(
  env: Readonly<Record<string, string | undefined>>,
  given: Partial<Values>,
): { kind: 'values'; values: Partial<Values> } | { kind: 'error'; message: string } {
  const values: Record<string, unknown> = {}
  for (const [name, option] of Object.entries(optionTable)) {
    const variable = variableOf(name)
    const text = env[variable]
    // -version was looked at before the environment, as flannel does.
    if (text === undefined || text === '' || name === 'version' || Object.hasOwn(given, name)) continue
    const value = parseValue(option.type, text)
    if (value.kind === 'error') {
      const message = `invalid value ${JSON.stringify(text)} for environment variable ${variable}: ${value.reason}`
      return { kind: 'error', message }
    }
    values[name] = value.value
  }
  // parseValue made each of them by its flag's type.
  return { kind: 'values', values: values as Partial<Values> }
}

function warnOfIgnored(values: Values): string[] {
  const options: [string, Option][] = Object.entries(optionTable)
  return options
    .filter(([name, option]) => option.ignored && values[name as Name] !== option.default)
    .map(([name]) => `-${name} has no effect`)
}

/** The first value that is out of its range, as an error line; values that may be moved into it are. */
function checkRanges(values: Values, warnings: string[]): string | undefined {
  const options: Readonly<Record<string, Option>> = optionTable
  for (const name of Object.keys(optionTable) as Name[]) {
    const range = options[name]?.range
    const value = values[name]
    if (range === undefined || typeof value !== 'number') continue
    const nearest = Math.min(Math.max(value, range.min), range.max)
    if (nearest === value) continue
    if (range.clamp === undefined) {
      return `Invalid ${name} option, out of acceptable range: ${value} (${range.unit}, ${range.min} to ${range.max})`
    }
    warnings.push(`-${name} ${value} is outside ${range.min} to ${range.max} ${range.unit}: using ${nearest}`)
    Object.assign(values, { [name]: nearest })
  }
  return undefined
}
