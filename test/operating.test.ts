import { readdirSync, readFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { expect, it } from 'vitest'

const SRC = join(import.meta.dirname, '../src')
const page = readFileSync(join(import.meta.dirname, '../docs/operating.md'), 'utf8').replaceAll(/\s+/g, ' ')

/** Calls whose text becomes a line at warn or above, each followed by a literal. */
const CALL =
  /(?:log\.(?:warn|error)|outage\.fail|#say|new (?:Fatal|LeaseLost|Device|Backend|Interface|Native|HealthEndpoint|TlsFiles|Endpoint|PasswordFile)Error|new UnusableLease)\(\s*(?:'(?:warn|error)',\s*|subnet,\s*)?(`(?:[^`\\]|\\.)*`|'(?:[^'\\]|\\.)*')/g

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
  .map((entry) => join(entry.parentPath, entry.name))
  .filter((file) => !relative(SRC, file).startsWith('commands/'))
  .flatMap((file) =>
    [...readFileSync(file, 'utf8').matchAll(CALL)].flatMap((match): [string, string][] => {
      const words = wordsOf(match[1] ?? '')
      return words === undefined ? [] : [[words, relative(SRC, file)]]
    }),
  )

it('finds the messages', () => expect(messages.length).toBeGreaterThan(50))

it.each(messages)('docs/operating.md has “%s” (%s)', (words) => {
  expect(page.includes(words), `docs/operating.md lacks the message: ${words}`).toBe(true)
})
