/**
 * Writes what was measured into docs: the table between the markers of docs/performance.md, and the plots beside it. Run by
 * a complete `make bench`; `node test/bench/document.ts` does it again from out/bench.json.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { REPOSITORY } from '../netns/lab.ts'
import { renderPlot, type Series } from './plot.ts'
import { type Measurement, median, Report } from './report.ts'

const PAGE = join(REPOSITORY, 'docs/performance.md')
const FOLDER = join(REPOSITORY, 'docs/performance')
const [BEGIN, END] = ['<!-- measured: begin -->', '<!-- measured: end -->']
const NAMES: Readonly<Record<string, string>> = {
  peer: 'Go flannel',
  'kernel alone': 'the kernel alone, in batches',
}

/** Throws when the page has lost its markers. */
export function writePage(measured: Measurement): void {
  const page = readFileSync(PAGE, 'utf8')
  const [from, to] = [page.indexOf(BEGIN), page.indexOf(END)]
  if (from < 0 || to < from) throw new Error(`${PAGE}: no ${BEGIN} ... ${END}`)
  const plots = plotsOf(measured)
  mkdirSync(FOLDER, { recursive: true })
  for (const { file, svg } of plots) writeFileSync(join(FOLDER, file), svg)
  const { date, machine, load } = measured
  const gibibytes = (machine.memoryKiB / 2 ** 20).toFixed(0)
  const text = [
    BEGIN,
    '',
    `Measured on ${date.slice(0, 10)}: Linux ${machine.kernel}, ${machine.arch}, ${machine.cpus} cores, ${gibibytes} GiB; ` +
      `Node ${machine.node}, etcd ${machine.etcd}. Load average ${load.before.toFixed(1)} before and ` +
      `${load.after.toFixed(1)} after${load.priority ? '; everything measured ran with real-time priority (BENCH_PRIORITY=1)' : ''}.`,
    '',
    new Report(measured.measures).table(),
    '',
    ...plots.flatMap(({ file, title }) => [`![${title}](performance/${file})`, '']),
    END,
  ]
  writeFileSync(PAGE, page.slice(0, from) + text.join('\n') + page.slice(to + END.length))
}

interface Drawing {
  readonly file: string
  readonly title: string
  readonly svg: string
}

function plotsOf({ measures, quantiles }: Measurement): readonly Drawing[] {
  /** A line for each subject, over the numbers that take the place of N. */
  const over = (what: string): readonly Series[] => {
    const found = measures.flatMap((measure) => {
      const count = /^(\d+) peers: (.*)$/.exec(measure.name)
      return count?.[2] === what ? [{ count: Number(count[1]), values: measure.values }] : []
    })
    const labels = [...new Set(found.flatMap(({ values }) => Object.keys(values)))]
    return labels.map((label) => ({
      label: NAMES[label] ?? label,
      points: found
        .flatMap(({ count, values }) => (values[label] ? [[count, median(values[label])] as const] : []))
        .sort(([a], [b]) => a - b),
    }))
  }
  const draw = (
    file: string,
    title: string,
    x: string,
    y: string,
    series: readonly Series[],
    linear = false,
  ) => (series.length === 0 ? [] : [{ file, title, svg: renderPlot({ title, x, y, series, linear }) }])
  const named = (what: string): readonly Series[] =>
    over(what).map(({ label, points }) => ({ label: `${label}: ${what}`, points }))
  return [
    ...draw(
      'coldstart.svg',
      'From start to the last route, ARP and FDB entry',
      'peers',
      'ms',
      over('start to last entry'),
    ),
    ...draw('restart.svg', 'Restart over a right kernel, to READY', 'peers', 'ms', over('restart to READY')),
    ...draw(
      'memory.svg',
      'Memory when settled',
      'peers',
      'MB',
      [...named('resident memory'), ...named('private memory')],
      true,
    ),
    ...draw(
      'joins.svg',
      "From etcd's answer to the route: how many joins took at most so long",
      'ms',
      '%',
      Object.entries(quantiles).map(([label, values]) => ({
        label: NAMES[label] ?? label,
        points: values.map((value, percent) => [Math.max(value, 0.01), percent] as const),
      })),
      true,
    ),
  ]
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  writePage(JSON.parse(readFileSync(join(REPOSITORY, 'out/bench.json'), 'utf8')) as Measurement)
}
