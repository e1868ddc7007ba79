import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { systemClock } from '../../src/clock.ts'
import type { EtcdClient } from '../../src/subnet/etcd/client.ts'
import type { LeaseWatchResult } from '../../src/subnet/lease.ts'
import { type WatchProgress, watchLeases } from '../../src/subnet/watch.ts'
import { FakeEtcd } from '../fakes/etcd.ts'
import { LogLines, ManualClock, openClient, openRegistry, SUBNETS, until } from './support.ts'

const VALUE = '{"PublicIP":"192.168.77.1","BackendType":"host-gw"}'

let etcd: FakeEtcd
let client: EtcdClient
let log: LogLines
let stop: AbortController
let results: LeaseWatchResult[]
let done: Promise<void>

beforeEach(async () => {
  etcd = new FakeEtcd()
  await etcd.start()
  client = openClient(etcd.url)
  log = new LogLines()
  stop = new AbortController()
  results = []
})
afterEach(async () => {
  stop.abort()
  await done
  client.close()
  await etcd.stop()
  vi.restoreAllMocks()
})

function watch({
  clock = systemClock,
  idleMs = 60_000,
  progress = newProgress(),
}: {
  clock?: ManualClock | typeof systemClock
  idleMs?: number
  progress?: WatchProgress
} = {}) {
  const registry = openRegistry(client, idleMs)
  done = (async () => {
    for await (const result of watchLeases({ registry, signal: stop.signal, clock, log, progress }))
      results.push(result)
  })()
  return until('the first snapshot', () => results.length === 1)
}

function newProgress(): WatchProgress {
  return { index: 0, heardAt: 0, triedAt: 0, snapshots: 0, failures: 0, lastError: undefined }
}

const put = (i: number) => etcd.put(`${SUBNETS}/10.5.${i}.0-24`, VALUE)
const polls = () => etcd.requests.filter(({ line }) => line.includes('wait=true'))
const events = () => results.flatMap((result) => (result.kind === 'events' ? result.events : []))

it('asks as flannel does, one past what it knows', async () => {
  put(1)
  await watch()
  await until('a poll', () => etcd.watchers === 1)
  expect(polls().map(({ line }) => line)).toEqual([
    `GET /v2/keys${SUBNETS}?recursive=true&wait=true&waitIndex=${etcd.index + 1}`,
  ])
})

it('catches up in parallel, in order, and is back at one poll afterwards', async () => {
  await watch()
  await until('a poll', () => etcd.watchers === 1)
  for (let i = 1; i <= 100; i++) put(i)
  await until('all events', () => events().length === 100)
  expect(events().map((event) => event.kind === 'put' && (event.lease.subnet.address >>> 8) & 255)).toEqual(
    Array.from({ length: 100 }, (_, i) => i + 1),
  )
  expect(results.filter(({ kind }) => kind === 'events').length).toBeLessThan(100)
  await until('one poll', () => etcd.watchers === 1)
})

it('drops the polls it does not need when the store is ahead by writes of others', async () => {
  await watch()
  await until('a poll', () => etcd.watchers === 1)
  put(1)
  for (let i = 0; i < 20; i++) etcd.put('/elsewhere', String(i))
  await until('the event', () => events().length === 1)
  await until('one poll', () => etcd.watchers === 1)
  put(2)
  await until('the next event', () => events().length === 2)
  expect(log.lines).toEqual([])
})

it('takes a snapshot when it is far behind', async () => {
  const clock = new ManualClock()
  await watch({ clock })
  await until('a poll', () => etcd.watchers === 1)
  clock.advance(2_000)
  for (let i = 0; i < 700; i++) put(i % 256)
  await until('a snapshot', () => results.some(({ kind }, i) => i > 0 && kind === 'snapshot'))
  expect(polls().length).toBeLessThan(100)
})

it('notices by itself, without any news, that the store is not what it was', async () => {
  const clock = new ManualClock()
  put(1)
  await watch({ clock, idleMs: 30 })
  etcd.wipe()
  put(2)
  for (let i = 0; i < 20; i++) etcd.put('/elsewhere', String(i))
  await until('a new snapshot', () => {
    clock.advance(60_000)
    return results.length >= 2
  })
  expect(results.at(-1)).toMatchObject({ kind: 'snapshot', leases: [{ subnet: { address: 0x0a050200 } }] })
})

it('lists again and again, if it must, after a second and up to half of one more by chance', async () => {
  vi.spyOn(Math, 'random').mockReturnValue(0.5)
  const clock = new ManualClock()
  const cleared = {
    errorCode: 401,
    message: 'The event in requested index is outdated and cleared',
    index: 9,
  }
  etcd.intercept = ({ url }, response) => {
    if (url?.includes('wait=true') !== true) return false
    response.writeHead(400).end(JSON.stringify(cleared))
    return true
  }
  await watch({ clock })
  for (let i = 2; i <= 4; i++) {
    await until('a pause', () => clock.sleeping === 1)
    clock.advance(1_249)
    expect(clock.sleeping).toBe(1)
    clock.advance(1)
    await until('a list', () => results.length === i)
  }
})

it('tries once a second while etcd is away, after one quick try, and says so once for each reason', async () => {
  const clock = new ManualClock()
  const progress = newProgress()
  await watch({ clock, progress })
  await until('a poll', () => etcd.watchers === 1)
  etcd.intercept = ({ socket }) => {
    socket.destroy()
    return true
  }
  etcd.cut()
  await until('the quick pause', () => progress.failures === 1 && clock.sleeping === 1)
  clock.advance(100)
  for (let i = 2; i <= 7; i++) {
    await until('a failure', () => progress.failures === i && clock.sleeping === 1)
    if (i === 7) break
    clock.advance(999)
    expect(clock.sleeping).toBe(1)
    clock.advance(1)
  }
  etcd.intercept = undefined
  put(1)
  // Questions that were asked before may still fail.
  await until('the event', () => {
    clock.advance(1_000)
    return events().length === 1
  })
  expect(log.matching(/^error Watch subnets: /)).toHaveLength(1)
  expect(log.matching(/^info Watching subnet leases again after \d+ failed attempts in \d+ s/)).toHaveLength(
    1,
  )
})

describe('answers that make no sense', () => {
  it.each([
    ['empty ones, at once', ''],
    ['HTML', '<html>\n</html>'],
    ['no node', '{"action":"set"}'],
    [
      'an event of the past',
      '{"action":"set","node":{"key":"/coreos.com/network/subnets/10.5.9.0-24","value":"x","modifiedIndex":1}}',
    ],
    [
      'an event without an index',
      '{"action":"set","node":{"key":"/coreos.com/network/subnets/10.5.9.0-24","value":"x"}}',
    ],
  ])('%s: asked again after a pause, and the next good one is taken', async (_, body) => {
    const clock = new ManualClock()
    await watch({ clock })
    await until('a poll', () => etcd.watchers === 1)
    let asked = 0
    etcd.intercept = ({ url }, response) => {
      if (url?.includes('wait=true') !== true) return false
      asked++
      response.writeHead(200, { 'X-Etcd-Index': etcd.index }).end(body)
      return true
    }
    etcd.endWatches()
    await until('a pause', () => asked > 0 && clock.sleeping > 0)
    expect(asked).toBeLessThan(3)
    etcd.intercept = undefined
    put(1)
    clock.advance(1_000)
    await until('the event', () => events().length === 1)
    expect(events()).toMatchObject([{ kind: 'put', lease: { subnet: { address: 0x0a050100 } } }])
  })
})

it('keeps account of how far it is, when etcd was last heard, and what fails', async () => {
  const clock = new ManualClock()
  const progress = newProgress()
  put(1)
  clock.advance(1_000)
  await watch({ clock, progress })
  expect(progress).toEqual({
    ...newProgress(),
    index: etcd.index,
    heardAt: 2_000,
    triedAt: 2_000,
    snapshots: 1,
  })
  await until('a poll', () => etcd.watchers === 1)
  clock.advance(60_000)
  put(2)
  await until('the event', () => events().length === 1)
  expect(progress).toMatchObject({ index: etcd.index, heardAt: 62_000, snapshots: 1, failures: 0 })
  await until('a poll', () => etcd.watchers === 1)
  await etcd.stop()
  await until('a failure', () => progress.failures > 0)
  expect(progress).toMatchObject({ heardAt: 62_000, index: etcd.index })
  expect(progress.lastError).toMatch(/ECONNRE(SET|FUSED)/)
})
