import type { ChildProcess } from 'node:child_process'
import { closeSync, existsSync, mkdirSync, openSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Namespace } from './namespace.ts'
import { monotonic, type Notice, type Observer } from './observer.ts'
import { type Exit, isRunning, start, stop } from './process.ts'
import { waitFor } from './wait.ts'

export const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url))
/** Our own daemon, as the build leaves it. */
export const OURS = join(REPOSITORY, 'bin/flanneld')
/** Whether it is this repository's; any other is taken for Go flannel, which knows fewer flags. */
export function isOurs(binary: string): boolean {
  return resolve(binary).startsWith(REPOSITORY)
}

const TICKS_PER_SECOND = 100

export interface DaemonOptions {
  /** The program to run; `OURS` by default. */
  readonly binary?: string
  /** Flags after the usual ones (etcd, `-iface eth0`, subnet file, docker options file). */
  readonly args?: readonly string[]
  /** Flags instead of the usual ones. */
  readonly flags?: readonly string[]
  readonly env?: Readonly<Record<string, string>>
  /** Set NOTIFY_SOCKET; true by default. */
  readonly notify?: boolean
  /** Where subnet.env, the docker options file and the log go; by default one per node, kept across restarts. */
  readonly runDir?: string
}

/** What /proc says about a process. Sizes in KiB; CPU time in seconds, user and system, its ended children's too. */
export interface ProcessStatus {
  readonly rss: number
  readonly anonymous: number
  readonly peak: number
  readonly cpu: number
  readonly threads: number
  readonly descriptors: number
}

interface Place {
  readonly namespace: Namespace
  readonly observer: Observer
  readonly etcdFlags: readonly string[]
  readonly runDir: string
}

/** A daemon has ended when it should have said READY=1. */
export class EndedEarly extends Error {
  override readonly name = 'EndedEarly'
  /** The last line of its log. */
  readonly reason: string

  constructor(status: number | string | null, log: string) {
    super(`ended (${status}) before READY=1; its log: ${log.slice(-2000)}`)
    this.reason = log.trimEnd().split('\n').at(-1) ?? ''
  }
}

/** One flanneld, ours or another, in a node's namespace. `Lab.daemon` starts it and stops it in the end. */
export class Daemon {
  readonly namespace: Namespace
  readonly runDir: string
  readonly notices: Notice[] = []
  /** CLOCK_MONOTONIC milliseconds at the start. */
  readonly startedAt: number
  readonly #child: ChildProcess
  readonly #logFrom: number

  private constructor(place: Place, child: ChildProcess, startedAt: number, logFrom: number) {
    this.namespace = place.namespace
    this.runDir = place.runDir
    this.#child = child
    this.startedAt = startedAt
    this.#logFrom = logFrom
  }

  static async start(place: Place, options: DaemonOptions): Promise<Daemon> {
    const { runDir } = place
    const binary = options.binary ?? OURS
    mkdirSync(runDir, { recursive: true })
    const usual = [
      ...place.etcdFlags,
      ...['-iface', 'eth0', '-subnet-file', join(runDir, 'subnet.env')],
      ...(isOurs(binary) ? ['-docker-opts-file', join(runDir, 'docker')] : []),
    ]
    const argv = [binary, ...(options.flags ?? usual), ...(options.args ?? [])]
    const early: Notice[] = []
    let take = (notice: Notice): unknown => early.push(notice)
    const env: NodeJS.ProcessEnv = {
      ...cleanEnvironment(),
      // All labs share one file system, and no two nodes may have one key.
      WIREGUARD_KEY_FILE: join(runDir, 'wgkey'),
      ...(isOurs(binary) ? { FLANNELD_CONTROL_SOCKET: `${runDir}.sock` } : {}),
      ...options.env,
    }
    if (options.notify !== false) {
      const socket = join(runDir, 'notify')
      rmSync(socket, { force: true })
      await place.observer.listen(socket, (notice) => take(notice))
      env.NOTIFY_SOCKET = socket
    }
    const logPath = join(runDir, 'log')
    const logFrom = existsSync(logPath) ? readFileSync(logPath).length : 0
    const log = openSync(logPath, 'a')
    const startedAt = monotonic()
    const child = start(argv, { env, stdio: ['ignore', log, log] }, place.namespace.name)
    closeSync(log)
    const daemon = new Daemon(place, child, startedAt, logFrom)
    take = (notice) => daemon.notices.push(notice)
    daemon.notices.push(...early)
    return daemon
  }

  get pid(): number {
    if (this.#child.pid === undefined) throw new Error('the daemon did not start')
    return this.#child.pid
  }

  get running(): boolean {
    return isRunning(this.#child)
  }

  get subnetFile(): string {
    return join(this.runDir, 'subnet.env')
  }

  get dockerFile(): string {
    return join(this.runDir, 'docker')
  }

  /** Milliseconds from the start to the first READY=1, undefined before it. */
  get readyAfter(): number | undefined {
    const ready = this.notices.find(({ text }) => text.split('\n').includes('READY=1'))
    return ready && ready.at - this.startedAt
  }

  /** Waits for READY=1 and resolves to the milliseconds it took; rejects with EndedEarly when the daemon ends. */
  async waitReady(timeout = 30_000): Promise<number> {
    await waitFor(() => this.readyAfter !== undefined || !this.running, {
      what: () => `READY=1 from ${this.namespace.name}; its log: ${this.log().slice(-2000)}`,
      timeout,
      interval: 2,
    })
    if (this.readyAfter === undefined) {
      const { exitCode, signalCode } = this.#child
      throw new EndedEarly(exitCode ?? signalCode, this.log())
    }
    return this.readyAfter
  }

  get controlSocket(): string {
    return `${this.runDir}.sock`
  }

  /** What this run of the daemon has written to standard output and error. */
  log(): string {
    return readFileSync(join(this.runDir, 'log')).subarray(this.#logFrom).toString()
  }

  /** Waits until the log matches, and resolves to the match. */
  waitLog(pattern: RegExp, timeout = 10_000): Promise<RegExpExecArray> {
    const what = (): string => `${pattern} in the log: ${this.log().slice(-2000)}`
    return waitFor(() => pattern.exec(this.log()), { what, timeout })
  }

  /** subnet.env as a record: FLANNEL_NETWORK, FLANNEL_SUBNET, FLANNEL_MTU, FLANNEL_IPMASQ. */
  subnetEnv(): Readonly<Record<string, string>> {
    const pairs = readFileSync(this.subnetFile, 'utf8').trim().split('\n')
    return Object.fromEntries(
      pairs.map((pair) => [pair.slice(0, pair.indexOf('=')), pair.slice(pair.indexOf('=') + 1)]),
    )
  }

  /** The node's own lease key, `a.b.c.d-len`, from subnet.env. */
  leaseKey(): string {
    const [address, length] = (this.subnetEnv().FLANNEL_SUBNET ?? '').split('/')
    return `${(address ?? '').replace(/\.(\d+)$/, (_, last) => `.${Number(last) - 1}`)}-${length}`
  }

  status(): ProcessStatus {
    const status = readFileSync(`/proc/${this.pid}/status`, 'utf8')
    const field = (name: string): number =>
      Number(new RegExp(`^${name}:\\s*(\\d+)`, 'm').exec(status)?.[1] ?? 0)
    const stat = readFileSync(`/proc/${this.pid}/stat`, 'utf8')
    // After the name in parentheses: state is word 0; utime, stime, cutime, cstime are words 11 to 14 (proc(5)).
    const words = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return {
      rss: field('VmRSS'),
      anonymous: field('RssAnon'),
      peak: field('VmHWM'),
      cpu: words.slice(11, 15).reduce((ticks, word) => ticks + Number(word), 0) / TICKS_PER_SECOND,
      threads: field('Threads'),
      descriptors: readdirSync(`/proc/${this.pid}/fd`).length,
    }
  }

  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal)
  }

  /** Sends a signal (SIGTERM) and waits for the end. */
  stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<Exit> {
    return stop(this.#child, signal)
  }

  /** Waits until the daemon ends by itself. */
  async exited(timeout = 10_000): Promise<Exit> {
    await waitFor(() => !this.running, {
      what: () => `the daemon's end; its log: ${this.log().slice(-2000)}`,
      timeout,
    })
    return { code: this.#child.exitCode, signal: this.#child.signalCode }
  }
}

/** This process's environment without what would steer a flanneld, and with our Node first on the path. */
function cleanEnvironment(): NodeJS.ProcessEnv {
  const env = { ...process.env }
  for (const name of Object.keys(env)) {
    if (/^(FLANNELD_|NOTIFY_SOCKET$|NODE_OPTIONS$|VITEST|JOURNAL_STREAM$)/.test(name)) delete env[name]
  }
  env.PATH = `${join(REPOSITORY, 'node_modules/.bin')}:${env.PATH}`
  return env
}
