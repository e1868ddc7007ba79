import { afterEach, beforeEach, expect, it } from 'vitest'
import type { EtcdClient, EtcdRequest } from '../../src/subnet/etcd/client.ts'
import { FakeEtcd } from '../fakes/etcd.ts'
import { openClient, PREFIX } from './support.ts'

const KEY = `${PREFIX}/config`
const signal = new AbortController().signal
let etcd: FakeEtcd
let client: EtcdClient
let now = 0

beforeEach(async () => {
  etcd = new FakeEtcd()
  await etcd.start()
  etcd.put(KEY, '{}')
  now = 0
})
afterEach(async () => {
  client.close()
  await etcd.stop()
})

function open(urls: string): void {
  // Each look at the clock is 4 ms after the one before.
  client = openClient(urls, { timeoutMs: 1_500, random: () => 0, now: () => (now += 4) })
}

const ask = (more: Partial<EtcdRequest>) => client.request({ method: 'GET', key: KEY, signal, ...more })

it('counts requests by what they are for and how they end, and times the way to the headers', async () => {
  open(etcd.url)
  await ask({})
  await ask({ query: { recursive: 'true' } })
  await ask({ method: 'PUT', query: { prevExist: 'false' }, form: { value: 'x' } }).catch(() => undefined)
  await ask({ method: 'PUT', query: { prevExist: 'true' }, form: { value: 'x' } })
  await ask({ method: 'DELETE', query: { prevIndex: '999' } }).catch(() => undefined)
  await ask({ query: { wait: 'true', waitIndex: '1' }, longPoll: true, bodyTimeoutMs: 10 })
  const { endpoints, operations } = client.tally
  expect(Object.entries(operations).map(([name, { outcomes }]) => [name, outcomes])).toEqual([
    ['get', { ok: 1, refused: 0, failed: 0 }],
    ['list', { ok: 1, refused: 0, failed: 0 }],
    ['watch', { ok: 1, refused: 0, failed: 0 }],
    ['create', { ok: 0, refused: 1, failed: 0 }],
    ['update', { ok: 1, refused: 0, failed: 0 }],
    ['delete', { ok: 0, refused: 1, failed: 0 }],
  ])
  expect(operations.get.durations.count).toBe(1)
  expect(operations.get.durations.seconds).toBeCloseTo(0.004)
  expect(endpoints).toEqual([
    {
      url: etcd.url,
      answers: 6,
      failures: 0,
      failing: false,
      lastError: undefined,
      lastAnswer: now,
      latency: 4,
    },
  ])
})

it('tells which endpoint fails, and why, until it answers again', async () => {
  const nobody = 'http://user:secret@127.0.0.1:1'
  open(`${nobody},${etcd.url}`)
  await ask({})
  const { tally } = client
  expect(tally.current).toBe(1)
  expect(tally.endpoints).toMatchObject([
    { url: 'http://127.0.0.1:1', failing: true, failures: 1, answers: 0, latency: undefined },
    { failing: false, failures: 0, answers: 1 },
  ])
  expect(tally.endpoints[0]?.lastError).toContain('ECONNREFUSED')
  expect(JSON.stringify(tally)).not.toContain('secret')
  expect(tally.operations.get.outcomes).toEqual({ ok: 1, refused: 0, failed: 0 })
  etcd.intercept = (_, response) => {
    response.writeHead(503).end()
    return true
  }
  await ask({}).catch(() => undefined)
  expect(tally.endpoints).toMatchObject([{ failing: true }, { failing: true }])
  expect(tally.operations.get.outcomes).toEqual({ ok: 1, refused: 0, failed: 1 })
  etcd.intercept = undefined
  await ask({})
  expect(tally.endpoints).toMatchObject([{ failing: true }, { failing: false, failures: 1 }])
})
