/**
 * Rules as iptables reads and prints them. Codec only; what to change is `plan.ts`, running it `firewall.ts`.
 *
 * Reading is one-sided on purpose: a line that is not exactly one of the few shapes we write (an option we do
 * not use, a quote, a mark, a comment) is somebody else's, and is carried along as text.
 */
import { formatSubnet, netmask, parseIpv4, type Subnet, subnetOf } from '../ip.ts'
import type { AddressMatch, Rule } from './rules.ts'

/** One rule of a chain as dumped: `rule` is undefined when it cannot be one of ours. */
export interface ChainLine {
  /** What follows `-A CHAIN `, unchanged. */
  readonly text: string
  readonly rule: Rule | undefined
}

/** A dump that is cut short. Nothing may be concluded from it, least of all that rules are gone. */
export class TruncatedDump extends Error {
  readonly table: string

  constructor(table: string) {
    super(`iptables-save: its output ends in the middle of table ${table}`)
    this.name = 'TruncatedDump'
    this.table = table
  }
}

/** The rule as `iptables-save` prints it, without `-A CHAIN`. */
export function formatRule(rule: Rule): string {
  const parts: string[] = []
  if (rule.source) parts.push(formatMatch('-s', rule.source))
  if (rule.destination) parts.push(formatMatch('-d', rule.destination))
  parts.push(`-j ${rule.target}`)
  if (rule.randomFully) parts.push('--random-fully')
  return parts.join(' ')
}

function formatMatch(option: string, match: AddressMatch): string {
  return `${match.negated ? '! ' : ''}${option} ${formatSubnet(match.subnet)}`
}

/** A rule's text to a rule, or undefined when it is none of the kinds we write. */
export function parseRule(text: string): Rule | undefined {
  const tokens = text.trim().split(/\s+/)
  let source: AddressMatch | undefined
  let destination: AddressMatch | undefined
  let target: Rule['target'] | undefined
  let randomFully = false
  for (let i = 0; i < tokens.length; i++) {
    // `! -s NET` since iptables 1.4.3, `-s ! NET` before.
    let negated = tokens[i] === '!'
    if (negated) i++
    const option = tokens[i]
    if (option === '-s' || option === '-d') {
      if (tokens[i + 1] === '!') {
        negated = true
        i++
      }
      const subnet = parsePrefix(tokens[++i] ?? '')
      if (!subnet) return undefined
      if (option === '-s' && !source) source = { subnet, negated }
      else if (option === '-d' && !destination) destination = { subnet, negated }
      else return undefined
    } else if (negated) {
      return undefined
    } else if (option === '-j' && !target) {
      const name = tokens[++i]
      if (name !== 'RETURN' && name !== 'MASQUERADE' && name !== 'ACCEPT') return undefined
      target = name
    } else if (option === '--random-fully' && target === 'MASQUERADE') {
      randomFully = true
    } else {
      return undefined
    }
  }
  return target && { source, destination, target, randomFully }
}

/** `a.b.c.d`, `a.b.c.d/len` or `a.b.c.d/mask` (iptables before 1.4.11). */
function parsePrefix(text: string): Subnet | undefined {
  const [host = '', suffix = '32', ...rest] = text.split('/')
  const address = parseIpv4(host)
  const length = prefixLength(suffix)
  return address === undefined || length === undefined || rest.length ? undefined : subnetOf(address, length)
}

function prefixLength(text: string): number | undefined {
  if (/^\d{1,2}$/.test(text)) return Number(text) <= 32 ? Number(text) : undefined
  const mask = parseIpv4(text)
  if (mask === undefined) return undefined
  for (let length = 0; length <= 32; length++) if (netmask(length) === mask) return length
  return undefined
}

/**
 * The rules of one built-in chain in `iptables-save` output, or 'hidden' when the table is there but cannot be
 * shown: iptables-nft says so in a comment when somebody put a rule in it that only nft can express. A table
 * that is not in the output at all has no rules yet: the legacy variant lists a table only once it is in use.
 */
export function parseSave(dump: string, table: string, chain: string): ChainLine[] | 'hidden' {
  const lines = dump.split('\n')
  const start = lines.indexOf(`*${table}`)
  if (start < 0) {
    const hidden = lines.some((l) => l.startsWith(`# Table \`${table}' is incompatible`))
    return hidden ? 'hidden' : []
  }
  const end = lines.indexOf('COMMIT', start)
  if (end < 0) throw new TruncatedDump(table)
  return parseChain(lines.slice(start + 1, end), chain)
}

/** The rules of one chain among lines of `iptables -S CHAIN` or of a table in `iptables-save`. */
export function parseChain(lines: readonly string[], chain: string): ChainLine[] {
  const prefix = `-A ${chain} `
  const found: ChainLine[] = []
  for (const line of lines) {
    if (!line.startsWith(prefix)) continue
    const text = line.slice(prefix.length).trimEnd()
    found.push({ text, rule: parseRule(text) })
  }
  return found
}
