import { readdirSync, readFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { expect, it } from 'vitest'

const SRC = join(import.meta.dirname, '../src')
const page = readFileSync(join(import.meta.dirname, '../docs/operating.md'), 'utf8').replaceAll(/\s+/g, ' ')

/** Calls whose text becomes a line at warn or above. */
const CALL =
  /(?:log\??\.(?:warn|error)|outage\.fail|#say|new (?:Fatal|LeaseLost|Device|Backend|Interface|Native|HealthEndpoint|TlsFiles|Endpoint|PasswordFile)Error|new UnusableLease)\(/g

/** From the parenthesis that is open at `at` to its end, strings and templates taken whole. */
function argumentsAt(text: string, at: number): string {
  const token = /`(?:[^`\\]|\\.)*`|'(?:[^'\\\n]|\\.)*'|[()]/g
  token.lastIndex = at
  for (let depth = 1, match = token.exec(text); match !== null; match = token.exec(text)) {
    if (match[0] === '(') depth++
    else if (match[0] === ')' && --depth === 0) return text.slice(at, match.index)
  }
  throw new Error(`no end of ${text.slice(at, at + 80)}`)
}

/** The literals that a message begins with: the first of all, and those of the branches of a condition. */
function literalsOf(args: string): string[] {
  // A comma at its beginning: it goes on from the middle of another.
  const level = args.replace(/^\s*(?:'(?:warn|error)',|subnet,)/, '')
  return [
    ...level.matchAll(/(?<before>^|[?:,]\s)\s*(?<literal>`(?!,)(?:[^`\\]|\\.)*`|'(?!,)(?:[^'\\]|\\.)*')/g),
  ].flatMap(({ groups, index }) =>
    // What follows a comma is a field or a code, not the message.
    groups?.literal !== undefined && (index === 0 || !groups.before?.startsWith(',')) ? [groups.literal] : [],
  )
}

/** The part of a message by which it is looked up: the first that has words, between what is filled in. */
function wordsOf(literal: string): string | undefined {
  const parts = literal
    .slice(1, -1)
    .replaceAll(/\\(.)/g, '$1')
    // Placeholders may hold templates of their own.
    .split(/\$\{(?:[^{}`]|`[^`]*`|\{[^{}]*\})*\}/)
  return parts
    .map((part) => part.replaceAll(/\s+/g, ' ').replaceAll(/^[\s:;,.)"]+|[\s:;,("[]+$/g, ''))
    .find((part) => part.includes(' ') && part.length >= 8)
}

const messages = readdirSync(SRC, { recursive: true, withFileTypes: true })
  .filter((entry) => entry.isFile() && entry.name.endsWith('.ts'))
  .map((entry) => relative(SRC, join(entry.parentPath, entry.name)))
  // What the commands print is no line of the log.
  .filter((file) => !/^(commands|doctor)\//.test(file))
  .flatMap((file) => {
    const text = readFileSync(join(SRC, file), 'utf8')
    return [...text.matchAll(CALL)]
      .flatMap((match) => literalsOf(argumentsAt(text, match.index + match[0].length)))
      .flatMap((literal): [string, string][] => {
        const words = wordsOf(literal)
        return words === undefined ? [] : [[words, file]]
      })
  })

it('finds the messages', () => expect(messages.length).toBeGreaterThan(80))

it.each(messages)('docs/operating.md has “%s” (%s)', (words) => {
  expect(page.includes(words), `docs/operating.md lacks the message: ${words}`).toBe(true)
})
