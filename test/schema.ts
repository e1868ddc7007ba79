import { readFileSync } from 'node:fs'
import { join } from 'node:path'

/** What docs/status.schema.json uses of JSON Schema (draft 2020-12). */
interface Schema {
  readonly $ref?: string
  readonly $defs?: Readonly<Record<string, Schema>>
  readonly type?: string | readonly string[]
  readonly const?: unknown
  readonly enum?: readonly unknown[]
  readonly anyOf?: readonly Schema[]
  readonly pattern?: string
  readonly minimum?: number
  readonly maxItems?: number
  readonly properties?: Readonly<Record<string, Schema>>
  readonly required?: readonly string[]
  readonly additionalProperties?: Schema
  readonly items?: Schema
}

const root = JSON.parse(
  readFileSync(join(import.meta.dirname, '../docs/status.schema.json'), 'utf8'),
) as Schema

/** Where `value` is not as docs/status.schema.json has it; a field that is not described there counts, too. */
export function faultsOf(value: unknown, part: 'status' | 'peer' = 'status'): string[] {
  return faults(value, part === 'peer' ? { $ref: '#/$defs/peer' } : root, part)
}

function faults(value: unknown, schema: Schema, at: string): string[] {
  if (schema.$ref !== undefined)
    return faults(value, root.$defs?.[schema.$ref.replace('#/$defs/', '')] ?? {}, at)
  if (schema.anyOf !== undefined) {
    const all = schema.anyOf.map((each) => faults(value, each, at))
    // The first says most: the others are `null`.
    return all.some((each) => each.length === 0) ? [] : (all[0] ?? [])
  }
  const wrong = (what: string): string[] => [`${at} is ${JSON.stringify(value)}: ${what}`]
  if (schema.type !== undefined && ![schema.type].flat().some((type) => isOf(type, value)))
    return wrong(`no ${schema.type}`)
  const { enum: choices, pattern, minimum } = schema
  if (schema.const !== undefined && value !== schema.const) return wrong(`not ${schema.const}`)
  if (choices !== undefined && !choices.includes(value)) return wrong('none of the choices')
  if (pattern !== undefined && !new RegExp(pattern).test(String(value))) return wrong(`not like ${pattern}`)
  if (minimum !== undefined && Number(value) < minimum) return wrong(`less than ${minimum}`)
  if (Array.isArray(value)) {
    const { maxItems = Number.POSITIVE_INFINITY, items = {} } = schema
    const each = value.flatMap((item, i) => faults(item, items, `${at}[${i}]`))
    return value.length > maxItems ? [`${at} has ${value.length} items`, ...each] : each
  }
  if (typeof value !== 'object' || value === null) return []
  const missing = (schema.required ?? []).filter((name) => !Object.hasOwn(value, name))
  return [
    ...missing.map((name) => `${at}.${name} is missing`),
    ...Object.entries(value).flatMap(([name, each]) => {
      const known = schema.properties?.[name] ?? schema.additionalProperties
      return known === undefined ? [`${at}.${name} is not described`] : faults(each, known, `${at}.${name}`)
    }),
  ]
}

function isOf(type: string, value: unknown): boolean {
  if (type === 'null') return value === null
  if (type === 'array') return Array.isArray(value)
  if (type === 'integer') return Number.isInteger(value)
  if (type === 'object') return typeof value === 'object' && value !== null && !Array.isArray(value)
  return typeof value === type
}
