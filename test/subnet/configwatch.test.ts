import { afterEach, beforeEach, expect, it } from 'vitest'
import { parseNetworkConfig } from '../../src/subnet/config.ts'
import { ConfigWatch } from '../../src/subnet/configwatch.ts'
import type { EtcdClient } from '../../src/subnet/etcd/client.ts'
import { FakeEtcd } from '../fakes/etcd.ts'
import { LogLines, ManualClock, openClient, openRegistry, PREFIX, subnet, until } from './support.ts'

const KEY = `${PREFIX}/config`
const START = { Network: '10.5.0.0/16', SubnetLen: 24, Backend: { Type: 'vxlan', VNI: 7, Port: 8472 } }
const RESTART = /^warn The network config in etcd has changed: .*: restart flanneld on every node to use it/

let clock: ManualClock
let etcd: FakeEtcd
let client: EtcdClient
let log: LogLines
let stop: AbortController
let watch: ConfigWatch
let running: Promise<void>

const write = (config: unknown) => etcd.put(KEY, typeof config === 'string' ? config : JSON.stringify(config))
const watched = () => until('a poll', () => etcd.watchers === 1)
const said = (pattern: RegExp) => until(`${pattern}`, () => log.matching(pattern).length > 0)

beforeEach(async () => {
  clock = new ManualClock()
  etcd = new FakeEtcd()
  await etcd.start()
  client = openClient(etcd.url)
  log = new LogLines()
  stop = new AbortController()
  write(START)
  const registry = openRegistry(client)
  const source = await registry.getConfig(stop.signal)
  const config = parseNetworkConfig(source.text)
  watch = new ConfigWatch({ registry, config, source, subnet: subnet('10.5.33.0/24'), clock, log })
  running = watch.run(stop.signal)
  await watched()
})
afterEach(async () => {
  stop.abort()
  await running
  client.close()
  await etcd.stop()
})

it.each<[string, object, string[]]>([
  ['the network', { ...START, Network: '10.6.0.0/16' }, ['Network']],
  ['the length', { ...START, SubnetLen: 25 }, ['SubnetLen']],
  ['the backend', { ...START, Backend: { ...START.Backend, Type: 'host-gw' } }, ['Backend.Type']],
  ['an option', { ...START, Backend: { ...START.Backend, VNI: 8 } }, ['Backend.VNI']],
  ['an option more', { ...START, Backend: { ...START.Backend, GBP: true } }, ['Backend.GBP']],
  ['an option less', { ...START, Backend: { Type: 'vxlan', vni: 7 } }, ['Backend.Port']],
  [
    'all of it',
    { Network: '10.0.0.0/8', SubnetLen: 20, Backend: { Type: 'udp', Port: 1 } },
    ['Network', 'SubnetLen', 'Backend.Type', 'Backend.VNI', 'Backend.Port'],
  ],
])('names what needs a restart, once, and says when it is as before: %s', async (_, config, fields) => {
  write(config)
  await said(RESTART)
  expect(watch.pending).toEqual(fields)
  expect(log.lines).toEqual([
    `warn The network config in etcd has changed: ${fields.join(', ')}: restart flanneld on every node to use it; going on with the one from the start`,
  ])
  write(config)
  write(JSON.stringify(config, null, 2))
  write(START)
  await said(/^info The network config in etcd is the one in use again/)
  expect(log.lines).toHaveLength(2)
  expect(watch.pending).toEqual([])
})

it('takes another order, other case and defaults written out for what they are', async () => {
  write({ backend: { port: 8472, vni: 7, type: 'VXLAN' }, subnetlen: 24, NETWORK: '10.5.0.0/16', Extra: 1 })
  write({ ...START, SubnetMin: '10.5.1.0', SubnetMax: '10.5.255.0' })
  write({ ...START, SubnetLen: 26 })
  await said(RESTART)
  expect(log.lines).toHaveLength(1)
})

it.each([
  [
    'stays in',
    { SubnetMin: '10.5.20.0', SubnetMax: '10.5.200.0' },
    'SubnetMin, SubnetMax: it counts for the next lease',
  ],
  [
    'is out of',
    { SubnetMax: '10.5.30.0' },
    'SubnetMax: it counts for the next lease; this node keeps 10.5.33.0/24 until it is restarted',
  ],
])('a range that this node %s counts for the next lease', async (_, range, text) => {
  write({ ...START, ...range })
  await said(/^info .*next lease/)
  expect(log.lines).toEqual([`info The network config in etcd has changed: ${text}`])
  expect(watch.pending).toEqual([])
})

it.each<[string, () => unknown, RegExp]>([
  ['no JSON', () => write('{'), /valid JSON/],
  ['no network', () => write({ SubnetLen: 24 }), /has no Network/],
  ['nested without end', () => write(`{"Network":"10.5.0.0/16","Backend":${'['.repeat(9_000)}`), /JSON/],
  [
    'nested deeply',
    () => write(`{"Network":"10.5.0.0/16","X":${'['.repeat(99_000)}${']'.repeat(99_000)}}`),
    /nested more than 100 deep/,
  ],
  ['gone', () => etcd.delete(KEY), /it was removed; nodes that start wait/],
  [
    'a folder',
    () => {
      etcd.delete(KEY)
      etcd.put(`${KEY}/inside`, 'x')
    },
    /it was removed|is a directory/,
  ],
])('says once that it is %s, and goes on', async (_, spoil, reason) => {
  spoil()
  await said(/^error/)
  expect(log.lines).toHaveLength(1)
  expect(log.lines[0]).toMatch(
    /^error The network config in etcd cannot be used any more, going on with the one from the start: /,
  )
  expect(log.lines[0]).toMatch(reason)
  expect(watch.unsound).toBe(true)
  etcd.put('/elsewhere', 'x')
  if (etcd.get(KEY) === '') etcd.delete(KEY)
  write(START)
  await said(/^info The network config in etcd is the one in use again/)
  expect(watch.unsound).toBe(false)
})

it('learns of a change that came while etcd was away, and of one in another store', async () => {
  await etcd.stop()
  await until('a pause', () => clock.sleeping === 1)
  write({ ...START, SubnetLen: 26 })
  for (let i = 0; i < 1_100; i++) etcd.put('/elsewhere', String(i))
  await etcd.start()
  await until('the line', () => {
    clock.advance(5_000)
    return log.matching(RESTART).length === 1
  })
  await watched()
  await etcd.stop()
  etcd.wipe()
  write(START)
  await etcd.start()
  await until('the line', () => {
    clock.advance(5_000)
    return log.matching(/is the one in use again/).length === 1
  })
})

it('asks nothing of an etcd that has no news, and little of one that ends its polls at once', async () => {
  const before = etcd.requests.length
  etcd.intercept = (_, response) => {
    response.writeHead(200, { 'X-Etcd-Index': String(etcd.index) }).end()
    return true
  }
  etcd.endWatches()
  for (let i = 1; i <= 4; i++) {
    await until('a pause', () => clock.sleeping === 1)
    expect(etcd.requests.length).toBeLessThanOrEqual(before + 2 * i)
    clock.advance(5_000)
  }
  expect(log.lines.filter((line) => !line.startsWith('debug'))).toEqual([])
})

it('waits in another cluster, which has no config, as in the one before', async () => {
  await etcd.stop()
  etcd.wipe()
  etcd.clusterId = 'another'
  await etcd.start()
  await until('a pause', () => clock.sleeping === 1)
  clock.advance(5_000)
  await said(/^error .*it was removed/)
  await watched()
  const before = etcd.requests.length
  // While these go to and fro, so would its own.
  for (let i = 0; i < 10; i++) await openRegistry(client).listLeases(stop.signal)
  expect(etcd.requests).toHaveLength(before + 10)
  write(START)
  await said(/^info The network config in etcd is the one in use again/)
})
