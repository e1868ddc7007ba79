import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { arch, cpus, loadavg, release } from 'node:os'
import { join } from 'node:path'
import { REPOSITORY } from '../netns/lab.ts'
import { run } from '../netns/process.ts'
import { judge } from './goals.ts'
import { subjects } from './subject.ts'

const OURS = 'flanneld'

/** What was measured, in the order it came, for each subject. */
export interface Measure {
  readonly name: string
  readonly unit: string
  readonly values: Record<string, number[]>
}

/** A whole run, as out/bench.json has it. */
export interface Measurement {
  readonly date: string
  readonly machine: {
    readonly kernel: string
    readonly arch: string
    readonly cpus: number
    readonly memoryKiB: number
    readonly node: string
    readonly etcd: string
  }
  /** What else the machine did: its load average over 5 minutes; `priority`, if what was measured went before it. */
  readonly load: { readonly before: number; readonly after: number; readonly priority: boolean }
  readonly measures: readonly Measure[]
  /** Of the joins, by subject: the 0th to the 100th percentile, ms. */
  readonly quantiles: Readonly<Record<string, readonly number[]>>
}

/** Collects measurements, and writes them as a Markdown table of medians and as JSON with every value. */
export class Report {
  readonly #measures = new Map<string, Measure>()
  readonly #samples = new Map<string, number[]>()
  readonly #load = loadavg()[1] ?? 0

  constructor(measures: readonly Measure[] = []) {
    for (const measure of measures) this.#measures.set(measure.name, measure)
  }

  add(name: string, unit: string, subject: string, value: number): void {
    const measure = this.#measures.get(name) ?? { name, unit, values: {} }
    this.#measures.set(name, measure)
    measure.values[subject] = [...(measure.values[subject] ?? []), value]
  }

  /** Single joins, for the curve of all of them. */
  joins(subject: string, latencies: readonly number[]): void {
    this.#samples.set(subject, [...(this.#samples.get(subject) ?? []), ...latencies])
  }

  /**
   * One row a measure: the median of each subject, how many times the peer's value is ours (below 1: less), and whether that
   * is what it is meant to be.
   */
  table(): string {
    const measures = [...this.#measures.values()]
    const known = [
      ...new Set([
        ...subjects().map(({ label }) => label),
        ...measures.flatMap(({ values }) => Object.keys(values)),
      ]),
    ]
    const both = known.includes('peer')
    const heads = ['Measured', ...known, ...(both ? ['ratio'] : []), 'goal']
    const of = (name: string, label: string): number => median(this.#measures.get(name)?.values[label] ?? [])
    const rows = measures.map(({ name, unit }) => {
      const [ours, peer] = [of(name, OURS), of(name, 'peer')]
      const cells = known.map((label) => {
        const value = of(name, label)
        return Number.isNaN(value) ? '' : `${digits(value)} ${unit}`.trim()
      })
      const ratio = Number.isFinite(ours / peer) ? (ours / peer).toFixed(2) : ''
      return [
        name,
        ...cells,
        ...(both ? [ratio] : []),
        judge(name, { ours, peer }, (other) => of(other, OURS)),
      ]
    })
    return markdown([heads, ...rows])
  }

  async result(priority: boolean): Promise<Measurement> {
    const version = await run(['etcd', '--version'])
    const memory = /MemTotal:\s*(\d+)/.exec(readFileSync('/proc/meminfo', 'utf8'))?.[1]
    const percents = Array.from({ length: 101 }, (_, p) => p)
    const quantiles = [...this.#samples].map(
      ([label, values]) => [label, percents.map((p) => percentile(values, p))] as const,
    )
    return {
      date: new Date().toISOString(),
      machine: {
        kernel: /^[\d.]+/.exec(release())?.[0] ?? '',
        arch: arch(),
        cpus: cpus().length,
        memoryKiB: Number(memory),
        node: process.version,
        etcd: /Version: (\S+)/.exec(version)?.[1] ?? '',
      },
      load: { before: this.#load, after: loadavg()[1] ?? 0, priority },
      measures: [...this.#measures.values()],
      quantiles: Object.fromEntries(quantiles),
    }
  }
}

/** Writes out/bench.json and returns the path. */
export function save(measured: Measurement): string {
  mkdirSync(join(REPOSITORY, 'out'), { recursive: true })
  const path = join(REPOSITORY, 'out/bench.json')
  writeFileSync(path, `${JSON.stringify(measured, null, 2)}\n`)
  return path
}

export function median(values: readonly number[]): number {
  return percentile(values, 50)
}

/** The value that `p` percent of `values` do not exceed; NaN of nothing. */
export function percentile(values: readonly number[], p: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor((sorted.length * p) / 100))] ?? Number.NaN
}

function digits(value: number): string {
  if (!Number.isFinite(value)) return '-'
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2)
}

function markdown(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)))
  const line = (row: readonly string[]): string =>
    `| ${row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0))).join(' | ')} |`
  const [heads = [], ...rest] = rows
  const rule = `|${widths.map((width, i) => (i === 0 ? '-'.repeat(width + 2) : `${'-'.repeat(width + 1)}:`)).join('|')}|`
  return [line(heads), rule, ...rest.map(line)].join('\n')
}
