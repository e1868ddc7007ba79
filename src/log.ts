import { fstatSync, writeSync } from 'node:fs'
import { isatty } from 'node:tty'

/** Fields of a log line. Never put a secret in one. */
export type LogFields = Readonly<Record<string, string | number | boolean | undefined>>

/** What the parts of the program log through; `openLog` makes one. One call is one line. */
export interface Logger {
  trace(message: string, fields?: LogFields): void
  debug(message: string, fields?: LogFields): void
  info(message: string, fields?: LogFields): void
  warn(message: string, fields?: LogFields): void
  error(message: string, fields?: LogFields): void
}

export type Level = keyof Logger

/** Levels from the most talkative to the quietest: a log at one of them holds it and all after it. */
export const LEVELS = ['trace', 'debug', 'info', 'warn', 'error'] as const satisfies readonly Level[]

export function isLevel(text: string): text is Level {
  return LEVELS.some((level) => level === text)
}

/** A log whose level can be changed while it is in use. */
export interface LeveledLogger extends Logger {
  level: Level
}

/** Where lines go, and what reads them there. */
export interface LogSink {
  /**
   * Takes one line with its newline, and returns how many lines it had to drop since the last one that it wrote; 0
   * too when it drops this one. Must not throw: a log that cannot be written is no reason to stop.
   */
  write(line: string): number
  /** The journal stamps lines itself and takes the priority from a `<n>` in front (sd-daemon(3)). */
  readonly journal: boolean
  readonly colour: boolean
}

interface LogOptions {
  readonly format: 'text' | 'json'
  /** Until it is set otherwise. */
  readonly level: Level
  readonly sink: LogSink
  /** Milliseconds since the epoch, for the time in front of a line. */
  readonly clock: { wall(): number }
  /** Told of every line at info or above, whatever the level, with the message alone. */
  readonly onLine?: (level: Level, message: string) => void
}

/**
 * Opens the log: `text` gives `<time> <level> <message> <key>=<value>...`, `json` one object a line with `level` as a
 * word, `time` in ISO 8601, `msg` and the fields.
 */
export async function openLog(options: LogOptions): Promise<LeveledLogger> {
  const { sink, onLine } = options
  let lowest = LEVELS.indexOf(options.level)
  let dropped = 0
  const write = (line: string): void => {
    dropped += sink.write(line)
  }
  const entry = await (options.format === 'json' ? openJson : openText)(options, write)
  const at = (level: Level): Logger['info'] => {
    const position = LEVELS.indexOf(level)
    const told = position >= LEVELS.indexOf('info')
    return (message, fields = {}) => {
      if (told) onLine?.(level, message)
      if (position < lowest) return
      entry(level, message, fields)
      if (dropped === 0) return
      const lines = dropped
      dropped = 0
      entry('warn', 'Log lines were lost: their reader was too slow', { lines })
    }
  }
  return {
    trace: at('trace'),
    debug: at('debug'),
    info: at('info'),
    warn: at('warn'),
    error: at('error'),
    get level() {
      return LEVELS[lowest] ?? 'info'
    },
    set level(level) {
      lowest = LEVELS.indexOf(level)
    },
  }
}

/** Formats an entry and writes its line. */
type Entry = (level: Level, message: string, fields: LogFields) => void

/** pino takes 11 ms to load, a sixth of a start; so only those who read JSON wait for it. */
async function openJson({ clock }: LogOptions, write: (line: string) => void): Promise<Entry> {
  const { pino } = await import('./jsonlog.ts')
  const logger = pino(
    {
      level: 'trace',
      base: null,
      timestamp: () => `,"time":"${new Date(clock.wall()).toISOString()}"`,
      formatters: { level: (level) => ({ level }) },
    },
    { write },
  )
  return (level, message, fields) => logger[level](fields, message)
}

function openText({ sink, clock }: LogOptions, write: (line: string) => void): Entry {
  return (level, message, fields) => {
    const { word, priority, colour } = levels[level]
    let line = sink.journal ? `<${priority}>` : `${localTime(clock.wall())} `
    line += sink.colour ? `\x1b[${colour}m${word}\x1b[0m ` : `${word} `
    line += escapeControls(message)
    for (const [key, value] of Object.entries(fields)) {
      if (value !== undefined) line += ` ${key}=${formatValue(value)}`
    }
    write(`${line}\n`)
  }
}

/** The level that flannel's `-v` means: 1 to 3 adds debug, 4 and more trace (its V(1), V(2) and V(4)). */
export function levelOfVerbosity(verbosity: number): Level {
  return verbosity >= 4 ? 'trace' : verbosity >= 1 ? 'debug' : 'info'
}

/** Priorities are syslog(3)'s, colours are the numbers of ECMA-48's SGR. */
const levels: Readonly<
  Record<Level, { readonly word: string; readonly priority: number; readonly colour: number }>
> = {
  trace: { word: 'trace', priority: 7, colour: 2 },
  debug: { word: 'debug', priority: 7, colour: 2 },
  info: { word: 'info ', priority: 6, colour: 32 },
  warn: { word: 'warn ', priority: 4, colour: 33 },
  error: { word: 'error', priority: 3, colour: 31 },
}

function localTime(milliseconds: number): string {
  const t = new Date(milliseconds)
  const two = (n: number): string => String(n).padStart(2, '0')
  const date = `${t.getFullYear()}-${two(t.getMonth() + 1)}-${two(t.getDate())}`
  const time = `${two(t.getHours())}:${two(t.getMinutes())}:${two(t.getSeconds())}`
  return `${date} ${time}.${String(t.getMilliseconds()).padStart(3, '0')}`
}

function formatValue(value: string | number | boolean): string {
  if (typeof value !== 'string') return String(value)
  return value === '' || /[\s"=\\]/.test(value)
    ? escapeControls(JSON.stringify(value))
    : escapeControls(value)
}

/** One call stays one line, and text out of etcd cannot steer a terminal. */
function escapeControls(text: string): string {
  // To look for those classes costs the first line of a start half a millisecond.
  if (/^[ -~]*$/.test(text)) return text
  return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (c) =>
    c === '\n' ? '\\n' : `\\u{${c.codePointAt(0)?.toString(16)}}`,
  )
}

/** How long a line may wait for a slow reader, in milliseconds, before it is dropped. */
const patience = 50

/**
 * Standard error, written synchronously: a line that was logged is there even if the next thing is a crash. A closed
 * pipe is ignored; when nobody reads a full one, lines are dropped.
 */
export class StderrSink implements LogSink {
  readonly journal: boolean
  readonly colour: boolean
  readonly #write: (bytes: Uint8Array) => number
  #dropped = 0
  #midLine = false

  constructor(
    env: Readonly<Record<string, string | undefined>>,
    write: (bytes: Uint8Array) => number = (bytes) => writeSync(2, bytes),
  ) {
    this.journal = isJournal(env.JOURNAL_STREAM)
    this.colour = isatty(2) && (env.NO_COLOR ?? '') === ''
    this.#write = write
  }

  write(line: string): number {
    if (!this.#writeAll(Buffer.from(this.#midLine ? `\n${line}` : line))) {
      this.#dropped++
      return 0
    }
    const dropped = this.#dropped
    this.#dropped = 0
    return dropped
  }

  #writeAll(bytes: Uint8Array): boolean {
    // While lines are being dropped, none waits again: a stuck reader must not slow the daemon down.
    let tries = this.#dropped === 0 ? patience : 0
    for (let rest = bytes; rest.length > 0; ) {
      try {
        rest = rest.subarray(this.#write(rest))
        this.#midLine = rest.length > 0
      } catch (error) {
        const again = error instanceof Error && 'code' in error && error.code === 'EAGAIN'
        if (!again || tries-- <= 0) return false
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1)
      }
    }
    return true
  }
}

/** JOURNAL_STREAM names device and inode of the journal's socket; a child with a redirected stderr inherits it too. */
function isJournal(journalStream: string | undefined): boolean {
  if (journalStream === undefined || journalStream === '') return false
  try {
    const { dev, ino } = fstatSync(2)
    return journalStream === `${dev}:${ino}`
  } catch {
    return false
  }
}
