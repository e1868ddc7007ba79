/**
 * The support bundle: one archive with what a bug report needs, and without what must not leave the machine. Whatever cannot be
 * had (no daemon, no journal, a program that is not installed) is said in its own file and keeps nothing else out.
 */
import { execFile } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { resolve } from 'node:path'
import type { Status } from '../status.ts'
import { DaemonClient } from './client.ts'
import { type CommandContext, type CommandFlags, readFlags } from './command.ts'
import { run as doctor } from './doctor.ts'
import { redact, secretsOf } from './redact.ts'
import { type TarEntry, tarGz } from './tar.ts'

export const FLAGS = {
  o: { type: 'string', default: '', help: 'file to write (default: flanneld-HOST-TIME.tar.gz here)' },
  socket: { type: 'string', default: '', help: "the daemon's control socket" },
} as const satisfies CommandFlags

/** Milliseconds and bytes that one program may take and print. */
const TIMEOUT = 20_000
const MOST = 64 << 20

/** File in the bundle, and the program that prints what goes into it. */
const COMMANDS: Readonly<Record<string, readonly string[]>> = {
  'kernel/link.txt': ['ip', '-d', '-s', 'link'],
  'kernel/address.txt': ['ip', 'address'],
  'kernel/route.txt': ['ip', '-d', 'route', 'show', 'table', 'all'],
  'kernel/rule.txt': ['ip', 'rule'],
  'kernel/neighbour.txt': ['ip', '-d', 'neighbour', 'show', 'nud', 'all'],
  'kernel/nexthop.txt': ['ip', 'nexthop'],
  'kernel/fdb.txt': ['bridge', 'fdb', 'show'],
  'kernel/sockets.txt': ['ss', '-uanp'],
  'firewall/iptables-save.txt': ['iptables-save', '-c'],
  'firewall/iptables-version.txt': ['iptables', '--version'],
  'firewall/nft.txt': ['nft', 'list', 'ruleset'],
  'system/uname.txt': ['uname', '-a'],
  'system/sysctl.txt': ['sysctl', '-a', '--pattern', 'net.ipv4.(ip_forward|conf)|net.bridge|net.core'],
  'system/unit.txt': ['systemctl', 'cat', 'flanneld.service'],
  'system/unit-status.txt': ['systemctl', 'status', '--no-pager', '--full', 'flanneld.service'],
  'journal.txt': ['journalctl', '-b', '-u', 'flanneld', '--no-pager', '-o', 'short-precise'],
}

const FILES: Readonly<Record<string, string>> = {
  'system/os-release.txt': '/etc/os-release',
  'config/default.txt': '/etc/default/flanneld',
  'config/sysconfig.txt': '/etc/sysconfig/flanneld',
  'files/subnet.env': '/run/flannel/subnet.env',
  'files/docker': '/run/flannel/docker',
}

export async function run(args: readonly string[], context: CommandContext): Promise<number> {
  const flags = readFlags('bundle', FLAGS, args, context)
  if (typeof flags === 'number') return flags
  const now = new Date()
  const name = bundleName(hostname(), now)
  const target = resolve(flags.o || `${name}.tar.gz`)
  const client = new DaemonClient(flags.socket, context.env)
  const daemon = await daemonFiles(client)
  const texts: [string, string][] = [
    ['version.txt', `${context.version}\n`],
    ...daemon.files,
    ['doctor.txt', await findings(flags.socket, context)],
    ...Object.entries(FILES).map(([file, path]): [string, string] => [file, read(path)]),
    ...(await Promise.all(
      Object.entries(COMMANDS).map(
        async ([file, argv]): Promise<[string, string]> => [file, await print(argv)],
      ),
    )),
  ]
  const entries = texts.map(
    ([file, text]): TarEntry => ({
      name: `${name}/${file}`,
      content: Buffer.from(redact(text, daemon.secrets)),
    }),
  )
  try {
    writeFileSync(target, tarGz(entries, Math.floor(now.getTime() / 1000)), { mode: 0o600 })
  } catch (error) {
    context.err.write(
      `flanneld bundle: cannot write the bundle: ${reason(error)}; name another file with -o\n`,
    )
    return 1
  }
  context.out.write(`${target}\n`)
  context.err.write(
    'Passwords and keys are left out; addresses and host names are in it. Look before you send it.\n',
  )
  return 0
}

/** Bytes of a host's name, which may have 64: a file's own name has to fit into a tar archive's 100 behind it. */
const HOST = 40

/** Of the archive and of the folder in it. */
export function bundleName(host: string, now: Date): string {
  const stamp = now.toISOString().slice(0, 19).replaceAll(/[-:]/g, '').replace('T', '-')
  return `flanneld-${host.slice(0, HOST)}-${stamp}`
}

interface DaemonFiles {
  readonly files: readonly [string, string][]
  /** What must not be in any file. */
  readonly secrets: readonly string[]
}

/** The daemon's view, and how it was started. */
async function daemonFiles(client: DaemonClient): Promise<DaemonFiles> {
  const ask = (path: string): Promise<string> => client.text(path).catch((error) => `${reason(error)}\n`)
  const status = await ask('/status')
  const files: [string, string][] = [
    ['daemon/status.json', status],
    ['daemon/peers.jsonl', await ask('/peers')],
    ['daemon/events.json', await ask('/events')],
  ]
  const pid = pidOf(status)
  if (pid === undefined) return { files, secrets: [] }
  const args = read(`/proc/${pid}/cmdline`).split('\0')
  const variables = read(`/proc/${pid}/environ`)
    .split('\0')
    .filter((variable) => /^(FLANNELD_|NOTIFY_SOCKET=|WATCHDOG_|PATH=|NODE_)/.test(variable))
  files.push(
    ['daemon/command-line.txt', `${args.join('\n').trim()}\n`],
    ['daemon/environment.txt', `${variables.join('\n')}\n`],
    ['daemon/process.txt', read(`/proc/${pid}/status`)],
  )
  return { files, secrets: secretsOf(args, variables) }
}

function pidOf(status: string): number | undefined {
  try {
    const { daemon } = JSON.parse(status) as Status
    return daemon.pid
  } catch {
    return undefined
  }
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    return `${reason(error)}\n`
  }
}

/** What `flanneld doctor` says; it asks the daemon for its settings by itself. */
async function findings(socket: string, context: CommandContext): Promise<string> {
  let text = ''
  const write = (part: string): void => {
    text += part
  }
  const args = socket === '' ? [] : ['-control-socket', socket]
  try {
    await doctor(args, { ...context, out: { write }, err: { write } })
  } catch (error) {
    write(`${reason(error)}\n`)
  }
  return text
}

/** What a program prints, or why it could not. */
function print([program = '', ...args]: readonly string[]): Promise<string> {
  return new Promise((resolve) => {
    const options = { timeout: TIMEOUT, maxBuffer: MOST, env: { ...process.env, LC_ALL: 'C' } }
    execFile(program, args, options, (error, stdout, stderr) => {
      const amiss = error === null ? '' : `\n(${program}: ${error.message.trim()})\n`
      resolve(`${stdout}${stderr === '' ? '' : `\n${stderr}`}${amiss}`)
    })
  })
}

function reason(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
