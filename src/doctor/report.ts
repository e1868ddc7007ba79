import { formatIpv4, formatSubnet } from '../ip.ts'
import type { Facts } from './facts.ts'
import { exitStatus, type Finding, type Severity } from './finding.ts'
import { verdict } from './peers.ts'

const WIDTH = 80
const INDENT = 5

/** SGR codes of ECMA-48. */
const CODES: Readonly<Record<Severity, number>> = { ok: 32, warn: 33, fail: 31 }
const WORDS: Readonly<Record<Severity, string>> = { ok: 'ok', warn: 'WARN', fail: 'FAIL' }

/** Findings for people, in 80 columns; a word that is longer stays whole, so that a path can be copied. */
export function renderReport(findings: readonly Finding[], { colour }: { readonly colour: boolean }): string {
  const lines: string[] = []
  for (const { check, level, what, why, mend } of findings) {
    const label = WORDS[level].padEnd(INDENT)
    const [first = '', ...more] = wrap(`${check}: ${what}`, WIDTH - INDENT)
    lines.push((colour ? `\x1b[${CODES[level]}m${label}\x1b[0m` : label) + first)
    for (const line of more) lines.push(' '.repeat(INDENT) + line)
    if (why !== '') for (const line of wrap(why, WIDTH - INDENT)) lines.push(' '.repeat(INDENT) + line)
    if (mend !== '')
      lines.push(...wrap(`mend: ${mend}`, WIDTH - INDENT).map((line) => ' '.repeat(INDENT) + line))
  }
  return `${lines.join('\n')}\n${summary(findings)}\n`
}

function summary(findings: readonly Finding[]): string {
  const count = (level: Severity): number => findings.filter((finding) => finding.level === level).length
  const words = ['All is well', 'Worth a look', 'Not as it should be'][exitStatus(findings)]
  return `${words}: ${count('ok')} ok, ${count('warn')} warn, ${count('fail')} fail`
}

/** Lines of at most `width` characters, broken at spaces; a longer word stays whole. */
export function wrap(text: string, width: number): string[] {
  const lines: string[] = []
  let line = ''
  for (const word of text.replaceAll(/\s+/g, ' ').trim().split(' ')) {
    if (line !== '' && line.length + 1 + word.length > width) {
      lines.push(line)
      line = word
    } else line = line === '' ? word : `${line} ${word}`
  }
  return line === '' ? lines : [...lines, line]
}

/** One object: `version`, `exit`, the findings, and each peer's pings. docs/doctor.md describes it. */
export function jsonReport(findings: readonly Finding[], { probes }: Pick<Facts, 'probes'>): string {
  const peers = (typeof probes === 'string' ? [] : probes).map((probe) => ({
    subnet: formatSubnet(probe.subnet),
    publicIP: formatIpv4(probe.publicIP),
    verdict: verdict(probe),
    lossPercent: Math.round(100 - (100 * probe.large.received) / probe.large.sent),
    largestPacket: probe.largest ?? null,
    rttMs: probe.large.rtt ?? probe.small?.rtt ?? null,
  }))
  const shown = findings.map(({ check, level, what, why, mend, fix }) => ({
    check,
    level,
    what,
    why,
    mend,
    fixable: fix !== undefined,
  }))
  return `${JSON.stringify({ version: 1, exit: exitStatus(findings), findings: shown, peers }, undefined, 2)}\n`
}
