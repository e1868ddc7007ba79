/**
 * docs/tutorial.md as a program. Its console blocks hold commands, each after the prompt of the machine it is for, and
 * what they print:
 *
 *     kube-node1# echo one \
 *       two
 *     one two
 *     kube-node*# hostname          on all machines at once; what the first prints is shown
 *     kube-node1
 *
 * A line that ends in a backslash goes on, and so does a here-document, to its `EOF`. A section is what stands below one
 * `##` heading.
 */
export interface Command {
  /** `kube-node1`, or `kube-node*` for all. */
  readonly where: string
  /** One line or more, as in the document. */
  readonly text: string
  /** What it printed when the document was written. */
  readonly output: string
  /** The lines of the document that the output takes, from and up to. */
  readonly from: number
  readonly to: number
}

export interface Section {
  readonly title: string
  readonly commands: readonly Command[]
}

const PROMPT = /^(kube-node[123*])# (.*)$/

export function parseWalk(document: string): readonly Section[] {
  const lines = document.split('\n')
  const sections: { title: string; commands: Command[] }[] = []
  let i = 0
  while (i < lines.length) {
    const heading = /^## (.*)$/.exec(lines[i] ?? '')
    if (heading?.[1] !== undefined) sections.push({ title: heading[1], commands: [] })
    if (lines[i] !== '```console') {
      i++
      continue
    }
    const end = lines.indexOf('```', ++i)
    while (i < end) {
      const command = parseCommand(lines, i, end)
      sections.at(-1)?.commands.push(command)
      i = command.to
    }
  }
  return sections
}

/** The command at line `begin` of a console block that ends before line `end`. */
function parseCommand(lines: readonly string[], begin: number, end: number): Command {
  const prompt = PROMPT.exec(lines[begin] ?? '')
  if (prompt?.[1] === undefined) throw new Error(`line ${begin + 1}: expected a prompt: ${lines[begin]}`)
  const words = [prompt[2] ?? '']
  let from = begin + 1
  const more = (): boolean => {
    const here = words.some((line) => /<<'?EOF'?/.test(line))
    return here ? words.at(-1) !== 'EOF' : (words.at(-1)?.endsWith('\\') ?? false)
  }
  while (more() && from < end) words.push(lines[from++] ?? '')
  let to = from
  while (to < end && !PROMPT.test(lines[to] ?? '')) to++
  return { where: prompt[1], text: words.join('\n'), output: lines.slice(from, to).join('\n'), from, to }
}

/** The document with each command's output replaced. */
export function withOutputs(document: string, outputs: ReadonlyMap<Command, string>): string {
  const lines = document.split('\n')
  const backwards = [...outputs].sort(([a], [b]) => b.from - a.from)
  for (const [{ from, to }, output] of backwards) {
    lines.splice(from, to - from, ...(output === '' ? [] : output.split('\n')))
  }
  return lines.join('\n')
}

/** What differs from run to run, and what stands for it when outputs are compared. */
const CHANGING: readonly (readonly [RegExp, string])[] = [
  [/\bv(?!0\.11\.0)\d+\.\d+\.\d+.*/g, 'VERSION'],
  [/\b[0-9a-f]{2}(:[0-9a-f]{2}){5}\b/g, 'MAC'],
  [/\bfe80::[0-9a-f:]+/g, 'LINKLOCAL'],
  [/ tentative\b/g, ''],
  [/\b[0-9a-f]{12,64}\b/g, 'HASH'],
  [/\b[A-Z][a-z]{2} \d{4}-\d{2}-\d{2} [\d:]+ UTC/g, 'TIME'],
  [/[\d.]+(\/[\d.]+)+ ms/g, 'TIMES'],
  [/\b(\d+h)?(\d+m)?[\d.]+ ?m?s\b/g, 'DURATION'],
  [/^\d+: /gm, 'INDEX: '],
  [/[ \t]+$/gm, ''],
]

export function normalise(output: string): string {
  return CHANGING.reduce((text, [pattern, word]) => text.replace(pattern, word), output)
}
