/**
 * JSON as Go's encoding/json reads it into a struct, which is what people's configs and other nodes' leases
 * were written against: names match in any case, unknown names are ignored, the last duplicate in the
 * document wins, and anything after the value is an error.
 */

/** One member of a JSON object, with its value as it was written, so that `24` and `24.0` can be told apart. */
export interface JsonMember {
  readonly name: string
  readonly raw: string
}

/**
 * The members of the object that `text` is, in document order and with duplicates. `null` is an empty object, as
 * it is for Go. Throws a SyntaxError (one line) for what is no JSON, a TypeError for JSON that is no object.
 */
function jsonMembers(text: string): JsonMember[] {
  const value: unknown = parseJson(text)
  if (value === null) return []
  if (typeof value !== 'object' || Array.isArray(value))
    throw new TypeError(`is ${jsonKind(value)}, not an object`)
  // The text is known to be a valid object from here on, so the scan may be simple.
  const members: JsonMember[] = []
  let depth = 0
  let start = -1
  let name: string | undefined
  for (let i = 0; i < text.length; i++) {
    const c = text[i]
    if (c === '"') {
      const end = endOfString(text, i)
      if (depth === 1 && name === undefined) name = JSON.parse(text.slice(i, end))
      i = end - 1
    } else if (c === ':' && depth === 1) {
      start = i + 1
    } else if (c === '{' || c === '[') {
      depth++
    } else if (c === '}' || c === ']' || (c === ',' && depth === 1)) {
      if (depth === 1 && name !== undefined) {
        members.push({ name, raw: text.slice(start, i).trim() })
        name = undefined
      }
      if (c !== ',') depth--
    }
  }
  return members
}

/** The raw values of the named fields: any case of the name counts, and the last one written wins. */
export function jsonFields<Name extends string>(
  text: string,
  names: readonly Name[],
): Partial<Record<Name, string>> {
  const byLowerCase = new Map(names.map((name) => [name.toLowerCase(), name]))
  const fields: Partial<Record<Name, string>> = {}
  for (const member of jsonMembers(text)) {
    const name = byLowerCase.get(member.name.toLowerCase())
    if (name !== undefined) fields[name] = member.raw
  }
  return fields
}

/** JSON.parse, with an error of one line that shows no more than the start of a long text. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    const shown = text.length > 60 ? `${text.slice(0, 60)}...` : text
    const reason = error instanceof Error ? (error.message.split(/, "|, \.\.\."/)[0] ?? '') : ''
    throw new SyntaxError(`is not valid JSON (${oneLine(reason)}): ${JSON.stringify(shown)}`)
  }
}

/** How deep arrays and objects lie within each other in valid JSON. */
export function jsonDepth(text: string): number {
  let depth = 0
  let deepest = 0
  for (let i = 0; i < text.length; i++) {
    const c = text[i]
    if (c === '"') i = endOfString(text, i) - 1
    else if (c === '{' || c === '[') deepest = Math.max(deepest, ++depth)
    else if (c === '}' || c === ']') depth--
  }
  return deepest
}

export function jsonKind(value: unknown): string {
  if (value === null) return 'null'
  if (Array.isArray(value)) return 'an array'
  return typeof value === 'object' ? 'an object' : `a ${typeof value}`
}

/** Text of others inside one of our lines: control characters, and so line ends, become spaces. */
export function oneLine(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what has to go
  return text.replace(/[\u0000-\u001f\u007f\u2028\u2029]+/g, ' ').trim()
}

/** Whether two JSON values are the same; the order of names in an object does not count. */
export function sameJson(a: unknown, b: unknown): boolean {
  if (a === b) return true
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return false
  if (Array.isArray(a) !== Array.isArray(b)) return false
  const left = Object.entries(a)
  const right = new Map(Object.entries(b))
  return (
    left.length === right.size &&
    left.every(([name, value]) => right.has(name) && sameJson(value, right.get(name)))
  )
}

function endOfString(text: string, open: number): number {
  let i = open + 1
  while (text[i] !== '"') i += text[i] === '\\' ? 2 : 1
  return i + 1
}
