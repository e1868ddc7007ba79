/**
 * Running an operator's command, as flannel does: `sh -c`, variables in the environment, data on standard input,
 * standard output and error taken together.
 *
 * Only the network config's own words are ever given to the shell. What a lease says, which any node can write, reaches
 * a command as the value of a variable and as its input, and no shell reads those as a program (CVE-2026-32241).
 */
import { spawn } from 'node:child_process'

export interface Command {
  /** The config's text. */
  readonly line: string
  /** All that the command finds in its environment. */
  readonly env: Readonly<Record<string, string>>
  readonly input: string
  /** Milliseconds after which it is ended, with all that it started. */
  readonly timeout: number
}

/** What a command that ended with status 0 said, trimmed, or why it did not. */
export type Outcome =
  | { readonly kind: 'done'; readonly output: string }
  | { readonly kind: 'failed'; readonly reason: string; readonly output: string }

/** An etcd value holds 1.5 MB at most; what a command says beyond this is dropped, and makes it fail. */
export const MAX_OUTPUT = 1 << 20
/** Milliseconds between asking a command to end and ending it. */
const GRACE = 2_000
/** Milliseconds in which what it left running in the background may still hold its output open. */
const LINGER = 200

/** Runs a command to its end. Never rejects. */
export function runCommand({ line, env, input, timeout }: Command, signal: AbortSignal): Promise<Outcome> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve({ kind: 'failed', reason: 'flanneld is stopping', output: '' })
    // The outer shell only joins the two outputs, so that their order stays; the line is the inner one's whole program.
    const child = spawn('/bin/sh', ['-c', 'exec /bin/sh -c "$1" 2>&1', 'sh', line], {
      env,
      stdio: ['pipe', 'pipe', 'ignore'],
      // A group of its own, so that its children can be ended with it.
      detached: true,
    })
    const chunks: Buffer[] = []
    let size = 0
    let why: string | undefined
    const end = (reason: string): void => {
      why ??= reason
      killGroup(child.pid, 'SIGTERM')
      killer ??= setTimeout(() => killGroup(child.pid, 'SIGKILL'), GRACE)
    }
    let killer: NodeJS.Timeout | undefined
    const timer = setTimeout(() => end(`not finished after ${timeout / 1000} s`), timeout)
    const onAbort = (): void => end('flanneld is stopping')
    signal.addEventListener('abort', onAbort, { once: true })
    const settle = (failure: string | undefined): void => {
      clearTimeout(timer)
      clearTimeout(killer)
      signal.removeEventListener('abort', onAbort)
      // What ignored the request to end, though the shell did not.
      if (why !== undefined) killGroup(child.pid, 'SIGKILL')
      child.stdout.destroy()
      const output = Buffer.concat(chunks).toString().trim()
      const tooMuch = size > MAX_OUTPUT ? `said more than ${MAX_OUTPUT} bytes` : undefined
      const reason = why ?? failure ?? tooMuch
      resolve(reason === undefined ? { kind: 'done', output } : { kind: 'failed', reason, output })
    }
    child.stdout.on('data', (chunk: Buffer) => {
      if (size <= MAX_OUTPUT) chunks.push(chunk.subarray(0, MAX_OUTPUT - size))
      size += chunk.length
    })
    child.on('error', (error) => settle(error.message))
    child.on('exit', (code, by) => {
      const failure = code === 0 ? undefined : code === null ? `ended by ${by}` : `exit status ${code}`
      const closed = setTimeout(() => settle(failure), LINGER)
      child.stdout.on('close', () => {
        clearTimeout(closed)
        settle(failure)
      })
    })
    // A command that does not read its input breaks the pipe, which is its good right.
    child.stdin.on('error', () => undefined)
    child.stdin.end(input)
  })
}

function killGroup(pid: number | undefined, signal: NodeJS.Signals): void {
  if (pid === undefined) return
  try {
    process.kill(-pid, signal)
  } catch {
    // It is gone.
  }
}

/** In flannel's words, on one line. */
export function describeFailure(
  line: string,
  { reason, output }: Extract<Outcome, { kind: 'failed' }>,
): string {
  return `failed to run command: ${say(line)} Err: ${reason} Output: ${say(output)}`
}

/** On one line, and no longer than a line should be. */
export function say(text: string): string {
  const flat = text.replace(/\s*\n\s*/g, ' \\n ')
  return flat.length > 500 ? `${flat.slice(0, 500)}...` : flat
}
