/** `flanneld doctor -json` in a node's namespace, out of the sources. */
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import type { Severity } from '../../src/doctor/finding.ts'
import type { Namespace } from '../netns/lab.ts'

interface Finding {
  readonly check: string
  readonly level: Severity
  readonly what: string
  readonly why: string
  readonly mend: string
}

export interface Diagnosis {
  readonly exit: number
  readonly findings: readonly Finding[]
  readonly peers: readonly {
    subnet: string
    verdict: string
    lossPercent: number
    largestPacket: number | null
    rttMs: number | null
  }[]
}

const CLI = join(import.meta.dirname, 'cli.ts')

/** Exit status and what is printed. */
export function doctor(
  namespace: Namespace,
  ...args: string[]
): Promise<{ readonly code: number; readonly out: string; readonly err: string }> {
  return run(namespace, [process.execPath, CLI, 'doctor', ...args])
}

function run(
  namespace: Namespace,
  argv: readonly string[],
): Promise<{ readonly code: number; readonly out: string; readonly err: string }> {
  const env = Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !name.startsWith('FLANNELD_')),
  )
  return new Promise((resolve) => {
    const child = execFile(
      'nsenter',
      [`--net=/run/netns/${namespace.name}`, ...argv],
      { env, maxBuffer: 1 << 28 },
      (_, out, err) => resolve({ code: child.exitCode ?? -1, out, err }),
    )
  })
}

/** Parsed; throws with standard error when there is no JSON. */
export async function diagnose(namespace: Namespace, ...args: string[]): Promise<Diagnosis> {
  return parse(await doctor(namespace, '-json', ...args))
}

/**
 * The same after the lines of a shell script, in a mount namespace of its own, with the node's devices in
 * /sys, so that what the script mounts and writes there is gone with it.
 */
export async function diagnoseAfter(
  namespace: Namespace,
  script: string,
  ...args: string[]
): Promise<Diagnosis> {
  const lines = `set -e\nmount -t sysfs none /sys\n${script}\nexec "$@"`
  const argv = ['unshare', '--mount', 'sh', '-c', lines, 'sh', process.execPath, CLI, 'doctor', '-json']
  return parse(await run(namespace, [...argv, ...args]))
}

function parse({ code, out, err }: { readonly code: number; readonly out: string; readonly err: string }) {
  if (out === '') throw new Error(`no findings, exit status ${code}: ${err}`)
  return { ...(JSON.parse(out) as Diagnosis), exit: code }
}

/** `level check: what` of all that is not well. */
export function amiss({ findings }: Diagnosis): string[] {
  return findings
    .filter(({ level }) => level !== 'ok')
    .map(({ level, check, what }) => `${level} ${check}: ${what}`)
}

/** What one check has found. */
export function found({ findings }: Diagnosis, check: string): readonly Finding[] {
  return findings.filter((finding) => finding.check === check)
}

/** The command for a shell, without entering the namespace. No argument may hold a space. */
export function doctorLine(...args: string[]): string {
  return [process.execPath, CLI, 'doctor', ...args].join(' ')
}
