import { readFileSync, writeFileSync } from 'node:fs'
import { systemClock } from './clock.ts'
import { isCommand } from './commands/names.ts'
import { FatalError, runDaemon } from './daemon.ts'
import { type LeveledLogger, openLog, StderrSink } from './log.ts'
import { notify } from './native.ts'
import type { Tracing } from './netlink/trace.ts'
import { parseOptions } from './options.ts'
import { hideArguments } from './secrets.ts'
import { Systemd } from './systemd.ts'
import { View } from './view.ts'

/** Set by the build. */
declare const VERSION: string | undefined

/** The process: arguments in, exit status out. 0 stopped as asked, 1 cannot go on, 2 a command line that cannot be read. */
export async function run(): Promise<void> {
  const { env } = process
  const [command, ...args] = process.argv.slice(2)
  const version = `${typeof VERSION === 'undefined' ? 'development' : VERSION}, Node ${process.version}`
  if (isCommand(command)) {
    const { runCommand } = await import('./tools.ts')
    // Its reader has seen enough, as in `flanneld status | head`.
    process.stdout.on('error', () => process.exit())
    process.exitCode = await runCommand(command, args, {
      env,
      version,
      out: process.stdout,
      err: process.stderr,
    })
    return
  }
  const sink = new StderrSink(env)
  const parsed = parseOptions(process.argv.slice(2), env, { program: 'flanneld', version })
  if (parsed.kind !== 'run') {
    sink.write(`${parsed.kind === 'error' ? parsed.message : parsed.text}`.replace(/\n*$/, '\n'))
    process.exitCode = parsed.kind === 'error' ? parsed.status : 0
    return
  }
  const { options, warnings } = parsed
  hideArguments(process.argv.slice(2))
  takeName()
  const view = new View(systemClock, {
    version,
    pid: process.pid,
    etcdPrefix: options.etcd.prefix,
    masquerade: options.ipMasq,
    forwardRules: options.forwardRules,
  })
  const log = await openLog({
    ...options.log,
    sink,
    clock: systemClock,
    onLine: (level, message) => view.events.note(level, message),
  })
  view.watchLog(log)
  for (const warning of warnings) log.warn(warning)

  const systemd = new Systemd({ env, send: notify, clock: systemClock, log })
  const stop = new AbortController()
  const onSignal = (): void => {
    log.info('shutdownHandler sent cancel signal...')
    view.phase = 'stopping'
    systemd.stopping()
    stop.abort()
  }
  // A second signal finds no handler and ends the process at once.
  process.once('SIGINT', onSignal).once('SIGTERM', onSignal)
  process.on('SIGUSR1', () => view.toggleDebug())
  try {
    if (!mayAdministerNetwork()) {
      throw new FatalError(
        'flanneld must run as root (it lacks CAP_NET_ADMIN): it makes devices, routes and rules',
      )
    }
    const trace = netlinkTrace(log, env)
    await runDaemon({
      options,
      log,
      clock: systemClock,
      systemd,
      view,
      trace,
      signal: stop.signal,
    })
  } catch (error) {
    if (!stop.signal.aborted) {
      log.error(error instanceof Error ? error.message : String(error))
      if (error instanceof Error && !(error instanceof FatalError))
        log.error(`This is a bug in flanneld: ${error.stack}`)
      process.exit(1)
    }
  }
  log.info('Exiting cleanly...')
  process.exit(0)
}

/**
 * Names the process as flannel's is named, for `pgrep flanneld` and the like and for `flanneld cleanup`: Node calls it
 * MainThread, and a new title the beginning of that.
 */
function takeName(): void {
  try {
    writeFileSync('/proc/self/comm', 'flanneld')
  } catch {
    // A sandbox's /proc may be read-only, and the name is not worth a start.
  }
}

/** Every netlink message in words: at level trace, or with FLANNELD_DEBUG_NETLINK=1 at any level. */
function netlinkTrace(log: LeveledLogger, env: NodeJS.ProcessEnv): Tracing {
  if (env.FLANNELD_DEBUG_NETLINK === '1') return () => (line) => log.info(`netlink ${line}`)
  const print = (line: string): void => log.trace(`netlink ${line}`)
  return () => (log.level === 'trace' ? print : undefined)
}

/** CAP_NET_ADMIN (capabilities(7), bit 12) in the effective set. */
function mayAdministerNetwork(): boolean {
  const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]
  return effective === undefined || (BigInt(`0x${effective}`) & (1n << 12n)) !== 0n
}
