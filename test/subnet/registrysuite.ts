import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { systemClock } from '../../src/clock.ts'
import type { EtcdClient } from '../../src/subnet/etcd/client.ts'
import {
  EcodeEventIndexCleared,
  EcodeNodeExist,
  EcodeTestFailed,
  isEtcdCode,
} from '../../src/subnet/etcd/error.ts'
import type { LeaseWatchResult } from '../../src/subnet/lease.ts'
import type { Registry } from '../../src/subnet/registry.ts'
import { startOf, type WatchStart, watchLeases } from '../../src/subnet/watch.ts'
import { attributes, LogLines, openClient, openRegistry, PREFIX, SUBNETS, subnet, until } from './support.ts'

/** An etcd the suite can be held against, in memory or real. */
export interface Store {
  readonly url: string
  stop(): Promise<void>
  start(): Promise<void>
  /** Loses all data; while stopped. */
  wipe(): void
  remove(): Promise<void>
}

const MAC = '8a:61:82:e3:60:74'
const VALUE = `{"PublicIP":"192.168.77.1","BackendType":"vxlan","BackendData":{"VtepMAC":"${MAC}"}}`

/** What both the fake and the real etcd must do for the registry and the watch. */
export function registrySuite(name: string, open: () => Promise<Store>): void {
  describe(`registry and watch against ${name}`, () => {
    let store: Store
    let client: EtcdClient
    let registry: Registry
    let log: LogLines
    let stop: AbortController
    let signal: AbortSignal

    beforeEach(async () => {
      store = await open()
      client = openClient(store.url)
      registry = openRegistry(client)
      log = new LogLines()
      stop = new AbortController()
      signal = stop.signal
    })
    afterEach(async () => {
      stop.abort()
      client.close()
      await store.remove()
    })

    async function raw(
      method: string,
      key: string,
      form?: Record<string, string>,
    ): Promise<Record<string, unknown>> {
      const body = form === undefined ? {} : { body: new URLSearchParams(form) }
      const response = await fetch(`${store.url}/v2/keys${key}`, { method, ...body })
      return (await response.json()) as Record<string, unknown>
    }

    const put = (key: string, value: string) => raw('PUT', `${SUBNETS}/${key}`, { value })

    interface Watching {
      readonly results: LeaseWatchResult[]
      readonly events: string[]
      readonly done: Promise<void>
    }

    function watching(from?: WatchStart): Watching {
      const results: LeaseWatchResult[] = []
      const events: string[] = []
      const options = { registry, signal, clock: systemClock, log, ...(from === undefined ? {} : { from }) }
      const done = (async () => {
        for await (const result of watchLeases(options)) {
          results.push(result)
          if (result.kind === 'events') for (const event of result.events) events.push(JSON.stringify(event))
        }
      })()
      return { results, events, done }
    }

    it('gives the config as it was written', async () => {
      await expect(registry.getConfig(signal)).rejects.toMatchObject({ kind: 'etcd', errorCode: 100 })
      await raw('PUT', `${PREFIX}/config`, { value: '{"Network":"10.5.0.0/16"}' })
      const { text, index, clusterId } = await registry.getConfig(signal)
      expect(text).toBe('{"Network":"10.5.0.0/16"}')
      expect(index).toBeGreaterThan(0)
      expect(clusterId).toMatch(/^[0-9a-f]+$/)
    })

    it('tells when the config is written, and nothing of other keys', async () => {
      await raw('PUT', `${PREFIX}/config`, { value: '{}' })
      const { index, clusterId } = await registry.getConfig(signal)
      const wait = { waitIndex: index + 1, clusterId }
      const waiting = registry.watchConfig(wait, signal)
      await put('10.5.1.0-24', VALUE)
      const brief = openRegistry(client, 20)
      await expect(brief.watchConfig({ ...wait, waitIndex: index + 2 }, signal)).resolves.toMatchObject({
        kind: 'idle',
        index: index + 1,
        waited: true,
      })
      await raw('PUT', `${PREFIX}/config`, { value: '{"Network":"10.5.0.0/16"}' })
      await expect(waiting).resolves.toEqual({ kind: 'changed' })
      await raw('DELETE', `${PREFIX}/config`)
      await expect(registry.watchConfig({ ...wait, waitIndex: index + 3 }, signal)).resolves.toEqual({
        kind: 'changed',
      })
      await expect(registry.watchConfig({ ...wait, waitIndex: index + 900 }, signal)).resolves.toEqual({
        kind: 'changed',
      })
    })

    it('lists nothing, at an index, while there is no directory', async () => {
      const list = await registry.listLeases(signal)
      expect(list).toMatchObject({ leases: [], bad: [] })
      const { modifiedIndex } = await registry.createLease(
        subnet('10.5.33.0/24'),
        attributes('192.168.77.1'),
        signal,
      )
      expect(modifiedIndex).toBe(list.index + 1)
    })

    it('creates a lease with the bytes and the TTL of flannel, and refuses a second one', async () => {
      const own = attributes('192.168.77.1', MAC)
      const lease = await registry.createLease(subnet('10.5.33.0/24'), own, signal)
      expect(lease).toMatchObject({ subnet: subnet('10.5.33.0/24'), attributes: own, ttl: 86_400 })
      const { node } = await raw('GET', `${SUBNETS}/10.5.33.0-24`)
      expect(node).toMatchObject({ value: VALUE, ttl: 86_400, modifiedIndex: lease.modifiedIndex })
      const again = await registry
        .createLease(subnet('10.5.33.0/24'), own, signal)
        .catch((error: unknown) => error)
      expect(isEtcdCode(again, EcodeNodeExist)).toBe(true)
    })

    it('lists good and bad leases apart', async () => {
      await put('10.5.1.0-24', VALUE)
      await put('10.5.2.0-24', 'garbage')
      await put('10.5.3.7-24', VALUE)
      await put('foo', VALUE)
      await put('10.5.4.0-24/deeper', VALUE)
      const list = await registry.listLeases(signal)
      expect(list.leases.map((lease) => lease.subnet)).toEqual([subnet('10.5.1.0/24')])
      expect(list.leases[0]?.ttl).toBeUndefined()
      expect(list.bad.map(({ key }) => key).sort()).toEqual([
        '10.5.2.0-24',
        '10.5.3.7-24',
        '10.5.4.0-24',
        'foo',
      ])
    })

    it('updates only what stands where it stood', async () => {
      const own = attributes('192.168.77.1', MAC)
      const at = subnet('10.5.33.0/24')
      const first = await registry.createLease(at, own, signal)
      const update = { subnet: at, attributes: own, prevIndex: first.modifiedIndex, ttl: 100 }
      const second = await registry.updateLease(update, signal)
      expect(second).toMatchObject({ ttl: 100 })
      expect(second.modifiedIndex).toBeGreaterThan(first.modifiedIndex)
      const stale = await registry.updateLease(update, signal).catch((error: unknown) => error)
      expect(isEtcdCode(stale, EcodeTestFailed)).toBe(true)
      const reserved = await registry.updateLease(
        { ...update, prevIndex: second.modifiedIndex, ttl: undefined },
        signal,
      )
      expect(reserved.ttl).toBeUndefined()
      expect(await registry.readLease(at, signal)).toMatchObject({ kind: 'lease', lease: { ttl: undefined } })
    })

    it('takes a lease whose time is over, until etcd drops it, for one that ends and for no reservation', async () => {
      const seen = new Set<number | undefined>()
      // The moment is half a second long at most, and may be over before anybody looks.
      for (let tries = 0; seen.size < 2 && tries < 10; tries++) {
        await raw('PUT', `${SUBNETS}/10.5.2.0-24`, { value: VALUE, ttl: '1' })
        for (;;) {
          const record = await registry.readLease(subnet('10.5.2.0/24'), signal)
          if (record.kind !== 'lease') break
          seen.add(record.lease.ttl)
        }
      }
      expect([...seen]).toEqual([1, 0])
    })

    it('reads one lease: absent, there, unreadable', async () => {
      const at = subnet('10.5.33.0/24')
      expect(await registry.readLease(at, signal)).toEqual({ kind: 'absent' })
      await put('10.5.33.0-24', VALUE)
      expect(await registry.readLease(at, signal)).toMatchObject({ kind: 'lease' })
      await put('10.5.33.0-24', '{"PublicIP":"::1"}')
      const record = await registry.readLease(at, signal)
      expect(record).toMatchObject({ kind: 'bad', modifiedIndex: expect.any(Number) })
    })

    it('deletes only what stands where it stood, and takes gone for done', async () => {
      const at = subnet('10.5.33.0/24')
      const lease = await registry.createLease(at, attributes('192.168.77.1'), signal)
      const stale = await registry
        .deleteLease(at, lease.modifiedIndex - 1, signal)
        .catch((error: unknown) => error)
      expect(isEtcdCode(stale, EcodeTestFailed)).toBe(true)
      await registry.deleteLease(at, lease.modifiedIndex, signal)
      await registry.deleteLease(at, lease.modifiedIndex, signal)
      expect(await registry.readLease(at, signal)).toEqual({ kind: 'absent' })
    })

    it('waits for one event, from the past or to come', async () => {
      const { index } = await registry.listLeases(signal)
      const wait = { waitIndex: index + 1, clusterId: '' }
      const coming = registry.watch(wait, signal)
      await put('10.5.1.0-24', VALUE)
      await put('10.5.2.0-24', VALUE)
      const first = await coming
      expect(first).toMatchObject({ kind: 'event', event: { kind: 'put' }, index: index + 1 })
      expect(await registry.watch(wait, signal)).toMatchObject({
        kind: 'event',
        index: index + 1,
        storeIndex: index + 2,
      })
    })

    it('answers 401 once the history is past', async () => {
      const { index } = await registry.listLeases(signal)
      await fill(1_005)
      const error = await registry
        .watch({ waitIndex: index + 1, clusterId: '' }, signal)
        .catch((cause: unknown) => cause)
      expect(isEtcdCode(error, EcodeEventIndexCleared)).toBe(true)
    })

    it('tells put, update, delete, expiry and garbage apart, each once and in order', async () => {
      const { events, done } = watching(startOf(await registry.listLeases(signal)))
      const at = subnet('10.5.1.0/24')
      const lease = await registry.createLease(at, attributes('192.168.77.1'), signal)
      await put('10.5.1.0-24', 'garbage')
      await put('foo', 'bar')
      await raw('DELETE', `${SUBNETS}/foo`)
      const { modifiedIndex: prevIndex } = await registry.updateLease(
        { subnet: at, attributes: lease.attributes, prevIndex: lease.modifiedIndex + 1, ttl: undefined },
        signal,
      )
      await registry.deleteLease(at, prevIndex, signal)
      await raw('PUT', `${SUBNETS}/10.5.2.0-24`, { value: VALUE, ttl: '1' })
      await until('all events, the expiry last', () => events.length === 8)
      const kinds = events
        .map((event) => JSON.parse(event))
        .map(({ kind, expired }) => `${kind}${expired ? '!' : ''}`)
      expect(kinds).toEqual(['put', 'bad', 'bad', 'mended', 'put', 'delete', 'put', 'delete!'])
      stop.abort()
      await done
    })

    it('begins with a snapshot and goes on with a burst, none missing', async () => {
      await put('10.5.0.0-24', VALUE)
      const { results, done } = watching()
      await until('the snapshot', () => results.length > 0)
      await fill(300)
      const seen = () =>
        new Set(
          results.flatMap((result) => {
            const leases =
              result.kind === 'snapshot'
                ? result.leases
                : result.events.flatMap((event) => (event.kind === 'put' ? [event.lease] : []))
            return leases.map((lease) => lease.subnet.address)
          }),
        ).size
      await until('all leases', () => seen() === 301)
      expect(results[0]).toMatchObject({ kind: 'snapshot', leases: [{ subnet: subnet('10.5.0.0/24') }] })
      stop.abort()
      await done
    })

    it('takes a snapshot when the directory is removed', async () => {
      await put('10.5.1.0-24', VALUE)
      const { results, done } = watching()
      await until('the first snapshot', () => results.length === 1)
      await raw('DELETE', `${PREFIX}?recursive=true`)
      await until('the second', () => results.length === 2)
      expect(results[1]).toMatchObject({ kind: 'snapshot', leases: [] })
      stop.abort()
      await done
    })

    it('goes on where it was after etcd was away', async () => {
      await raw('PUT', `${PREFIX}/config`, { value: '{}' })
      const { results, events, done } = watching()
      await until('the snapshot', () => results.length === 1)
      await store.stop()
      await until('the failure is noticed', () => log.matching(/^error Watch subnets: /).length > 0)
      await store.start()
      await put('10.5.1.0-24', VALUE)
      await until('the event', () => events.length === 1)
      expect(results.filter(({ kind }) => kind === 'snapshot')).toHaveLength(1)
      // As the process dies, and that nobody listens any more: each said once.
      const errors = log.matching(/^error /)
      expect(errors.length).toBeLessThanOrEqual(2)
      expect(new Set(errors).size).toBe(errors.length)
      expect(log.matching(/^info Watching subnet leases again after \d+ failed attempts/)).toHaveLength(1)
      stop.abort()
      await done
    })

    it('notices a store that was lost and is behind, and one that has caught up again', async () => {
      await raw('PUT', `${PREFIX}/config`, { value: '{}' })
      await fill(20)
      const { results, done } = watching()
      await until('the snapshot', () => results.length === 1)
      for (const writes of [1, 60]) {
        log.lines.length = 0
        results.length = 0
        await store.stop()
        await until('the failure is noticed', () => log.matching(/^error Watch subnets: /).length > 0)
        store.wipe()
        await store.start()
        await raw('PUT', `${PREFIX}/config`, { value: '{}' })
        // Never the very lease that was seen last, at the very index: nobody could tell such a store from the one that was lost.
        const value = VALUE.replace(/\d+"/, `${writes}"`)
        for (let i = 0; i < writes; i++) await put('10.9.0.0-24', value)
        await until('the new snapshot', () => results.some(({ kind }) => kind === 'snapshot'))
        await until('the lease', () =>
          results.some((result) => (result.kind === 'snapshot' ? result.leases : result.events).length > 0),
        )
      }
      stop.abort()
      await done
    })

    it('catches up by a snapshot when more than the history was missed', async () => {
      const from = startOf(await registry.listLeases(signal))
      await fill(1_010)
      const { results, done } = watching(from)
      await until('the snapshot', () => results.length === 1)
      expect(results[0]).toMatchObject({ kind: 'snapshot' })
      expect(
        log.matching(/^warn Watch of subnet leases failed because etcd index outside history window/),
      ).toHaveLength(1)
      stop.abort()
      await done
    })

    it('ends at once when aborted', async () => {
      const { results, done } = watching()
      await until('the snapshot', () => results.length === 1)
      stop.abort()
      await done
      expect(log.matching(/^(warn|error)/)).toEqual([])
    })

    /** Writes n leases, 10.5.0.0-24 upwards and from 10.6 on, as fast as the store takes them. */
    async function fill(n: number): Promise<void> {
      const writers = Array.from({ length: 8 }, async (_, writer) => {
        for (let i = writer; i < n; i += 8) await put(`10.${6 + (i >> 8)}.${i & 255}.0-24`, VALUE)
      })
      await Promise.all(writers)
    }
  })
}
