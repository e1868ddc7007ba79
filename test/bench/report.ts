import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { arch, cpus, release } from 'node:os'
import { join } from 'node:path'
import { REPOSITORY } from '../netns/lab.ts'
import { run } from '../netns/process.ts'
import { subjects } from './subject.ts'

/** What was measured, in the order it came, for each subject. */
interface Measure {
  readonly name: string
  readonly unit: string
  readonly values: Record<string, number[]>
}

/** Collects measurements, and writes them as a Markdown table of medians and as JSON with every value. */
export class Report {
  readonly #measures = new Map<string, Measure>()

  add(name: string, unit: string, subject: string, value: number): void {
    const measure = this.#measures.get(name) ?? { name, unit, values: {} }
    this.#measures.set(name, measure)
    measure.values[subject] = [...(measure.values[subject] ?? []), value]
  }

  /** One row a measure: the median of each subject, and how many times the peer's value is ours (below 1: less). */
  table(): string {
    const labels = subjects().map(({ label }) => label)
    const heads = ['Measured', ...labels, ...(labels.length > 1 ? ['ratio'] : [])]
    const rows = [...this.#measures.values()].map(({ name, unit, values }) => {
      const medians = labels.map((label) => median(values[label] ?? []))
      const [ours = Number.NaN, peer = Number.NaN] = medians
      const ratio = labels.length > 1 ? [Number.isFinite(ours / peer) ? (ours / peer).toFixed(2) : '-'] : []
      return [name, ...medians.map((value) => `${digits(value)} ${unit}`), ...ratio]
    })
    return markdown([heads, ...rows])
  }

  /** Writes out/bench.json with the machine it was measured on, and returns the path. */
  async save(): Promise<string> {
    const version = await run(['etcd', '--version'])
    const memory = /MemTotal:\s*(\d+)/.exec(readFileSync('/proc/meminfo', 'utf8'))?.[1]
    const machine = {
      kernel: release(),
      arch: arch(),
      cpus: cpus().length,
      memoryKiB: Number(memory),
      node: process.version,
      etcd: /Version: (\S+)/.exec(version)?.[1],
    }
    mkdirSync(join(REPOSITORY, 'out'), { recursive: true })
    const path = join(REPOSITORY, 'out/bench.json')
    const content = { date: new Date().toISOString(), machine, measures: [...this.#measures.values()] }
    writeFileSync(path, `${JSON.stringify(content, null, 2)}\n`)
    return path
  }
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
