/**
 * The status as one screen of 80 columns: what an operator has to know first stands first, and what is wrong is in colour
 * (and in words, for those without).
 */
import { isSound, type PeerLine, type RoundStatus, type Status } from '../status.ts'

export interface Screen {
  readonly status: Status
  readonly peers: readonly PeerLine[]
  readonly colour: boolean
}

const WIDTH = 80
const LABEL = 11

type Tone = 'good' | 'bad' | 'dim' | 'bold'

/** SGR codes of ECMA-48. */
const CODES: Readonly<Record<Tone, number>> = { good: 32, bad: 31, dim: 2, bold: 1 }

/** Text with a newline at its end; no line is wider than 80 columns. */
export function renderScreen({ status, peers, colour }: Screen): string {
  const paint = (tone: Tone, text: string): string => (colour ? `\x1b[${CODES[tone]}m${text}\x1b[0m` : text)
  const lines: string[] = []
  /** Wrapped at spaces, with the following lines under the first. */
  const row = (label: string, text: string, tone?: Tone): void => {
    wrap(text, WIDTH - LABEL).forEach((part, i) => {
      lines.push(paint('dim', (i === 0 ? label : '').padEnd(LABEL)) + (tone ? paint(tone, part) : part))
    })
  }

  const { daemon, health } = status
  row(
    'flanneld',
    `${daemon.version}, pid ${daemon.pid}, up ${span(daemon.uptimeSeconds)}, log ${daemon.logLevel}`,
  )
  row(
    'state',
    health.ready ? 'ready' : health.alive ? `NOT READY (${daemon.phase})` : 'STUCK',
    health.ready ? 'good' : 'bad',
  )
  for (const reason of health.reasons) row('', reason, 'bad')
  const { network, lease, device, firewall, etcd, kernel, leases } = status
  if (network !== null)
    row(
      'network',
      `${network.cidr}, a /${network.subnetLen} each, ${network.backend}, etcd ${network.etcdPrefix}`,
    )
  if (lease !== null) {
    const left = lease.secondsLeft === null ? 'never expires' : `${span(lease.secondsLeft)} left`
    row('lease', `${lease.subnet} for ${lease.publicIP}, ${left}, ${plural(lease.renewals, 'renewal')}`)
  }
  const { interface: chosen } = status
  if (chosen !== null) {
    const published = chosen.publicIP === chosen.address ? '' : `, public IP ${chosen.publicIP}`
    const state = chosen.up ? '' : 'DOWN, '
    row(
      'interface',
      `${chosen.name} ${state}${chosen.address} mtu ${chosen.mtu}${published} (${chosen.reason})`,
    )
  }
  if (device !== null) {
    const details = Object.entries(device.details)
      .filter(([, value]) => value !== false)
      .map(([name, value]) => (value === true ? name : `${name} ${value}`))
    row('device', [`${device.name} mtu ${device.mtu}`, ...details].join(', '))
  }
  const rules = [firewall.masquerade ? 'masquerade' : '', firewall.forwardRules ? 'forward' : ''].filter(
    Boolean,
  )
  const work = `${plural(firewall.checks, 'check')}, ${plural(firewall.repairs, 'write')}, ${plural(firewall.failures, 'failure')}`
  row('firewall', rules.length === 0 ? 'no rules wanted' : `${rules.join(' and ')} rules; ${work}`)

  etcd.endpoints.forEach((endpoint, i) => {
    const { url, state, latencyMs, current, lastError } = endpoint
    const latency = latencyMs === null ? '' : ` ${latencyMs.toFixed(1)} ms`
    const asked = current && etcd.endpoints.length > 1 ? ', in use' : ''
    row(i === 0 ? 'etcd' : '', `${url} ${state}${latency}${asked}`, state === 'failing' ? 'bad' : undefined)
    if (state === 'failing' && lastError !== null) row('', lastError, 'bad')
  })
  if (etcd.watch !== null) {
    const { index, heardSecondsAgo, snapshots, failures } = etcd.watch
    const times = `${plural(snapshots, 'snapshot')}, ${plural(failures, 'failure')}`
    row('watch', `index ${index}, heard ${span(heardSecondsAgo)} ago, ${times}`)
  }

  if (kernel !== null) {
    for (const [name, { wanted, held, failed }] of Object.entries(kernel.tables)) {
      if (wanted === 0 && held === 0) continue
      const amiss = failed > 0 ? `, ${failed} REFUSED` : ''
      const causes = Object.entries(kernel.repairs[name] ?? {}).filter(([, count]) => count > 0)
      const repairs =
        causes.length === 0
          ? ''
          : `, repaired ${causes.map(([cause, count]) => `${count} (${cause})`).join(', ')}`
      row(name, `${wanted} wanted, ${held} held${amiss}${repairs}`, failed > 0 ? 'bad' : undefined)
    }
    row('apply', round(kernel.lastApply, 'written'))
    row('compare', round(kernel.lastCompare, 'not as believed'))
    for (const refusal of kernel.refusals.slice(0, 5)) row('refused', refusal, 'bad')
  }
  if (status.probes !== null) {
    const { intervalSeconds, reachable, unreachable, pending, rttMs } = status.probes
    const counts = [
      `${reachable} reachable`,
      unreachable > 0 ? `${unreachable} UNREACHABLE` : '',
      pending > 0 ? `${pending} not known yet` : '',
      rttMs === null ? '' : `round trip ${ms(rttMs.least)}/${ms(rttMs.median)}/${ms(rttMs.most)} ms`,
      `every ${span(intervalSeconds)}`,
    ]
    row('pings', counts.filter(Boolean).join(', '), unreachable > 0 ? 'bad' : undefined)
  }
  const skipped = leases.skipped === 0 ? '' : `, ${leases.skipped} SKIPPED`
  row('leases', `${leases.inUse} in use${skipped}`, leases.skipped > 0 ? 'bad' : undefined)
  for (const { key, reason } of leases.skippedList.slice(0, 5))
    row('', `${key === '' ? '' : `${key}: `}${reason}`, 'bad')

  if (peers.length > 0) lines.push('', ...peerTable(peers, status, paint))
  return `${lines.join('\n')}\n`
}

const SHORT: Readonly<Record<string, string>> = { ok: 'ok', missing: 'MISS', differs: 'DIFF' }

/** A column for each thing that a peer of some backend needs, shown where there is one that does. */
const NEEDS: readonly (readonly [names: readonly string[], heading: string])[] = [
  [['neighbour'], 'ARP'],
  [['fdb'], 'FDB'],
  [['peer'], 'PEER'],
  [['command'], 'CMD'],
  // Of 80 columns there is none left for the object that a route leads through.
  [['nexthop', 'route'], 'RT'],
]

/**
 * `ok`, MISS for missing, DIFF for something else in its place; `-` where a peer needs none. AGE is since its last change. Where
 * peers are pinged, the round trip has the place of the MAC, which is in the JSON, or LOST of those that do not answer.
 */
function peerTable(
  peers: readonly PeerLine[],
  status: Status,
  paint: (tone: Tone, text: string) => string,
): string[] {
  const needs = NEEDS.filter(([names]) =>
    peers.some(({ entries }) => names.some((name) => entries[name] !== undefined)),
  )
  const widths = [18, 15, 17, 7, ...needs.map(() => 4)]
  const line = (cells: readonly string[], last: string): string =>
    `${cells.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join(' ')} ${last}`.trimEnd()
  const now = Date.parse(status.daemon.startedAt) + status.daemon.uptimeSeconds * 1000
  const pinged = status.probes !== null
  const rows = peers.map(({ subnet, publicIP, mac, route, entries, changedAt, probe }) => {
    const states = needs.map(([names]) => {
      const found = names.flatMap((name) => entries[name] ?? [])
      return SHORT[found.find((state) => state !== 'ok') ?? found[0] ?? ''] ?? '-'
    })
    const changed = changedAt === null ? '' : span((now - Date.parse(changedAt)) / 1000, 1)
    const text = line([subnet, publicIP, pinged ? roundTrip(probe) : (mac ?? '-'), route, ...states], changed)
    return isSound({ route, entries }, probe) ? text : paint('bad', text)
  })
  const total = status.kernel?.peers ?? peers.length
  const rest = total - peers.length
  return [
    paint(
      'bold',
      line(
        [
          'SUBNET',
          'PUBLIC IP',
          pinged ? 'PING' : 'VTEP MAC',
          'ROUTE',
          ...needs.map(([, heading]) => heading),
        ],
        'AGE',
      ),
    ),
    ...rows,
    ...(rest > 0 ? [paint('dim', `and ${rest} more peers; those with something amiss come first`)] : []),
  ]
}

function roundTrip(probe: PeerLine['probe']): string {
  if (probe?.reachable === false) return 'LOST'
  return probe?.reachable && probe.rttMs !== null ? `${ms(probe.rttMs)} ms` : '-'
}

/** Three digits that count, or more where it is slow. */
export function ms(value: number): string {
  return value < 10 ? value.toFixed(2) : value < 100 ? value.toFixed(1) : value.toFixed(0)
}

function round(of: RoundStatus | null, what: string): string {
  if (of === null) return 'none yet'
  return `${span(of.secondsAgo)} ago, took ${of.tookMs.toFixed(1)} ms, ${of.entries} ${what}`
}

/** `3d4h`, `23h59m`, `5m12s`, `7s`: the two largest units, or as many as are asked for. */
export function span(seconds: number, most = 2): string {
  const whole = Math.max(0, Math.round(seconds))
  const units: [string, number][] = [
    ['d', Math.floor(whole / 86_400)],
    ['h', Math.floor(whole / 3600) % 24],
    ['m', Math.floor(whole / 60) % 60],
    ['s', whole % 60],
  ]
  const first = units.findIndex(([, count]) => count > 0)
  if (first < 0) return '0s'
  return units
    .slice(first, first + most)
    .filter(([, count]) => count > 0)
    .map(([unit, count]) => `${count}${unit}`)
    .join('')
}

function plural(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? '' : 's'}`
}

/** Lines of at most `width` characters, broken at spaces where there are any. */
function wrap(text: string, width: number): string[] {
  const lines: string[] = []
  let rest = text
  while (rest.length > width) {
    const space = rest.lastIndexOf(' ', width)
    const end = space > 0 ? space : width
    lines.push(rest.slice(0, end))
    rest = rest.slice(end).trimStart()
  }
  return [...lines, rest]
}
