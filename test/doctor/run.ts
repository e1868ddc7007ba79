/** `flanneld doctor -json` in a node's namespace, out of the sources. */
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import type { Severity } from '../../src/doctor/finding.ts'
import type { Namespace } from '../netns/lab.ts'

export interface Diagnosis {
  readonly exit: number
  readonly findings: readonly { check: string; level: Severity; what: string; why: string; mend: string }[]
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
  const argv = [`--net=/run/netns/${namespace.name}`, process.execPath, CLI, 'doctor', ...args]
  const env = Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !name.startsWith('FLANNELD_')),
  )
  return new Promise((resolve) => {
    const child = execFile('nsenter', argv, { env, maxBuffer: 1 << 28 }, (_, out, err) =>
      resolve({ code: child.exitCode ?? -1, out, err }),
    )
  })
}

/** Parsed; throws with standard error when there is no JSON. */
export async function diagnose(namespace: Namespace, ...args: string[]): Promise<Diagnosis> {
  const { code, out, err } = await doctor(namespace, '-json', ...args)
  if (out === '') throw new Error(`no findings, exit status ${code}: ${err}`)
  return { ...(JSON.parse(out) as Diagnosis), exit: code }
}

/** `level check: what` of all that is not well. */
export function amiss({ findings }: Diagnosis): string[] {
  return findings
    .filter(({ level }) => level !== 'ok')
    .map(({ level, check, what }) => `${level} ${check}: ${what}`)
}

/** The command for a shell, without entering the namespace. No argument may hold a space. */
export function doctorLine(...args: string[]): string {
  return [process.execPath, CLI, 'doctor', ...args].join(' ')
}
