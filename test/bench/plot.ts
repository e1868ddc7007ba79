/** Line plots with logarithmic axes, as SVG that reads on light and dark pages. */

export interface Series {
  readonly label: string
  /** x and y, both above 0 where the axis is logarithmic. */
  readonly points: readonly (readonly [number, number])[]
}

export interface Plot {
  readonly title: string
  readonly x: string
  readonly y: string
  readonly series: readonly Series[]
  /** A linear y axis from 0. */
  readonly linear?: boolean
}

const [WIDTH, HEIGHT] = [900, 420]
/** The legend stands in the right margin. */
const [LEFT, RIGHT, TOP, BOTTOM] = [70, 230, 40, 50]
const COLOURS = ['#1f77b4', '#d62728', '#2ca02c', '#9467bd', '#ff7f0e', '#8c564b']

export function renderPlot({ title, x, y, series, linear = false }: Plot): string {
  const points = series.flatMap((one) => one.points)
  const across = logarithmic(
    points.map(([value]) => value),
    LEFT,
    WIDTH - RIGHT,
  )
  const ys = points.map(([, value]) => value)
  const up = linear ? fromZero(ys, HEIGHT - BOTTOM, TOP) : logarithmic(ys, HEIGHT - BOTTOM, TOP)
  const lines = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="sans-serif" font-size="13">`,
    `<title>${plain(title)}</title>`,
    '<style>text{fill:#333}.g{stroke:#8884}@media(prefers-color-scheme:dark){text{fill:#ccc}}</style>',
    `<text x="${LEFT}" y="22" font-size="16">${plain(title)}</text>`,
    `<text x="${(LEFT + WIDTH - RIGHT) / 2}" y="${HEIGHT - 12}" text-anchor="middle">${plain(x)}</text>`,
    `<text transform="translate(16 ${(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">${plain(y)}</text>`,
  ]
  for (const tick of across.ticks) {
    const at = across.at(tick).toFixed(1)
    lines.push(`<line class="g" x1="${at}" x2="${at}" y1="${TOP}" y2="${HEIGHT - BOTTOM}"/>`)
    lines.push(`<text x="${at}" y="${HEIGHT - BOTTOM + 18}" text-anchor="middle">${words(tick)}</text>`)
  }
  for (const tick of up.ticks) {
    const at = up.at(tick).toFixed(1)
    lines.push(`<line class="g" x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${at}" y2="${at}"/>`)
    lines.push(`<text x="${LEFT - 8}" y="${Number(at) + 4}" text-anchor="end">${words(tick)}</text>`)
  }
  for (const [i, one] of series.entries()) {
    const colour = COLOURS[i % COLOURS.length] ?? ''
    const path = one.points.map(([px, py]) => `${across.at(px).toFixed(1)},${up.at(py).toFixed(1)}`)
    lines.push(`<polyline fill="none" stroke="${colour}" stroke-width="2" points="${path.join(' ')}"/>`)
    if (path.length < 20) {
      for (const at of path) {
        const [cx, cy] = at.split(',')
        lines.push(`<circle cx="${cx}" cy="${cy}" r="3" fill="${colour}"/>`)
      }
    }
    const row = TOP + 16 + 20 * i
    lines.push(
      `<line x1="${WIDTH - RIGHT + 12}" x2="${WIDTH - RIGHT + 36}" y1="${row}" y2="${row}" stroke="${colour}" stroke-width="3"/>`,
    )
    lines.push(`<text x="${WIDTH - RIGHT + 44}" y="${row + 4}">${plain(one.label)}</text>`)
  }
  return `${[...lines, '</svg>'].join('\n')}\n`
}

interface Axis {
  readonly at: (value: number) => number
  readonly ticks: readonly number[]
}

/** Ticks at 1, 2 and 5 times the powers of ten; only at the powers where that would be too many. */
function logarithmic(values: readonly number[], from: number, to: number): Axis {
  const low = Math.log10(Math.min(...values) / 1.2)
  const high = Math.log10(Math.max(...values) * 1.2)
  const steps = high - low > 3 ? [1] : [1, 2, 5]
  const ticks = Array.from({ length: 24 }, (_, i) => i - 8)
    .flatMap((power) => steps.map((step) => step * 10 ** power))
    .filter((tick) => Math.log10(tick) >= low && Math.log10(tick) <= high)
  return { at: (value) => from + ((Math.log10(value) - low) / (high - low)) * (to - from), ticks }
}

function fromZero(values: readonly number[], from: number, to: number): Axis {
  const high = Math.max(...values) * 1.1
  const rough = high / 6
  const power = 10 ** Math.floor(Math.log10(rough))
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough) ?? rough
  const ticks = Array.from({ length: Math.floor(high / step) + 1 }, (_, i) => i * step)
  return { at: (value) => from + (value / high) * (to - from), ticks }
}

function words(value: number): string {
  return value >= 1000 ? value.toLocaleString('en-GB') : String(Number(value.toPrecision(3)))
}

function plain(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;')
}
