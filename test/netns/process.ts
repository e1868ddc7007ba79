/**
 * Child processes that cannot outlive the test.
 *
 * Every child is started through `setpriv --pdeathsig KILL`, so that the kernel ends it when the test process
 * dies, however it dies. `setpriv` and `nsenter` replace themselves with the program (exec), so the child's pid
 * is the program's own, and a signal sent to it arrives where it should.
 */
import { type ChildProcess, execFile, type SpawnOptions, spawn } from 'node:child_process'
import { once } from 'node:events'

/** How a child ended; exactly one of the two is null. */
export interface Exit {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
}

/** Runs a program to its end and resolves to its standard output; rejects with its standard error otherwise. */
export function run(argv: readonly string[], input?: string): Promise<string> {
  const [file, ...args] = argv
  return new Promise((resolve, reject) => {
    const child = execFile(file ?? '', args, { maxBuffer: 1 << 28 }, (error, stdout, stderr) => {
      if (error) reject(new Error(`${argv.join(' ')}: ${stderr.trim() || stdout.trim() || error.message}`))
      else resolve(stdout)
    })
    child.stdin?.on('error', () => undefined)
    child.stdin?.end(input)
  })
}

/** Starts a long-running program, in `namespace` when one is named, that dies with this process. */
export function start(argv: readonly string[], options: SpawnOptions, namespace?: string): ChildProcess {
  const enter = namespace === undefined ? [] : ['nsenter', `--net=/run/netns/${namespace}`]
  return spawn('setpriv', ['--pdeathsig', 'KILL', ...enter, ...argv], options)
}

export function isRunning(child: ChildProcess): boolean {
  return child.pid !== undefined && child.exitCode === null && child.signalCode === null
}

/** Sends `signal` and waits for the end; after `patience` milliseconds it is SIGKILL. */
export async function stop(
  child: ChildProcess,
  signal: NodeJS.Signals = 'SIGTERM',
  patience = 10_000,
): Promise<Exit> {
  if (isRunning(child)) {
    const end = once(child, 'exit')
    child.kill(signal)
    const timer = setTimeout(() => child.kill('SIGKILL'), patience)
    await end
    clearTimeout(timer)
  }
  return { code: child.exitCode, signal: child.signalCode }
}
