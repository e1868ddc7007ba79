/**
 * Command lines as Go's `flag` package reads them (https://pkg.go.dev/flag#hdr-Command_line_flag_syntax), which
 * is what scripts and unit files written for flanneld rely on:
 *
 *     -name  --name  -name=value  -name value     (the last not for booleans: they never take the next argument)
 *
 * The first argument that is no flag, or `--`, ends the flags. Errors carry Go's own words.
 */
export interface Flag {
  readonly type: 'bool' | 'int' | 'string' | 'strings'
  readonly default: boolean | number | string | readonly string[]
  /** The word for the value in the usage text; booleans have none. */
  readonly placeholder?: string
  /** All values there are, where they are few; whoever reads the flag checks that. */
  readonly choices?: readonly string[]
  readonly help: string
}

export type FlagTable = Readonly<Record<string, Flag>>

interface ValueOf {
  bool: boolean
  int: number
  string: string
  strings: readonly string[]
}

/** What the flags of a table hold, by flag name. `int` is any Go int64, so beyond 2^53 it is rounded. */
export type FlagValues<T extends FlagTable> = { -readonly [Name in keyof T]: ValueOf[T[Name]['type']] }

export type Parsed<T extends FlagTable> =
  /** `given` are the flags that were set, `rest` is what was left after the last flag. */
  | {
      readonly kind: 'flags'
      readonly given: Partial<FlagValues<T>>
      readonly rest: readonly string[]
    }
  | { readonly kind: 'help' }
  | { readonly kind: 'error'; readonly message: string }

export function parseFlags<T extends FlagTable>(table: T, args: readonly string[]): Parsed<T> {
  const given = new Map<string, ValueOf[Flag['type']]>()
  let next = 0
  while (next < args.length) {
    const arg = args[next] ?? ''
    if (arg.length < 2 || arg[0] !== '-') break
    next++
    if (arg === '--') break

    const body = arg.slice(arg[1] === '-' ? 2 : 1)
    if (body === '' || body[0] === '-' || body[0] === '=') return bad(`bad flag syntax: ${arg}`)
    const equals = body.indexOf('=')
    const name = equals < 0 ? body : body.slice(0, equals)
    let text = equals < 0 ? undefined : body.slice(equals + 1)

    const flag = Object.hasOwn(table, name) ? table[name] : undefined
    if (flag === undefined) {
      if (name === 'help' || name === 'h') return { kind: 'help' }
      return bad(`flag provided but not defined: -${name}`)
    }
    if (text === undefined && flag.type === 'bool') text = 'true'
    if (text === undefined) {
      if (next >= args.length) return bad(`flag needs an argument: -${name}`)
      text = args[next++] ?? ''
    }
    const value = parseValue(flag.type, text)
    if (value.kind === 'error') {
      const what = flag.type === 'bool' ? 'boolean value' : 'value'
      const where = flag.type === 'bool' ? `-${name}` : `flag -${name}`
      return bad(`invalid ${what} ${JSON.stringify(text)} for ${where}: ${value.reason}`)
    }
    const before = given.get(name)
    given.set(name, Array.isArray(before) ? [...before, text] : value.value)
  }
  // Only parseValue fills the map, each entry by its own flag's type.
  return { kind: 'flags', given: Object.fromEntries(given) as Partial<FlagValues<T>>, rest: args.slice(next) }
}

function bad(message: string): { kind: 'error'; message: string } {
  return { kind: 'error', message }
}

export type ParsedValue =
  | { readonly kind: 'value'; readonly value: ValueOf[Flag['type']] }
  | { readonly kind: 'error'; readonly reason: 'parse error' | 'value out of range' }

/** One value of a flag, from the command line or the environment. A `strings` value is a list of that one. */
export function parseValue(type: Flag['type'], text: string): ParsedValue {
  switch (type) {
    case 'bool':
      return parseBool(text)
    case 'int':
      return parseInt64(text)
    case 'string':
      return { kind: 'value', value: text }
    case 'strings':
      return { kind: 'value', value: [text] }
    default:
      throw new Error(`unknown flag type ${JSON.stringify(type satisfies never)}`)
  }
}

/** Go's strconv.ParseBool. */
function parseBool(text: string): ParsedValue {
  if (['1', 't', 'T', 'TRUE', 'true', 'True'].includes(text)) return { kind: 'value', value: true }
  if (['0', 'f', 'F', 'FALSE', 'false', 'False'].includes(text)) return { kind: 'value', value: false }
  return { kind: 'error', reason: 'parse error' }
}

const goInteger =
  /^([+-]?)(0[xX](?:_?[0-9a-fA-F])+|0[bB](?:_?[01])+|0[oO](?:_?[0-7])+|0(?:_?[0-7])*|[1-9](?:_?[0-9])*)$/

/** Go's strconv.ParseInt(text, 0, 64): base by prefix, a bare leading zero meaning octal. */
function parseInt64(text: string): ParsedValue {
  const match = goInteger.exec(text)
  if (match === null) return { kind: 'error', reason: 'parse error' }
  const digits = (match[2] ?? '').replaceAll('_', '').replace(/^0(?=[0-7])/, '0o')
  const value = match[1] === '-' ? -BigInt(digits) : BigInt(digits)
  if (BigInt.asIntN(64, value) !== value) return { kind: 'error', reason: 'value out of range' }
  return { kind: 'value', value: Number(value) }
}

/**
 * Flags as Go's PrintDefaults lays them out: in alphabetical order, with the defaults that are not zero. `note` is put
 * behind the help of the flag of that name.
 */
export function formatFlags(table: FlagTable, note: (name: string) => string = () => ''): string {
  const lines: string[] = []
  for (const name of Object.keys(table).sort()) {
    const flag = table[name]
    if (flag === undefined) continue
    const word = valueWord(flag)
    lines.push(
      `  -${name}${word === '' ? '' : ` ${word}`}`,
      `    \t${flag.help}${formatDefault(flag.default)}${note(name)}`,
    )
  }
  return `${lines.join('\n')}\n`
}

/** What stands for the flag's value in a usage text; '' for a boolean, which needs none. */
export function valueWord(flag: Flag): string {
  return flag.placeholder ?? { bool: '', int: 'int', string: 'string', strings: 'value' }[flag.type]
}

function formatDefault(value: Flag['default']): string {
  if (value === false || value === 0 || value === '' || Array.isArray(value)) return ''
  return ` (default ${typeof value === 'string' ? JSON.stringify(value) : value})`
}
