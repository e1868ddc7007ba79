/**
 * Hundreds of leases that no daemon should have written, made up from a seed that is printed, in a real etcd: each is
 * skipped and named once, all good ones are learnt as fast as ever, and nothing else happens.
 */
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { differences } from './checker.ts'
import {
  type Daemon,
  Lab,
  leaseValue,
  monotonic,
  type PeerLease,
  PREFIX,
  peerLeases,
  waitFor,
} from './lab.ts'
import { lines } from './namespace.ts'

vi.setConfig({ testTimeout: 90_000, hookTimeout: 90_000 })

const SEED = Number(process.env.SEED ?? 20_260_724)
const NETWORK = '172.30.0.0'
/** Good leases are below 172.30.96.0, this node's own above 172.30.192.0. */
const CONFIG = {
  Network: '172.30.0.0/16',
  SubnetLen: 29,
  SubnetMin: '172.30.192.0',
  Backend: { Type: 'vxlan' },
}

/** A second address of the interface, inside the network. */
const UNDERLAY = '172.30.110.1/29'

/** mulberry32 */
function random(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

interface Bad {
  readonly key: string
  readonly value: string
  /** As it stands in the log. */
  readonly named: string
}

/** What others may write that cannot be used, each under a key of its own. */
function malformed(own: string): Bad[] {
  const next = random(SEED)
  const pick = <T>(list: readonly T[]): T => list[Math.floor(next() * list.length)] as T
  const number = (below: number): number => Math.floor(next() * below)
  const character = (): string =>
    String.fromCodePoint(pick([0x20, 0xe9, 0x4e2d, 0x1f600, 0x202e, 0x7f, 0x27, 0x25, 0x3b, 0x3c]))
  const text = (length: number): string => Array.from({ length }, character).join('')
  let slot = 0
  const subnet = (): string => `172.30.${128 + (++slot >> 5)}.${(slot & 31) * 8}-29`
  const good = (): Record<string, unknown> => ({
    PublicIP: `10.200.${number(250)}.${1 + number(250)}`,
    BackendType: 'vxlan',
    BackendData: {
      VtepMAC: `02:00:00:00:${(16 + number(200)).toString(16)}:${(16 + number(200)).toString(16)}`,
    },
  })
  const json = (): unknown =>
    pick<() => unknown>([
      () => null,
      () => number(1e9) - 5e8,
      () => next() * 1e300,
      () => next() < 0.5,
      () => text(number(40)),
      () => [number(9), text(3), [null]],
      () => ({ [text(3)]: number(9) }),
    ])()
  const nested = (depth: number): string => '['.repeat(depth) + ']'.repeat(depth)

  const kinds: (() => { key?: string; value: string })[] = [
    () => ({ value: JSON.stringify({ ...good(), PublicIP: json() }) }),
    () => ({ value: JSON.stringify({ ...good(), BackendData: json() }) }),
    () => ({ value: JSON.stringify({ ...good(), BackendData: { VtepMAC: json() } }) }),
    () => ({ value: JSON.stringify({ ...good(), BackendType: pick([7, [], {}, true]) }) }),
    () => ({ value: JSON.stringify({ ...good(), BackendType: text(5) }) }),
    () => ({ value: JSON.stringify(json()) }),
    () => ({ value: text(number(60)) }),
    () => ({ value: JSON.stringify(good()).slice(0, 1 + number(60)) }),
    () => ({ value: `${JSON.stringify(good())}${pick(['}', ' x', '{}', '\u0000'])}` }),
    () => ({
      value: JSON.stringify({
        ...good(),
        PublicIP: pick([
          '10.77.1.2',
          '::ffff:10.0.0.1',
          '1.2.3',
          '010.1.1.1',
          '1e3',
          '10.0.0.1/8',
          ' 10.0.0.1',
        ]),
      }),
    }),
    () => ({ value: JSON.stringify({ ...good(), PublicIP: `${224 + number(32)}.1.1.1` }) }),
    () => ({
      value: JSON.stringify({
        ...good(),
        BackendData: {
          VtepMAC: pick([
            'ff:ff:ff:ff:ff:ff',
            '33:33:00:00:00:01',
            '00:00:00:00:00:00',
            '02-00-00-00-00-xx',
            '0200.0000.0001.1',
          ]),
        },
      }),
    }),
    () => ({
      value: `{"PublicIP":"10.200.1.1","BackendType":"vxlan","BackendData":${nested(101 + number(100_000))}}`,
    }),
    () => ({ value: JSON.stringify({ ...good(), PublicIP: 'x'.repeat(number(100_000)) }) }),
    () => ({ key: `172.${31 + number(50)}.${number(256)}.0-29`, value: JSON.stringify(good()) }),
    () => ({ key: `${number(256)}.${number(256)}.0.0-${number(15)}`, value: JSON.stringify(good()) }),
    () => ({ key: `172.30.${number(96)}.${1 + number(6)}-29`, value: JSON.stringify(good()) }),
    () => ({
      key: `172.30.${number(96)}.0-${pick(['32', '33', '029', '-1', '2x', '', '24.0', '1e1'])}`,
      value: JSON.stringify(good()),
    }),
    () => ({ key: `172.30.${256 + number(999)}.0-29`, value: JSON.stringify(good()) }),
    () => ({ key: `${text(1 + number(20))}-29`, value: JSON.stringify(good()) }),
    () => ({ key: `${++slot}${'k'.repeat(1 + number(2_000))}`, value: JSON.stringify(good()) }),
    // Over two good leases, and over what this node has on its interface.
    () => ({ key: `172.30.${number(3)}.${16 * number(16)}-28`, value: JSON.stringify(good()) }),
    () => ({ key: pick(['172.30.110.0-28', UNDERLAY.replace('1/', '0-')]), value: JSON.stringify(good()) }),
    // The subnet of this node in another length, as part of a wider one, or beside the interface's own network.
    () => ({ key: `${own.replace(/-.*/, '')}-${30 + number(2)}`, value: JSON.stringify(good()) }),
    () => ({ key: `10.77.${number(256)}.0-24`, value: JSON.stringify(good()) }),
  ]
  const byKey = new Map<string, Bad>()
  const add = (key: string, value: string): void => {
    // A dot or two alone is no name but a place, and a slash would make a folder.
    if (/^\.*$/.test(key) || key.includes('/') || key === own) return
    byKey.set(key, { key, value, named: key })
  }
  for (let i = 0; i < 20; i++) {
    for (const kind of kinds) {
      const { key = subnet(), value } = kind()
      add(key, value)
    }
  }
  for (let i = 0; i < 4; i++) add(subnet(), JSON.stringify({ ...good(), PublicIP: 'y'.repeat(2 ** 20) }))
  return [...byKey.values()]
}

let lab: Lab
let daemon: Daemon
let own: string

beforeAll(async () => {
  lab = await Lab.create({ nodes: 1 })
  const etcd = await lab.startEtcd()
  await etcd.config(CONFIG)
  await lab.node(1).ip(`address add ${UNDERLAY} dev eth0`)
  daemon = await lab.daemon(1)
  await daemon.waitReady()
  own = daemon.leaseKey()
})
afterAll(() => lab?.close())

const path = (key: string): string => `/v2/keys${PREFIX}/subnets/${encodeURIComponent(key)}`

async function write(bad: readonly Bad[]): Promise<void> {
  const queue = bad.values()
  const worker = async (): Promise<void> => {
    for (const { key, value } of queue) {
      const { status, body } = await lab.etcd.request('PUT', path(key), { value })
      if (status > 201) throw new Error(`etcd: put ${key.slice(0, 80)}: ${status} ${body.message}`)
    }
  }
  await Promise.all(Array.from({ length: 16 }, worker))
}

async function learnt(good: readonly PeerLease[]): Promise<void> {
  const device = await lab.node(1).ipJson<{ address: string }>('link show flannel.1')
  const mine = { key: own, publicIP: lab.address(1), mac: device[0]?.address ?? '' }
  const leases = [mine, ...good].map((lease) => ({
    key: `${PREFIX}/subnets/${lease.key}`,
    value: leaseValue(lease),
  }))
  let found: readonly string[] = []
  await waitFor(
    async () => {
      found = await differences(lab.node(1), { leases, own, local: lab.address(1) })
      return found.length === 0
    },
    {
      what: () =>
        `the good leases and no others: ${found.slice(0, 9).join('; ')}; ${daemon.log().slice(-2000)}`,
      timeout: 30_000,
    },
  )
}

test(`hundreds of malformed leases, seed ${SEED}`, async () => {
  const bad = malformed(own)
  expect(bad.length).toBeGreaterThan(350)
  const good = peerLeases(200, { network: NETWORK, length: 29 })
  const half = bad.length >> 1
  await lab.etcd.seed(good.slice(0, 100))
  await write(bad.slice(0, half))
  await learnt(good.slice(0, 100))

  // A node that starts reads them as a list, and one that runs as events.
  await daemon.stop()
  daemon = await lab.daemon(1)
  await daemon.waitReady()
  await write(bad.slice(half))
  await lab.etcd.request('PUT', `${path('172.30.97.0-29')}/inside`, { value: 'x' })
  await lab.etcd.request('PUT', path('folder'), { dir: 'true' })
  await lab.etcd.seed(good.slice(100))
  await learnt(good)

  const heard = lines(daemon.log()).filter((line) => / (warn|error) /.test(line))
  const said = heard.map((line) => line.slice('2026-11-24 18:00:00.000 '.length))
  expect(new Set(said).size).toBe(said.length)
  for (const { key } of bad.filter((one) => /^[\d.]+-\d+$/.test(one.key))) {
    const [address = '', length] = key.split('-')
    const name = new RegExp(`(?<![d.])${address.replaceAll('.', '.')}[-/]${length}(?![d.])`)
    expect(
      said.filter((line) => name.test(line)),
      key,
    ).toHaveLength(1)
  }
  // The two folders besides.
  expect(heard.length - bad.length).toBeGreaterThanOrEqual(0)
  expect(heard.length - bad.length).toBeLessThanOrEqual(2)
  expect(heard.filter((line) => line.length > 400)).toEqual([])
  // biome-ignore lint/suspicious/noControlCharactersInRegex: that is what must not be there
  expect(heard.filter((line) => /[\u0000-\u001f\u007f\u202e]/.test(line))).toEqual([])
  await waitFor(
    () => daemon.notices.some(({ text }) => text.includes(`${heard.length} bad leases skipped`)),
    {
      what: `the status to count ${heard.length}: ${daemon.notices.at(-1)?.text}`,
    },
  )

  // As fast as without them: no event may cost a look at all that is bad.
  const { cpu } = daemon.status()
  const from = monotonic()
  const more = peerLeases(300, { network: NETWORK, length: 29, first: 1_000 })
  await lab.etcd.seed(more)
  await learnt([...good, ...more])
  expect(daemon.status().cpu - cpu).toBeLessThan(1.5)
  expect(monotonic() - from).toBeLessThan(10_000)
  expect(daemon.running).toBe(true)

  for (const { key } of bad) await lab.etcd.request('DELETE', path(key))
  await lab.etcd.delete(`${PREFIX}/subnets/172.30.97.0-29`, true)
  await lab.etcd.delete(`${PREFIX}/subnets/folder`, true)
  await waitFor(() => daemon.notices.at(-1)?.text.endsWith(`${good.length + more.length} peers`), {
    what: () => `nothing bad to be left: ${daemon.notices.at(-1)?.text}`,
  })
  await learnt([...good, ...more])
})
