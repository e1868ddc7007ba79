import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { copyFileSync, mkdirSync, mkdtempSync, openSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import type { Namespace } from '../netns/lab.ts'
import { start } from '../netns/process.ts'
import { waitFor } from '../netns/wait.ts'

const BOOT = join(import.meta.dirname, 'boot.sh')

export interface MachineOptions<Name extends string> {
  /** Host name, 12 characters at most: its port on the switch is `vb-<name>`. */
  readonly name: Name
  /** The namespace with the bridge `br0` that the machine's only interface, `host0`, is connected to. */
  readonly network: Namespace
  /** The root file system below the machine's own; see tree.ts. */
  readonly tree: string
  /** Begins the name of the machine's cgroup; unique on this computer. */
  readonly lab: string
  /** What the machine has of its own from the start, by path without the leading slash. */
  readonly files: Readonly<Record<string, MachineFile>>
}

/** A file's content, for all to read or for root alone; or the file of this computer to copy with its mode. */
export type MachineFile = string | { readonly secret: string } | { readonly source: string }

/** How a command ended, with both of its outputs in one, in the order they came. */
export interface Result {
  readonly status: number
  readonly output: string
}

/** One machine with a real systemd, in a container of systemd-nspawn that knows nothing of the others. */
export class Machine<Name extends string = string> {
  readonly name: Name
  readonly #console: string
  readonly #leaderFile: string
  readonly #holder: ChildProcess

  /** Switches it on. */
  constructor({ name, network, tree, lab, files }: MachineOptions<Name>) {
    this.name = name
    const folder = mkdtempSync(join(tmpdir(), `flannel-e2e-${name}-`))
    for (const [path, file] of Object.entries(files)) {
      const target = join(folder, 'upper', path)
      mkdirSync(dirname(target), { recursive: true })
      if (typeof file === 'string') writeFileSync(target, file)
      else if ('secret' in file) writeFileSync(target, file.secret, { mode: 0o600 })
      else copyFileSync(file.source, target)
    }
    this.#console = join(folder, 'console')
    const console = openSync(this.#console, 'a')
    const cgroup = join(cgroupMount(), `${lab}-${name}`)
    this.#leaderFile = join(cgroup, 'payload/init.scope/cgroup.procs')
    const enter = [`--net=/run/netns/${network.name}`, BOOT, folder, tree, name, cgroup]
    // A session of its own: Ctrl-C is for the test, which then closes us.
    this.#holder = spawn('nsenter', enter, { stdio: ['pipe', console, console], detached: true })
    this.#holder.stdin?.on('error', () => undefined)
  }

  /** The machine's PID 1, as this computer counts; undefined while it is off. */
  leader(): number | undefined {
    try {
      return Number(readFileSync(this.#leaderFile, 'utf8').split('\n')[0]) || undefined
    } catch {
      return undefined
    }
  }

  /** Resolves when systemd has started all that it was told to; `before` is the leader of a boot that does not count. */
  async booted(before?: number): Promise<void> {
    const what = (): string =>
      `${this.name} booted; its console: ${readFileSync(this.#console, 'utf8').slice(-2000)}`
    const up = async (): Promise<boolean> => {
      const leader = this.leader()
      if (leader === undefined || leader === before) return false
      const { output } = await this.run('systemctl is-system-running --wait')
      return /^(running|degraded)$/m.test(output)
    }
    await waitFor(up, { what, timeout: 60_000, interval: 200 })
  }

  /** Runs a command as root's login shell would, for `seconds` at most. */
  async run(command: string, seconds = 60): Promise<Result> {
    const leader = this.leader()
    if (leader === undefined) throw new Error(`${this.name} is off`)
    const enter = [
      'nsenter',
      `--target=${leader}`,
      '--mount',
      '--uts',
      '--ipc',
      '--net',
      '--pid',
      '--cgroup',
      '--root',
      '--wd',
    ]
    const shell = [
      'env',
      '-i',
      'HOME=/root',
      'LANG=C.UTF-8',
      'TERM=dumb',
      'bash',
      '--login',
      '-c',
      `exec 2>&1; cd; ${command}`,
    ]
    const child = start([...enter, 'timeout', String(seconds), ...shell], {
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let output = ''
    child.stdout?.setEncoding('utf8').on('data', (text) => {
      output += text
    })
    child.stderr?.setEncoding('utf8').on('data', (text) => {
      output += text
    })
    const [status] = await once(child, 'close')
    return { status: status ?? 1, output }
  }

  /** The output of a command that must succeed. */
  async succeed(command: string, seconds?: number): Promise<string> {
    const { status, output } = await this.run(command, seconds)
    if (status !== 0) {
      const { output: journal } = await this.run('journalctl -n 40 -o short-precise --no-pager')
      throw new Error(`${this.name}# ${command}: status ${status}: ${output}; its journal:\n${journal}`)
    }
    return output
  }

  /** `ip -j` with these words, parsed. */
  async ipJson<T>(words: string): Promise<readonly T[]> {
    return JSON.parse((await this.succeed(`ip -d -j ${words}`)) || '[]')
  }

  async bridgeJson<T>(words: string): Promise<readonly T[]> {
    return JSON.parse((await this.succeed(`bridge -j ${words}`)) || '[]')
  }

  /** Pulls the plug; the machine boots again at once, see `booted`. Returns the leader that was. */
  cutPower(): number {
    const leader = this.leader()
    if (leader === undefined) throw new Error(`${this.name} is off`)
    process.kill(leader, 'SIGKILL')
    return leader
  }

  /** Ends and removes the machine, whatever it is doing. */
  async close(): Promise<void> {
    if (this.#holder.exitCode !== null || this.#holder.signalCode !== null) return
    const end = once(this.#holder, 'exit')
    this.#holder.stdin?.end()
    await end
  }
}

function cgroupMount(): string {
  // proc_pid_mountinfo(5): the fifth field is the mount point, the one after the dash the type.
  const found = /^(?:\S+ ){4}(\S+) .* - cgroup2 /m.exec(readFileSync('/proc/self/mountinfo', 'utf8'))?.[1]
  if (found === undefined) throw new Error('no cgroup2 file system is mounted, and systemd needs one')
  return found
}
