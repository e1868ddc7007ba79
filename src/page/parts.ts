import { ms, span } from '../commands/screen.ts'
import type { Event } from '../events.ts'
import type { RoundStatus, Status } from '../status.ts'
import { html, type Markup, type Part } from './html.ts'
import type { Look } from './look.ts'

/** How something stands, said by a word, a shape and a colour at once. */
export type Tone = 'ok' | 'warn' | 'bad' | 'wait'

/** Reasons, refusals and skipped leases that are shown. */
const LISTED = 8
const LONGEST_TEXT = 400
/** So long without a word from etcd, and joins may have been missed: a poll ends earlier. */
const QUIET_SECONDS = 600

/** The parts of the page that change, by the id of the element that holds them. */
export function renderParts(look: Look): Readonly<Record<string, Markup>> {
  return {
    verdict: renderVerdict(look),
    tiles: renderTiles(look),
    timeline: renderTimeline(look.events),
    details: renderDetails(look.status),
  }
}

export interface Verdict {
  readonly tone: Tone
  readonly title: string
  readonly lines: readonly string[]
}

/** What an operator has to know before anything else. */
export function verdictOf({ status, peers }: Look): Verdict {
  const { health, daemon, kernel } = status
  const amiss = peers.lines.length - peers.count.ok
  const remarks = [...remarksOf(status)]
  if (!health.alive) return { tone: 'bad', title: 'Stuck', lines: [...health.reasons, ...remarks] }
  if (daemon.phase !== 'running') {
    const title = daemon.phase === 'stopping' ? 'Stopping' : 'Starting'
    return { tone: 'wait', title, lines: [`${PHASES[daemon.phase]}.`, ...remarks] }
  }
  if (!health.ready) {
    const refusals = (kernel?.refusals ?? []).map((refusal) => `Refused: ${refusal}`)
    return { tone: 'bad', title: 'Not ready', lines: [...health.reasons, ...refusals, ...remarks] }
  }
  if (amiss > 0)
    remarks.unshift(`${amiss} of ${count(peers.lines.length, 'peer')} are not as they should be.`)
  if (remarks.length > 0) return { tone: 'warn', title: 'Ready, with remarks', lines: remarks }
  const { length } = peers.lines
  const all = length === 1 ? 'The one peer is' : `All ${number(length)} peers are`
  const line =
    length === 0
      ? 'No other node has a lease yet.'
      : kernel?.lastApply
        ? `${all} in the kernel as etcd has them.`
        : `${count(length, 'peer')} in etcd.`
  return { tone: 'ok', title: 'Ready', lines: [line] }
}

const PHASES: Readonly<Record<Status['daemon']['phase'], string>> = {
  starting: 'The daemon has just begun',
  'waiting for config': 'Waiting for the network config in etcd',
  'acquiring a lease': 'Acquiring a subnet lease from etcd',
  'making the device': 'Making the device',
  running: 'Running',
  stopping: 'On its way out; device and lease stay',
}

/** What does not keep the node from being ready, and yet somebody should see to. */
function* remarksOf({ etcd, leases }: Status): Generator<string> {
  const { endpoints, watch } = etcd
  const failing = endpoints.filter(({ state }) => state === 'failing')
  if (failing.length > 0 && failing.length === endpoints.length) {
    yield 'etcd does not answer. Peers stay as they were; who joins or leaves meanwhile is not seen.'
  } else if (failing.length > 0) {
    yield `${failing.length} of ${count(endpoints.length, 'etcd endpoint')} failing.`
  } else if (watch !== null && watch.heardSecondsAgo > QUIET_SECONDS) {
    yield 'etcd has said nothing to the watch for more than ten minutes. Joins may have been missed.'
  }
  if (leases.skipped > 0) yield `${count(leases.skipped, 'lease')} skipped; see the details.`
}

function renderVerdict(look: Look): Markup {
  const { tone, title, lines } = verdictOf(look)
  const rest = lines.length - LISTED
  return html`<div class="verdict ${tone}"><h1>${mark(tone)} ${title}</h1>
<ul>${lines.slice(0, LISTED).map((line) => html`<li>${clip(line)}</li>`)}${rest > 0 && html`<li>and ${rest} more</li>`}</ul></div>`
}

export function renderTiles({ status, peers }: Look): Markup {
  const { lease, etcd, kernel, interface: chosen } = status
  const { length } = peers.lines
  const running = status.daemon.phase === 'running'
  const amiss = length - peers.count.ok
  const totals = Object.values(kernel?.tables ?? {}).reduce(
    (sum, { wanted, held, failed }) => ({
      wanted: sum.wanted + wanted,
      held: sum.held + held,
      failed: sum.failed + failed,
    }),
    { wanted: 0, held: 0, failed: 0 },
  )
  const failing = etcd.endpoints.filter(({ state }) => state === 'failing').length
  const latency = etcd.endpoints.find(({ current }) => current)?.latencyMs ?? null
  const left = lease?.secondsLeft ?? null
  const repairs = Object.values(kernel?.repairs ?? {})
    .flatMap((causes) => Object.values(causes))
    .reduce((sum, each) => sum + each, 0)
  return html`<dl class="tiles">
${tile({
  label: 'Peers',
  value: number(length),
  note:
    amiss > 0
      ? `${number(amiss)} amiss`
      : length > 0
        ? 'none amiss'
        : running
          ? 'nobody has joined yet'
          : 'not known yet',
  tone: amiss > 0 ? 'bad' : 'ok',
})}
${tile({
  label: 'Own lease',
  value: lease?.subnet ?? 'none yet',
  note:
    lease === null
      ? ''
      : left === null
        ? 'reserved, never expires'
        : left > 0
          ? `${span(left)} left, ${count(lease.renewals, 'renewal')}`
          : 'expired',
  tone: left !== null && left < 1800 ? 'warn' : 'ok',
})}
${tile({
  label: 'Underlay',
  value: chosen?.address ?? 'none yet',
  note: chosen === null ? '' : `${chosen.name}, MTU ${chosen.mtu}`,
  tone: 'ok',
})}
${tile({
  label: 'etcd',
  value:
    failing === 0
      ? etcd.endpoints.length === 0
        ? 'not asked'
        : 'answers'
      : failing === etcd.endpoints.length
        ? 'away'
        : `${failing} of ${etcd.endpoints.length} away`,
  note: [
    latency === null || failing > 0 ? '' : `${latency.toFixed(1)} ms`,
    etcd.watch === null ? '' : `heard ${ago(etcd.watch.heardSecondsAgo)}`,
  ]
    .filter(Boolean)
    .join(', '),
  tone: failing === 0 ? 'ok' : failing === etcd.endpoints.length ? 'bad' : 'warn',
})}
${tile({
  label: 'Kernel entries',
  value: kernel === null ? 'none yet' : `${number(totals.held)} of ${number(totals.wanted)}`,
  note:
    totals.failed > 0
      ? `${number(totals.failed)} refused`
      : kernel?.lastCompare
        ? `compared ${ago(kernel.lastCompare.secondsAgo)}, ${count(repairs, 'repair')}`
        : kernel === null
          ? ''
          : count(repairs, 'repair'),
  tone: totals.failed > 0 || kernel?.trouble ? 'bad' : 'ok',
})}
${status.probes !== null && renderPings(status.probes)}
</dl>`
}

function renderPings({ reachable, unreachable, pending, rttMs }: NonNullable<Status['probes']>): Markup {
  return tile({
    label: 'Answer pings',
    value: `${number(reachable)} of ${number(reachable + unreachable + pending)}`,
    note: [
      unreachable > 0 ? `${number(unreachable)} lost` : '',
      pending > 0 ? `${number(pending)} not known yet` : '',
      rttMs === null ? '' : `${ms(rttMs.median)} ms, at most ${ms(rttMs.most)} ms`,
    ]
      .filter(Boolean)
      .join(', '),
    tone: unreachable > 0 ? 'bad' : 'ok',
  })
}

function tile({
  label,
  value,
  note,
  tone,
}: {
  readonly label: string
  readonly value: string
  readonly note: string
  readonly tone: Tone
}): Markup {
  return html`<div class="tile ${tone}"><dt>${label}</dt><dd><strong>${value}</strong> <small>${tone !== 'ok' && mark(tone)} ${note}</small></dd></div>`
}

/** What an event is at a glance; a repair is the one kind of warning that tells of something mended. */
function kindOf({ kind, text }: Event): { readonly name: string; readonly word: string } {
  if (kind === 'lease') {
    return text.startsWith('delete') ? { name: 'left', word: 'left' } : { name: 'joined', word: 'lease' }
  }
  if (/\brepaired\b/i.test(text)) return { name: 'repair', word: 'repair' }
  return { name: kind, word: kind }
}

export function renderTimeline(events: readonly Event[]): Markup {
  if (events.length === 0) return html`<p class="empty">Nothing has happened yet.</p>`
  return html`<ol class="timeline">
${events.map((event) => {
  const { name, word } = kindOf(event)
  return html`<li class="${name}">${time(event.at)} <b>${word}</b><p>${clip(event.text)}</p></li>
`
})}</ol>`
}

/** UTC, which the script puts into the time of the reader's place. */
export function time(at: number): Markup {
  const iso = new Date(at).toISOString()
  return html`<time datetime="${iso}">${iso.slice(11, 19)}Z</time>`
}

function renderDetails({
  daemon,
  network,
  interface: chosen,
  device,
  firewall,
  etcd,
  leases,
  kernel,
  loops,
}: Status): Markup {
  const rules = [firewall.masquerade && 'masquerade', firewall.forwardRules && 'forward'].filter(Boolean)
  return html`<div class="columns">
<section><h3>This node</h3><dl>
${fact('Daemon', `${daemon.version}, pid ${daemon.pid}, up ${span(daemon.uptimeSeconds)}, log level ${daemon.logLevel}`)}
${network !== null && fact('Network', `${network.cidr}, a /${network.subnetLen} each, ${network.backend}`)}
${network !== null && fact('etcd prefix', network.etcdPrefix)}
${chosen !== null && fact('Interface', `${chosen.name} ${chosen.address}, public IP ${chosen.publicIP} (${chosen.reason})`)}
${device !== null && fact('Device', detailsOf(device))}
${fact('Firewall', rules.length === 0 ? 'no rules wanted' : `${rules.join(' and ')} rules; ${count(firewall.checks, 'check')}, ${count(firewall.repairs, 'write')}, ${count(firewall.failures, 'failure')}`)}
${firewall.lastError !== null && fact('', firewall.lastError, 'bad')}
</dl></section>
<section><h3>Kernel</h3>
${kernel === null ? html`<p class="empty">No device yet.</p>` : renderKernel(kernel)}</section>
<section><h3>etcd</h3><dl>
${etcd.endpoints.map((endpoint) => [
  fact(
    'Endpoint',
    `${endpoint.url} ${endpoint.state}${endpoint.latencyMs === null ? '' : `, ${endpoint.latencyMs.toFixed(1)} ms`}${endpoint.current && etcd.endpoints.length > 1 ? ', in use' : ''}`,
    endpoint.state === 'failing' ? 'bad' : undefined,
  ),
  endpoint.state === 'failing' && endpoint.lastError !== null && fact('', endpoint.lastError, 'bad'),
])}
${etcd.watch !== null && fact('Watch', `index ${etcd.watch.index}, heard ${ago(etcd.watch.heardSecondsAgo)}, ${count(etcd.watch.snapshots, 'snapshot')}, ${count(etcd.watch.failures, 'failure')}`)}
${fact('Leases', `${number(leases.inUse)} in use, ${number(leases.skipped)} skipped`, leases.skipped > 0 ? 'warn' : undefined)}
${leases.skippedList.slice(0, LISTED).map(({ key, reason }) => fact('Skipped', key === '' ? reason : `${key}: ${reason}`, 'warn'))}
${leases.skipped > LISTED && fact('', `and ${number(leases.skipped - Math.min(LISTED, leases.skippedList.length))} more`)}
</dl></section>
<section><h3>Loops</h3><dl>
${loops.map(({ loop, lastSecondsAgo, stuck }) => fact(loop, stuck ? 'stuck' : lastSecondsAgo === null ? 'not begun' : `heard of ${ago(lastSecondsAgo)}`, stuck ? 'bad' : undefined))}
</dl></section>
</div>`
}

function renderKernel(kernel: NonNullable<Status['kernel']>): Markup {
  const repairs = (table: string): number =>
    Object.values(kernel.repairs[table] ?? {}).reduce((sum, each) => sum + each, 0)
  const cell = (value: number, tone: Tone | '' = ''): Markup =>
    html`<td class="${tone}">${number(value)}</td>`
  return html`<table class="small"><thead><tr><th scope="col">Table</th><th scope="col">wanted</th><th scope="col">held</th><th scope="col">refused</th><th scope="col">repaired</th></tr></thead><tbody>
${Object.entries(kernel.tables).map(
  ([name, { wanted, held, failed }]) =>
    html`<tr><th scope="row">${name}</th>${cell(wanted)}${cell(held)}${cell(failed, failed > 0 ? 'bad' : '')}${cell(repairs(name))}</tr>
`,
)}</tbody></table><dl>
${fact('Last apply', round(kernel.lastApply, 'written'))}
${fact('Last compare', round(kernel.lastCompare, 'not as believed'))}
${kernel.trouble !== null && fact('Trouble', kernel.trouble, 'bad')}
${kernel.refusals.slice(0, LISTED).map((refusal) => fact('Refused', refusal, 'bad'))}
</dl>`
}

function fact(label: string, value: string, tone?: Tone): Markup {
  return html`<div class="${tone ?? ''}"><dt>${clip(label)}</dt><dd>${clip(value)}</dd></div>
`
}

/** Besides its colour every state has a shape. */
export function mark(tone: Tone): Part {
  return html`<i class="mark ${tone}" aria-hidden="true"></i>`
}

function detailsOf({ name, mtu, details }: NonNullable<Status['device']>): string {
  const list = Object.entries(details)
    .filter(([, value]) => value !== false)
    .map(([key, value]) => (value === true ? key : `${key} ${value}`))
  return [`${name} MTU ${mtu}`, ...list].join(', ')
}

function round(of: RoundStatus | null, what: string): string {
  return of === null
    ? 'none yet'
    : `${ago(of.secondsAgo)}, ${of.tookMs.toFixed(1)} ms, ${number(of.entries)} ${what}`
}

function ago(seconds: number): string {
  return `${span(seconds, 1)} ago`
}

/** Thousands apart. */
export function number(value: number): string {
  return String(value).replaceAll(/\B(?=(?:\d{3})+$)/g, ',')
}

export function count(value: number, what: string): string {
  return `${number(value)} ${what}${value === 1 ? '' : 's'}`
}

function clip(text: string): string {
  return text.length <= LONGEST_TEXT ? text : `${text.slice(0, LONGEST_TEXT)}\u2026`
}
