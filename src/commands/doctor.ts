/**
 * `flanneld doctor`: reads what there is to know of this node (src/doctor/read.ts), lets every check look at it, and prints what
 * they found, the command that mends it with it.
 */
import { createInterface } from 'node:readline/promises'
import { examine } from '../doctor/examine.ts'
import type { Facts } from '../doctor/facts.ts'
import { exitStatus } from '../doctor/finding.ts'
import { mendAll, systemFix } from '../doctor/fix.ts'
import { read } from '../doctor/programs.ts'
import { readFacts } from '../doctor/read.ts'
import { jsonReport, renderReport } from '../doctor/report.ts'
import { argumentsAfterProgram, DAEMON_FLAGS, type Started, settle, variablesOf } from '../doctor/settings.ts'
import { parseFlags } from '../goflag.ts'
import type { PeerLine, Status } from '../status.ts'
import { DaemonClient, NoDaemonError } from './client.ts'
import { type CommandContext, type CommandFlags, readFlags, usageError } from './command.ts'

const OWN = {
  json: { type: 'bool', default: false, help: 'print the findings as JSON (docs/doctor.md)' },
  fix: { type: 'bool', default: false, help: 'mend what is safe to mend; asks before each' },
  ping: { type: 'bool', default: true, help: 'ping every peer through the tunnel' },
} as const satisfies CommandFlags

/** The daemon's own flags too; without them, what the running daemon or its unit has. */
export const FLAGS = { ...OWN, ...DAEMON_FLAGS } as const satisfies CommandFlags

/** Files that the unit takes its variables from. */
const UNIT_FILES = ['/etc/default/flanneld', '/etc/sysconfig/flanneld']

/** Exit status 0: all is well; 1: something is worth a look; 2: something is broken, or the command line is. */
export async function run(args: readonly string[], context: CommandContext): Promise<number> {
  const { env, out, err } = context
  const flags = readFlags('doctor', FLAGS, args, context)
  if (typeof flags === 'number') return flags
  const terminal = out.isTTY === true && process.stdin.isTTY
  if (flags.fix && (!terminal || flags.json))
    return usageError(
      context,
      'doctor',
      '-fix asks before it changes anything: use it on a terminal, without -json',
    )
  const socket = flags['control-socket']
  const named = socket === FLAGS['control-socket'].default ? undefined : socket
  const client = new DaemonClient(named, env, '-control-socket')
  const daemon = await askDaemon(client)
  const parsed = parseFlags(FLAGS, args)
  const settled = settle(parsed.kind === 'flags' ? parsed.given : {}, env, startedAs(daemon))
  if (typeof settled === 'string') return usageError(context, 'doctor', settled.split('\n')[0] ?? '')

  const look = async (): Promise<Facts> => {
    const progress = out.isTTY === true ? progressLine(err) : undefined
    const facts = await readFacts({
      ...settled,
      daemon,
      peers: (limit) => askPeers(client, limit),
      ping: flags.ping,
      progress: progress?.show,
    })
    progress?.clear()
    return facts
  }
  let facts = await look()
  let findings = examine(facts)
  if (flags.json) {
    out.write(jsonReport(findings, facts))
    return exitStatus(findings)
  }
  const colour = out.isTTY === true && (env.NO_COLOR ?? '') === ''
  out.write(renderReport(findings, { colour }))
  if (!flags.fix) return exitStatus(findings)
  const prompt = createInterface({ input: process.stdin, output: process.stdout })
  const ask = (question: string): Promise<string> => prompt.question(`\n${question}`)
  const mended = await mendAll(findings, { ask, run: systemFix, say: (line) => out.write(`${line}\n`) })
  prompt.close()
  if (mended) {
    facts = await look()
    findings = examine(facts)
    out.write(`\n${renderReport(findings, { colour })}`)
  }
  return exitStatus(findings)
}

/** One line that is written over and over, and is gone in the end. */
function progressLine(err: CommandContext['err']) {
  let shown = Number.NEGATIVE_INFINITY
  return {
    show: (done: number, of: number): void => {
      if (done < of && performance.now() - shown < 100) return
      shown = performance.now()
      err.write(`\rpinging peers: ${done} of ${of}\x1b[K`)
    },
    clear: (): unknown => err.write('\r\x1b[K'),
  }
}

/** The running daemon's status, or why there is none. */
async function askDaemon(client: DaemonClient): Promise<Status | string> {
  try {
    return await client.json<Status>('/status')
  } catch (error) {
    if (error instanceof NoDaemonError) return error.message
    throw error
  }
}

/** At most `limit` of the running daemon's peers, those with something amiss first; undefined when there is none to ask. */
async function askPeers(client: DaemonClient, limit: number | undefined): Promise<PeerLine[] | undefined> {
  try {
    const text = await client.text(limit === undefined ? '/peers' : `/peers?limit=${limit}`)
    const lines = text.split('\n').filter((line) => line !== '')
    return lines.map((line) => JSON.parse(line) as PeerLine)
  } catch (error) {
    if (error instanceof NoDaemonError) return undefined
    throw error
  }
}

function startedAs(daemon: Status | string): Started {
  if (typeof daemon !== 'string') {
    const proc = `/proc/${daemon.daemon.pid}`
    return {
      args: argumentsAfterProgram(read(`${proc}/cmdline`) ?? ''),
      env: variablesOf(read(`${proc}/environ`) ?? ''),
    }
  }
  return { args: [], env: Object.assign({}, ...UNIT_FILES.map((path) => variablesOf(read(path) ?? ''))) }
}
