/**
 * What has to change in a chain, as one transaction.
 *
 * What must hold: our rules stand in the chain once each, in order, in one piece. Where the piece stands is
 * nobody's business but the chain's: rules of others before it (an operator's exceptions, software that inserts
 * at the top) and behind it are as good as none, and cause no write.
 *
 *   F 1 2 3 4 G     right
 *   F 1 2 4 G       3 is gone              F 1 2 3 4 G
 *   1 2 3 G 4       4 moved behind G       1 2 3 4 G
 *   1 F 2 3 4       F was put in between   F 1 2 3 4
 *   F G             all gone, G was behind us when last seen:  F 1 2 3 4 G;  else appended, as flannel does
 *
 * So a broken group is gathered where most of it stands; when leftovers alone are wrong, they alone go. The group
 * is taken out and put back as a whole in one transaction, which the kernel applies at once: no packet sees half of
 * it. Rules are deleted by their text and never by their number, so that a chain that changed since it was read
 * cannot make us delete another's rule: the transaction fails instead, and the next round reads again.
 */
import { type ChainLine, formatRule } from './iptables.ts'
import type { Rule, RuleGroup } from './rules.ts'

/** The change of one chain. */
export interface ChainPlan {
  readonly group: RuleGroup
  readonly deletes: readonly Rule[]
  readonly adds: readonly Rule[]
  /** 1-based place of the first rule added, counted after the deletes; undefined is the end of the chain. */
  readonly position: number | undefined
}

/** The change that makes `lines` right, or undefined when they are. `behind` is what `foreignBehind` last said. */
export function plan(
  lines: readonly ChainLine[],
  group: RuleGroup,
  behind: ReadonlySet<string> = new Set(),
): ChainPlan | undefined {
  const want = group.rules.map(formatRule)
  const ours = oursAmong(lines, group)
  const present = lines.flatMap((line, index) => {
    if (!ours[index] || !line.rule) return []
    const text = formatRule(line.rule)
    return [{ index, rule: line.rule, text, stale: !want.includes(text) }]
  })

  const kept = present.filter((p) => !p.stale)
  const inOrder = kept.length === want.length && kept.every((p, i) => p.text === want[i])
  const inOnePiece = ours.slice(kept.at(0)?.index, (kept.at(-1)?.index ?? -1) + 1).every((own) => own)
  if (inOrder && inOnePiece) {
    const stale = present.filter((p) => p.stale)
    return stale.length
      ? { group, deletes: stale.map((p) => p.rule), adds: [], position: undefined }
      : undefined
  }

  const start = present.length ? home(lines, ours, new Set(want)) : lines.findIndex((l) => behind.has(l.text))
  const foreign = (from: number, to: number) => ours.slice(from, to).filter((own) => !own).length
  const atEnd = start < 0 || foreign(start, lines.length) === 0
  return {
    group,
    deletes: present.map(({ rule }) => rule),
    adds: group.rules,
    position: atEnd ? undefined : foreign(0, start) + 1,
  }
}

/** Texts of the rules of others that stand behind all of ours and not before them, to put ours back before them. */
export function foreignBehind(lines: readonly ChainLine[], group: RuleGroup): ReadonlySet<string> {
  const ours = oursAmong(lines, group)
  const last = ours.lastIndexOf(true)
  if (last < 0) return new Set()
  const before = new Set(lines.slice(0, last).map((l) => l.text))
  return new Set(lines.slice(last + 1).flatMap((l) => (before.has(l.text) ? [] : [l.text])))
}

function oursAmong(lines: readonly ChainLine[], group: RuleGroup): boolean[] {
  const rules = lines.flatMap((l) => l.rule ?? [])
  const texts = new Set(group.ours(rules).map(formatRule))
  return lines.map((l) => l.rule !== undefined && texts.has(formatRule(l.rule)))
}

/** Where the unbroken run of ours with most of the wanted rules begins; the first of equals. */
function home(lines: readonly ChainLine[], ours: readonly boolean[], want: ReadonlySet<string>): number {
  let best = { start: ours.indexOf(true), wanted: 0 }
  for (let i = 0; i < ours.length; i++) {
    if (!ours[i]) continue
    const start = i
    const wanted = new Set<string>()
    for (; ours[i]; i++) {
      const rule = lines[i]?.rule
      if (rule && want.has(formatRule(rule))) wanted.add(formatRule(rule))
    }
    if (wanted.size > best.wanted) best = { start, wanted: wanted.size }
  }
  return best.start
}

/** The transaction as `iptables-restore --noflush` reads it, which is what an operator would type. */
export function renderRestore(plans: readonly ChainPlan[]): string {
  const lines: string[] = []
  for (const { group, deletes, adds, position } of plans) {
    lines.push(`*${group.table}`)
    for (const rule of deletes) lines.push(`-D ${group.chain} ${formatRule(rule)}`)
    adds.forEach((rule, i) => {
      // Counting up keeps each insert in front of the same old rule: iptables-nft finds places by old rules' handles.
      const where = position === undefined ? `-A ${group.chain}` : `-I ${group.chain} ${position + i}`
      lines.push(`${where} ${formatRule(rule)}`)
    })
    lines.push('COMMIT')
  }
  return `${lines.join('\n')}\n`
}
