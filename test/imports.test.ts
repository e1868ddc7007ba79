import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { describe, expect, it } from 'vitest'

/**
 * Who may import whom. The left side is a folder or file under src; the right side what it may reach besides
 * itself, Node's own modules and npm packages. A file is held to the longest left side that fits it.
 */
const TABLE: Readonly<Record<string, readonly string[]>> = {
  'main.ts': ['*'],
  // The wiring, in four files: process, start, running node, choice of backend.
  'daemon.ts': ['*'],
  'node.ts': ['*'],
  'backends.ts': ['backend'],
  'underlay.ts': [
    'arp',
    'backend/backend',
    'clock',
    'iface',
    'native',
    'netlink',
    'subnet/validate',
    'ip',
    'log',
  ],
  'arp.ts': ['clock', 'ip', 'native'],
  'ip.ts': [],
  'clock.ts': [],
  'log.ts': ['jsonlog'],
  'jsonlog.ts': [],
  'native.ts': [],
  'icmp.ts': ['ip', 'native'],
  'ping.ts': ['icmp', 'ip'],
  'probe.ts': ['clock', 'durations', 'icmp', 'ip', 'log', 'native'],
  'memory.ts': [],
  'goflag.ts': [],
  'options.ts': ['goflag', 'commands/names', 'ip', 'log'],
  commands: ['*'],
  'commands/names.ts': [],
  // Looks at everything, and is looked at by its command alone.
  doctor: ['*'],
  'etcd.ts': ['log', 'options', 'secrets', 'subnet/etcd'],
  'secrets.ts': ['log'],
  'iface.ts': ['netlink', 'ip', 'log'],
  'files.ts': [],
  'outputfile.ts': ['clock', 'files', 'log'],
  'subnetfile.ts': ['ip'],
  'durations.ts': [],
  'heartbeat.ts': ['clock'],
  'events.ts': ['ip', 'log'],
  'systemd.ts': ['native', 'clock', 'log'],
  'health.ts': ['http', 'log'],
  'http.ts': [],
  'control.ts': ['files', 'http', 'log'],
  'status.ts': ['clock', 'heartbeat', 'ip', 'log'],
  // Sees every part, and hands out plain values.
  'view.ts': ['*'],
  'metrics.ts': ['durations', 'http', 'log', 'status', 'view'],
  // What is loaded only when it is asked for, as a bundle of its own.
  'tools.ts': ['commands', 'metrics', 'page', 'view'],
  page: ['clock', 'commands/screen', 'events', 'http', 'ip', 'status'],
  'page/paths.ts': [],
  subnet: ['ip', 'clock', 'durations', 'log'],
  'backend/delta.ts': [],
  'backend/backoff.ts': [],
  backend: ['netlink', 'subnet/lease', 'ip', 'clock', 'durations', 'files', 'log'],
  'backend/vxlan': ['backend', 'netlink', 'subnet/lease', 'ip', 'clock', 'log'],
  'backend/udp/tunnel.ts': ['backend', 'ip', 'native'],
  netlink: ['ip'],
  'netlink/socket.ts': ['netlink', 'ip', 'native'],
  masq: ['ip', 'clock', 'log'],
  dockeropts: ['subnetfile', 'ip'],
}

const SRC = resolve(import.meta.dirname, '../src')

function filesUnder(dir: string): string[] {
  return readdirSync(dir, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.ts'))
    .map((entry) => relative(SRC, join(entry.parentPath, entry.name)))
}

function importsOf(file: string): string[] {
  const text = readFileSync(join(SRC, file), 'utf8')
  return [...text.matchAll(/(?:from|import)\s*\(?\s*'(\.[^']+)'/g)].map((m) =>
    relative(SRC, resolve(SRC, dirname(file), m[1] as string)),
  )
}

function placeOf(file: string): string {
  const places = Object.keys(TABLE).filter((place) => file === place || file.startsWith(`${place}/`))
  return places.sort((a, b) => b.length - a.length)[0] ?? ''
}

const inside = (target: string, place: string): boolean =>
  target === place || target === `${place}.ts` || target.startsWith(`${place}/`)

describe('each part imports only what the table of places lets it', () => {
  it.each(filesUnder(SRC))('%s', (file) => {
    const place = placeOf(file)
    expect(place, `${file} has no row in the table`).not.toBe('')
    const allowed = TABLE[place] ?? []
    if (allowed.includes('*')) return
    const home = place.endsWith('.ts') ? [] : [place]
    const strange = importsOf(file).filter((target) => ![...allowed, ...home].some((p) => inside(target, p)))
    expect(strange).toEqual([])
  })
})

it('has no row, and no place in one, that is not there', () => {
  const there = (place: string): boolean =>
    [place, `${place}.ts`].some((path) => existsSync(join(SRC, path))) || place === '*'
  expect([...Object.keys(TABLE), ...Object.values(TABLE).flat()].filter((place) => !there(place))).toEqual([])
})
