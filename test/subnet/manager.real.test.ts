import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { systemClock } from '../../src/clock.ts'
import { formatSubnet } from '../../src/ip.ts'
import { type AcquiredLease, acquireLease, waitForConfig } from '../../src/subnet/acquire.ts'
import type { EtcdClient } from '../../src/subnet/etcd/client.ts'
import { LeaseKeeper, LeaseLostError } from '../../src/subnet/keeper.ts'
import { leaseKey } from '../../src/subnet/leasecodec.ts'
import type { Registry } from '../../src/subnet/registry.ts'
import { startOf, watchLeases } from '../../src/subnet/watch.ts'
import { EtcdProcess } from './etcdprocess.ts'
import {
  attributes,
  ip,
  LogLines,
  openClient,
  openRegistry,
  PREFIX,
  SUBNETS,
  subnet,
  until,
} from './support.ts'

const RIVAL = '{"PublicIP":"192.168.77.9"}'

describe('acquiring and keeping a lease in a real etcd', () => {
  let etcd: EtcdProcess
  let client: EtcdClient
  let registry: Registry
  let log: LogLines
  let stop: AbortController
  let running: Promise<unknown> | undefined

  beforeEach(async () => {
    etcd = await EtcdProcess.start()
    client = openClient(etcd.url)
    registry = openRegistry(client)
    log = new LogLines()
    stop = new AbortController()
    running = undefined
    await put(`${PREFIX}/config`, { value: '{"Network":"10.5.0.0/20","Backend":{"Type":"vxlan"}}' })
  })
  afterEach(async () => {
    stop.abort()
    await running?.catch(() => undefined)
    client.close()
    await etcd.remove()
  })

  async function put(key: string, form: Record<string, string>): Promise<void> {
    await fetch(`${etcd.url}/v2/keys${key}`, { method: 'PUT', body: new URLSearchParams(form) })
  }

  const remove = (key: string) => fetch(`${etcd.url}/v2/keys${key}?recursive=true`, { method: 'DELETE' })

  async function read(key: string): Promise<{ value?: string; ttl?: number } | undefined> {
    const response = await fetch(`${etcd.url}/v2/keys${key}`)
    return ((await response.json()) as { node?: { value?: string; ttl?: number } }).node
  }

  async function acquire(
    host = 1,
    more: { previous?: string; registry?: Registry } = {},
  ): Promise<AcquiredLease> {
    const own = attributes(`192.168.77.${host}`, '02:00:00:00:00:01')
    return await acquireLease({
      registry: more.registry ?? registry,
      config: (await waitForConfig({ registry, signal: stop.signal, clock: systemClock, log })).config,
      publicIP: own.publicIP,
      attributes: () => own,
      previousSubnet: more.previous === undefined ? undefined : subnet(more.previous),
      underlay: [],
      findRival: async () => undefined,
      signal: stop.signal,
      clock: systemClock,
      log,
    })
  }

  function keep({ lease, list }: AcquiredLease): LeaseKeeper {
    const network = subnet('10.5.0.0/20')
    const keeper = new LeaseKeeper({ registry, lease, network, marginMinutes: 60, clock: systemClock, log })
    const watching = (async () => {
      const options = { registry, signal: stop.signal, clock: systemClock, log, from: startOf(list.take()) }
      for await (const result of watchLeases(options)) keeper.observe(result)
    })()
    running = Promise.all([watching, keeper.run(stop.signal)])
    running.catch(() => undefined)
    return keeper
  }

  it('takes the previous subnet, and the own lease ever after', async () => {
    const first = await acquire(1, { previous: '10.5.7.0/24' })
    expect(first.lease.subnet).toEqual(subnet('10.5.7.0/24'))
    const second = await acquire(1, { previous: '10.5.8.0/24' })
    expect(second.lease.subnet).toEqual(subnet('10.5.7.0/24'))
    expect(second.lease.modifiedIndex).toBeGreaterThan(first.lease.modifiedIndex)
  })

  it('fits fifteen nodes that start at once into fifteen subnets', async () => {
    const clients = Array.from({ length: 15 }, () => openClient(etcd.url))
    const acquired = await Promise.all(
      clients.map((each, i) => acquire(i + 1, { registry: openRegistry(each) })),
    )
    for (const each of clients) each.close()
    expect(new Set(acquired.map(({ lease }) => formatSubnet(lease.subnet))).size).toBe(15)
  })

  it('renews a lease that runs out, claims it again when it was deleted, and gives it up to another node', async () => {
    const acquired = await acquire()
    const { subnet: own, attributes: said, modifiedIndex: prevIndex } = acquired.lease
    const key = `${SUBNETS}/${leaseKey(own)}`
    const short = await registry.updateLease(
      { subnet: own, attributes: said, prevIndex, ttl: 5 },
      stop.signal,
    )
    const keeper = keep({ ...acquired, lease: short })
    await until('the renewal', async () => ((await read(key))?.ttl ?? 0) > 86_000)
    for (const victim of [key, SUBNETS, PREFIX]) {
      await remove(victim)
      await until('it is back', async () => (await read(key))?.value?.includes('192.168.77.1') === true)
    }
    await until('the keeper knows', () => keeper.lease.modifiedIndex > short.modifiedIndex + 2)
    await put(key, { value: RIVAL, ttl: '1000' })
    await expect(running).rejects.toThrow(LeaseLostError)
    expect((await read(key))?.value).toBe(RIVAL)
  })

  it('gets its lease back into a store that was lost, and says which node has it when another was faster', async () => {
    const acquired = await acquire()
    const key = `${SUBNETS}/${leaseKey(acquired.lease.subnet)}`
    const keeper = keep(acquired)
    await until('it is kept', () => log.matching(/^info Waiting for/).length > 0)
    await etcd.stop()
    etcd.wipe()
    await etcd.start()
    await until('it is back', async () => (await read(key))?.value?.includes('192.168.77.1') === true)
    expect(keeper.lease.attributes.publicIP).toBe(ip('192.168.77.1'))
    await etcd.stop('SIGTERM')
    etcd.wipe()
    await etcd.start()
    await put(key, { value: RIVAL, ttl: '1000' })
    const outcome = running?.then(
      () => 'kept',
      (error: unknown) => (error instanceof LeaseLostError ? 'lost' : String(error)),
    )
    // Either we were back first and saw it taken, or it was taken already: it is the other node's in both cases.
    await expect(outcome).resolves.toBe('lost')
    expect((await read(key))?.value).toBe(RIVAL)
  })
})
