/**
 * What is lost on its way to a real etcd, or from it, while etcd itself is well: the connection stays open and says
 * nothing. Nobody may wait for it longer than two seconds, and nobody may hurry an etcd that is only slow.
 */
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { systemClock } from '../../src/clock.ts'
import { acquireLease } from '../../src/subnet/acquire.ts'
import { parseNetworkConfig } from '../../src/subnet/config.ts'
import type { EtcdClient } from '../../src/subnet/etcd/client.ts'
import { LeaseKeeper } from '../../src/subnet/keeper.ts'
import type { Lease } from '../../src/subnet/lease.ts'
import { leaseKey } from '../../src/subnet/leasecodec.ts'
import type { Registry } from '../../src/subnet/registry.ts'
import { TcpProxy } from '../netns/proxy.ts'
import { expectSoon, timed } from '../netns/scene.ts'
import { EtcdProcess } from './etcdprocess.ts'
import { attributes, LogLines, openClient, openRegistry, PREFIX, SUBNETS, subnet, until } from './support.ts'

const CONFIG = '{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}'
const OWN = attributes('192.168.77.1', '02:00:00:00:00:01')
const HERE = subnet('10.5.1.0/24')
const stall = { kind: 'stall' } as const
const pass = { kind: 'pass' } as const

let etcd: EtcdProcess
let proxy: TcpProxy
let client: EtcdClient
let registry: Registry
let log: LogLines
let stop: AbortController

beforeEach(async () => {
  etcd = await EtcdProcess.start()
  const { hostname: host, port } = new URL(etcd.url)
  proxy = await TcpProxy.listen({ host, port: 0 }, { host, port: Number(port) })
  client = openClient(`http://${host}:${proxy.port}`, { vigilMs: 1_000, doubtMs: 1_000 })
  registry = openRegistry(client)
  log = new LogLines()
  stop = new AbortController()
  await put(`${PREFIX}/config`, CONFIG)
})
afterEach(async () => {
  stop.abort()
  client.close()
  await proxy.close()
  await etcd.remove()
})

async function ask(method: string, key: string, form?: Record<string, string>): Promise<Response> {
  const body = form === undefined ? {} : { body: new URLSearchParams(form) }
  return await fetch(`${etcd.url}/v2/keys${key}`, { method, ...body })
}
const put = (key: string, value: string) => ask('PUT', key, { value })

/** The keys of all leases, not by way of the proxy. */
async function leaseKeys(): Promise<string[]> {
  const { node } = (await (await ask('GET', SUBNETS)).json()) as { node?: { nodes?: { key: string }[] } }
  return (node?.nodes ?? []).map(({ key }) => key.slice(SUBNETS.length + 1))
}

/** How often etcd has been asked, by its own count; what was refused counts. */
async function counts(): Promise<{ creates: number; deletes: number }> {
  const stats = (await (await fetch(`${etcd.url}/v2/stats/store`)).json()) as Record<string, number>
  const sum = (...names: string[]) => names.reduce((total, name) => total + (stats[name] ?? 0), 0)
  return {
    creates: sum('createSuccess', 'createFail'),
    deletes: sum('compareAndDeleteSuccess', 'compareAndDeleteFail'),
  }
}

/** Answers get as far as the proxy; then whoever waits for them waits for nothing, and what comes later is served. */
async function loseAnswer<T>(begin: () => Promise<T>): Promise<{ readonly waiting: Promise<T> }> {
  await proxy.set({ toClient: stall })
  const waiting = begin()
  await until('the answer is at the proxy', async () => (await proxy.stats()).held > 0)
  await proxy.strand()
  await proxy.set({ toClient: pass })
  return { waiting }
}

/** Several connections are kept, and none of them leads anywhere any more. */
async function strandKept(): Promise<void> {
  await Promise.all(Array.from({ length: 4 }, () => registry.getConfig(stop.signal)))
  // On a busy machine one may have been doubted, and the others closed.
  expect((await proxy.stats()).open).toBeGreaterThan(0)
  await proxy.strand()
}

/** Leases with padding that etcd takes and nobody reads, `megabytes` in all. */
async function fill(megabytes: number): Promise<number> {
  const padding = 'x'.repeat(100_000)
  const count = megabytes * 10
  for (let i = 0; i < count; i++) {
    await put(`${SUBNETS}/10.5.${i + 100}.0-24`, `{"PublicIP":"192.168.78.${i}","Padding":"${padding}"}`)
  }
  return count
}

describe('a request', () => {
  let lease: Lease
  beforeEach(async () => {
    lease = await registry.createLease(subnet('10.5.2.0/24'), OWN, stop.signal)
  })

  it.each<[what: string, send: () => Promise<unknown>, left: string[]]>([
    ['read', () => registry.readLease(lease.subnet, stop.signal), ['10.5.2.0-24']],
    ['create', () => registry.createLease(HERE, OWN, stop.signal), ['10.5.1.0-24', '10.5.2.0-24']],
    [
      'update',
      () =>
        registry.updateLease(
          { subnet: lease.subnet, attributes: OWN, prevIndex: lease.modifiedIndex, ttl: 60 },
          stop.signal,
        ),
      ['10.5.2.0-24'],
    ],
    ['delete', () => registry.deleteLease(lease.subnet, lease.modifiedIndex, stop.signal), []],
  ])('to %s does not wait for connections that lead nowhere', async (_, send, left) => {
    await strandKept()
    expectSoon(await timed(send))
    expect((await leaseKeys()).sort()).toEqual(left)
  })

  it('to delete whose answer is lost is a success', async () => {
    const { waiting } = await loseAnswer(() =>
      registry.deleteLease(lease.subnet, lease.modifiedIndex, stop.signal),
    )
    expectSoon(await timed(() => waiting))
    expect(await leaseKeys()).toEqual([])
  })
})

describe('a lease', () => {
  /** The registry, but the answer to the first creation is lost. */
  function losing(): Registry {
    let lost = false
    const createLease: Registry['createLease'] = async (...args) => {
      const create = () => registry.createLease(...args)
      if (lost) return await create()
      lost = true
      return await (await loseAnswer(create)).waiting
    }
    return {
      createLease,
      getConfig: (...args) => registry.getConfig(...args),
      listLeases: (...args) => registry.listLeases(...args),
      readLease: (...args) => registry.readLease(...args),
      updateLease: (...args) => registry.updateLease(...args),
      deleteLease: (...args) => registry.deleteLease(...args),
      watch: (...args) => registry.watch(...args),
      watchConfig: (...args) => registry.watchConfig(...args),
    }
  }

  it('whose creation was answered to nobody is found, and there is no second one', async () => {
    let lease: Lease | undefined
    const acquire = async (): Promise<void> => {
      ;({ lease } = await acquireLease({
        registry: losing(),
        config: parseNetworkConfig(CONFIG),
        publicIP: OWN.publicIP,
        attributes: () => OWN,
        previousSubnet: undefined,
        underlay: [],
        findRival: async () => undefined,
        signal: stop.signal,
        clock: systemClock,
        log,
      }))
    }
    expectSoon(await timed(acquire))
    expect(await leaseKeys()).toEqual([leaseKey(lease?.subnet ?? HERE)])
    expect(log.matching(/^(warn|error)/)).toEqual([])
  })

  it('that is claimed again, with the answer lost, is not taken for that of a twin', async () => {
    const lease = await registry.createLease(HERE, OWN, stop.signal)
    const network = subnet('10.5.0.0/16')
    const keeping = { registry: losing(), lease, network, marginMinutes: 60, clock: systemClock, log }
    const keeper = new LeaseKeeper(keeping)
    await ask('DELETE', `${SUBNETS}/${leaseKey(HERE)}`)
    keeper.observe({ kind: 'snapshot', leases: [], bad: [], index: 0, replaced: false })
    const running = keeper.run(stop.signal)
    const claimed = (): boolean => keeper.lease.modifiedIndex > lease.modifiedIndex
    expectSoon(await timed(() => until('the lease is back', claimed)))
    expect(await leaseKeys()).toEqual([leaseKey(HERE)])
    expect(log.matching(/^error/)).toEqual([])
    stop.abort()
    await running
  })
})

describe('a list', () => {
  it('that stalls in the middle is asked for again', async () => {
    const count = await fill(1)
    await proxy.set({ toClient: { kind: 'stall', after: 200_000 } })
    const listed = registry.listLeases(stop.signal)
    await until('the rest is at the proxy', async () => (await proxy.stats()).held > 0)
    await proxy.strand()
    await proxy.set({ toClient: pass })
    expectSoon(await timed(() => listed))
    expect((await listed).leases).toHaveLength(count)
  })

  it('of which a byte comes now and then is asked for again', async () => {
    const count = await fill(1)
    const head = 'HTTP/1.1 200 OK\r\nX-Etcd-Index: 5\r\nTransfer-Encoding: chunked\r\n\r\n'
    await proxy.set({ door: { bytes: head, endless: '1\r\n \r\n' } })
    const listed = registry.listLeases(stop.signal)
    await until('it is answered', async () => (await proxy.stats()).answered > 0)
    await proxy.set({ door: 'open' })
    expectSoon(await timed(() => listed))
    expect((await listed).leases).toHaveLength(count)
  })

  it('that is on its way for long is not disturbed', async () => {
    const count = await fill(4)
    await proxy.set({ toClient: { kind: 'throttle', rate: 1_000_000 } })
    const begin = performance.now()
    const { leases } = await registry.listLeases(stop.signal)
    expect(performance.now() - begin).toBeGreaterThan(4_000)
    expect(leases).toHaveLength(count)
    expect((await proxy.stats()).accepted).toBe(1)
  })
})

it('an etcd that takes three seconds for each answer is asked once for each thing', async () => {
  const other = await registry.createLease(subnet('10.5.2.0/24'), OWN, stop.signal)
  const before = await counts()
  await proxy.set({ toClient: { kind: 'slow', delay: 3_000 } })
  // One after the other, so that each is answered while the next is still waiting.
  const created = registry.createLease(HERE, OWN, stop.signal)
  await until('etcd has created it', async () => (await counts()).creates > before.creates)
  const deleted = registry.deleteLease(other.subnet, other.modifiedIndex, stop.signal)
  await until('etcd has deleted it', async () => (await counts()).deletes > before.deletes)
  const listed = registry.listLeases(stop.signal)
  await Promise.all([created, deleted, listed])
  expect((await listed).leases).toEqual([expect.objectContaining({ subnet: HERE })])
  const { creates, deletes } = await counts()
  expect({ creates: creates - before.creates, deletes: deletes - before.deletes }).toEqual({
    creates: 1,
    deletes: 1,
  })
})
