/** Running the iptables programs, and what the installed version of them can do. */

/** What a finished program printed. */
export interface CommandOutput {
  readonly stdout: string
  readonly stderr: string
}

export interface CommandOptions {
  /** Text for its standard input; without it, standard input is empty. */
  readonly input?: string
  readonly signal?: AbortSignal
  /** After so many ms the program is killed; 30,000 unless told. */
  readonly timeoutMs?: number
}

/** Runs a program found in PATH, or rejects with `CommandError`. */
export type Runner = (
  command: string,
  args: readonly string[],
  options?: CommandOptions,
) => Promise<CommandOutput>

/** A program that could not be run or did not end with exit status 0. */
export class CommandError extends Error {
  readonly command: string
  readonly kind: 'missing' | 'failed' | 'timeout' | 'aborted'
  /** Exit status, when there was one. */
  readonly status: number | undefined

  constructor(command: string, kind: CommandError['kind'], detail: string, status?: number) {
    super(`${command}: ${detail}`)
    this.name = 'CommandError'
    this.command = command
    this.kind = kind
    this.status = status
  }
}

/** No iptables program that waits 5 s for its lock takes longer than this, in ms, on 50,000 rules. */
const TIMEOUT_MS = 30_000
/** 100,000 rules are about 12 MB of text. */
const MAX_OUTPUT = 256 * 1024 * 1024

/** The runner for the real system. Messages come in English; a program that hangs is killed. */
export const systemRunner: Runner = async (command, args, options = {}) => {
  // Loaded at the first use, which comes when the node is ready: it costs a start 3 ms.
  const { execFile } = await import('node:child_process')
  return new Promise((resolve, reject) => {
    const timeout = options.timeoutMs ?? TIMEOUT_MS
    const child = execFile(
      command,
      args,
      {
        env: { ...process.env, LC_ALL: 'C' },
        timeout,
        killSignal: 'SIGKILL',
        maxBuffer: MAX_OUTPUT,
        ...(options.signal ? { signal: options.signal } : {}),
      },
      (error, stdout, stderr) => {
        if (!error) return resolve({ stdout, stderr })
        reject(commandError(command, error, { stderr, timeout }))
      },
    )
    // A program that exits without reading breaks the pipe; its exit status says more than the pipe does.
    child.stdin?.on('error', () => {})
    child.stdin?.end(options.input ?? '')
  })
}

function commandError(
  command: string,
  error: ExecError,
  { stderr, timeout }: { readonly stderr: string; readonly timeout: number },
): CommandError {
  if (error.name === 'AbortError') return new CommandError(command, 'aborted', 'stopped')
  if (error.code === 'ENOENT') return new CommandError(command, 'missing', 'not found in PATH')
  if (error.killed)
    return new CommandError(command, 'timeout', `killed after ${timeout / 1000} s without result`)
  const said = oneLine(stderr) || (typeof error.code === 'number' ? 'no message' : error.message)
  const status = typeof error.code === 'number' ? error.code : undefined
  const how = status === undefined ? (error.signal ?? error.code ?? 'failed') : `exit status ${status}`
  return new CommandError(command, 'failed', `${said} (${how})`, status)
}

interface ExecError extends Error {
  readonly code?: number | string | null | undefined
  readonly killed?: boolean
  readonly signal?: string | null | undefined
}

/** Without the hints and warnings that iptables adds to every message. */
function oneLine(stderr: string): string {
  return stderr
    .split('\n')
    .map((l) => l.trim())
    .filter((l) => l && !l.startsWith('#') && !l.startsWith('Try `') && !l.startsWith('Error occurred at'))
    .join('; ')
}

/** What the installed iptables can do. */
export interface Capabilities {
  /** The nf_tables variant (`iptables-nft`): no lock, and it can read one chain without reading the table. */
  readonly nft: boolean
  /** `MASQUERADE --random-fully`: 1.6.2. */
  readonly randomFully: boolean
  /** `iptables-restore -w SECONDS`: 1.6.2. Before, the legacy variant does not take its lock at all. */
  readonly restoreWait: boolean
}

/** Reads `iptables --version` output such as `iptables v1.8.9 (nf_tables)`; what is unreadable can do nothing. */
export function parseCapabilities(text: string): Capabilities {
  const found = /\bv(\d+)\.(\d+)(?:\.(\d+))?/.exec(text)
  const [major, minor, patch] = [found?.[1], found?.[2], found?.[3]].map((digits) => Number(digits ?? 0))
  const since162 = rank(major, minor, patch) >= rank(1, 6, 2)
  return { nft: text.includes('(nf_tables)'), randomFully: since162, restoreWait: since162 }
}

function rank(major = 0, minor = 0, patch = 0): number {
  return major * 1e6 + minor * 1e3 + patch
}
