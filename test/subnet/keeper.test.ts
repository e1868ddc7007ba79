import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { systemClock } from '../../src/clock.ts'
import type { EtcdClient } from '../../src/subnet/etcd/client.ts'
import { goDuration, LeaseKeeper, LeaseLostError } from '../../src/subnet/keeper.ts'
import type { LeaseWatchResult } from '../../src/subnet/lease.ts'
import type { Registry } from '../../src/subnet/registry.ts'
import { watchLeases } from '../../src/subnet/watch.ts'
import { FakeEtcd } from '../fakes/etcd.ts'
import {
  attributes,
  LogLines,
  ManualClock,
  openClient,
  openRegistry,
  SUBNETS,
  subnet,
  until,
} from './support.ts'

const NETWORK = subnet('10.5.0.0/16')
const SUBNET = subnet('10.5.33.0/24')
const KEY = `${SUBNETS}/10.5.33.0-24`
const OWN = attributes('192.168.77.1', 'aa:aa:aa:aa:aa:aa')
const OWN_VALUE =
  '{"PublicIP":"192.168.77.1","BackendType":"vxlan","BackendData":{"VtepMAC":"aa:aa:aa:aa:aa:aa"}}'
const TWIN_VALUE = OWN_VALUE.replace('aa:aa:aa:aa:aa:aa', 'bb:bb:bb:bb:bb:bb')
const RIVAL_VALUE = OWN_VALUE.replace('77.1', '77.2')
const MINUTE = 60_000
const HOUR = 60 * MINUTE

let clock: ManualClock
let etcd: FakeEtcd
let client: EtcdClient
let registry: Registry
let log: LogLines
let stop: AbortController
let keeper: LeaseKeeper
let running: Promise<unknown>
const results: LeaseWatchResult[] = []

/** Starts a keeper, with a watch that feeds it as `main` does. */
async function keep({
  marginMinutes = 60,
  takenOver = false,
  ttl,
}: {
  marginMinutes?: number
  takenOver?: boolean
  ttl?: number | 'none'
} = {}): Promise<void> {
  let lease = await registry.createLease(SUBNET, OWN, stop.signal)
  if (ttl !== undefined) {
    const prevIndex = lease.modifiedIndex
    const seconds = ttl === 'none' ? undefined : ttl
    lease = await registry.updateLease(
      { subnet: SUBNET, attributes: OWN, prevIndex, ttl: seconds },
      stop.signal,
    )
  }
  keeper = new LeaseKeeper({ registry, lease, takenOver, network: NETWORK, marginMinutes, clock, log })
  results.length = 0
  const watching = (async () => {
    for await (const result of watchLeases({
      registry,
      signal: stop.signal,
      clock: systemClock,
      log: new LogLines(),
    })) {
      results.push(result)
      keeper.observe(result)
    }
  })()
  running = Promise.all([watching, keeper.run(stop.signal)])
  // a failure is looked at by the test that expects it
  running.catch(() => undefined)
  await until('the snapshot', () => results.length > 0)
}

/** Turns both clocks, and lets the keeper see. */
function pass(ms: number): void {
  etcd.advance(ms)
  clock.advance(ms)
}

const puts = () => etcd.requests.filter(({ line }) => line.startsWith('PUT')).length
const settled = () => until('the keeper sleeps', () => clock.sleeping === 1)

beforeEach(async () => {
  clock = new ManualClock()
  etcd = new FakeEtcd()
  await etcd.start()
  client = openClient(etcd.url)
  registry = openRegistry(client)
  log = new LogLines()
  stop = new AbortController()
})
afterEach(async () => {
  stop.abort()
  await running.catch(() => undefined)
  client.close()
  await etcd.stop()
})

describe('renewal', () => {
  it('comes when the margin is reached, and not before', async () => {
    await keep()
    await settled()
    expect(log.lines).toEqual(['info Waiting for 23h0m0s to renew lease'])
    pass(23 * HOUR - 1_000)
    expect(etcd.ttl(KEY)).toBe(3_601)
    expect(puts()).toBe(1)
    pass(1_000)
    await until('the renewal', () => etcd.ttl(KEY) === 86_400)
    expect(etcd.requests.at(-1)).toBeDefined()
    const renewal = etcd.requests.filter(({ line }) => line.startsWith('PUT')).at(-1)
    expect(renewal?.line).toMatch(/10\.5\.33\.0-24\?prevIndex=4$/)
    expect(renewal?.body).toBe(`ttl=86400&value=${encodeURIComponent(OWN_VALUE)}`)
    await until('the line', () => log.matching(/^info Lease renewed, new expiration: 2026-/).length === 1)
    await settled()
    pass(23 * HOUR)
    await until('the next', () => keeper.renewals === 2)
  })

  it('comes every minute with a margin of 1439', async () => {
    await keep({ marginMinutes: 1_439 })
    for (let minute = 1; minute <= 3; minute++) {
      await settled()
      pass(MINUTE)
      await until('a renewal', () => keeper.renewals === minute)
    }
  })

  it('comes at once when less life than the margin is left', async () => {
    await keep({ ttl: 100 })
    await until('the renewal', () => etcd.ttl(KEY) === 86_400)
  })

  it('never comes for a reservation, until that gets a TTL', async () => {
    await keep({ ttl: 'none' })
    await settled()
    pass(1_000 * HOUR)
    await settled()
    expect(keeper.renewals).toBe(0)
    expect(keeper.secondsLeft).toBe(Number.POSITIVE_INFINITY)
    expect(log.lines).toEqual(['info Lease (10.5.33.0/24) is a reservation and is not renewed'])
    etcd.put(KEY, OWN_VALUE, { ttl: 7_200 })
    await until('the TTL is seen', () => keeper.lease.ttl === 7_200)
    await settled()
    pass(HOUR)
    await until('the renewal', () => etcd.ttl(KEY) === 86_400)
  })

  it('is tried again within 30 s while etcd is away, said once, and soon after it is back', async () => {
    await keep()
    await settled()
    await etcd.stop()
    clock.advance(23 * HOUR)
    for (let i = 0; i < 8; i++) {
      await settled()
      clock.advance(30_000)
    }
    expect(log.matching(/^error Error renewing lease \(trying again/)).toHaveLength(1)
    await etcd.start()
    // The watch comes back by itself and hurries the keeper, without any event.
    clock.advance(1_000)
    await until('the renewal', () => keeper.renewals === 1)
    expect(log.matching(/^info Renewed the lease after \d+ failed attempts/)).toHaveLength(1)
  })

  it('whose answer was lost is recognised as done', async () => {
    await keep()
    await settled()
    let lost = 0
    etcd.intercept = ({ method, url, socket }, response) => {
      if (method !== 'PUT' || lost++ > 0 || url === undefined) return false
      etcd.put(KEY, OWN_VALUE, { ttl: 86_400 })
      socket.destroy()
      response.end()
      return true
    }
    pass(23 * HOUR)
    await until('the failure', () => log.matching(/^error Error renewing lease/).length === 1)
    await settled()
    clock.advance(1_000)
    await until('it is known', () => keeper.secondsLeft > 86_000)
    expect(log.matching(/lost|overwritten/)).toEqual([])
  })
})

describe('the own key gone', () => {
  it.each([
    ['deleted', () => void etcd.delete(KEY)],
    ['deleted with all others', () => void etcd.delete(SUBNETS)],
    [
      'deleted while somebody claims the whole network',
      () => {
        etcd.put(`${SUBNETS}/10.0.0.0-8`, RIVAL_VALUE)
        etcd.delete(KEY)
      },
    ],
    ['expired', () => etcd.advance(86_401_000)],
  ])('%s: the same subnet is claimed again at once', async (_, remove) => {
    await keep()
    await settled()
    remove()
    await until('it is back', () => etcd.get(KEY) === OWN_VALUE)
    expect(etcd.ttl(KEY)).toBe(86_400)
    await until(
      'the line',
      () =>
        log.matching(/^warn Lease \(10\.5\.33\.0\/24\) was deleted or had expired; claimed it again/)
          .length === 1,
    )
    expect(keeper.lease.modifiedIndex).toBeGreaterThan(4)
  })

  it('while nobody watched: the snapshot tells', async () => {
    await keep()
    await settled()
    await etcd.stop()
    etcd.delete(KEY)
    for (let i = 0; i < 1_100; i++) etcd.put('/elsewhere', String(i))
    await etcd.start()
    await until('it is back', () => etcd.get(KEY) === OWN_VALUE)
  })

  it('from a wiped store too', async () => {
    await keep()
    await settled()
    await etcd.stop()
    etcd.wipe()
    await etcd.start()
    await until('it is back', () => etcd.get(KEY) === OWN_VALUE)
  })

  it.each([
    ['the subnet', KEY, RIVAL_VALUE],
    ['a wider subnet', `${SUBNETS}/10.5.32.0-20`, RIVAL_VALUE],
  ])('and %s taken by another node: lost, and nothing is written', async (_, key, value) => {
    await keep()
    await settled()
    await etcd.stop()
    etcd.delete(KEY)
    etcd.put(key, value)
    const before = puts()
    await etcd.start()
    await expect(running).rejects.toThrow(LeaseLostError)
    await expect(running).rejects.toThrow(
      /^Lease has been revoked\. Shutting down daemon\. Its subnet was 10\.5\.33\.0\/24, and 192\.168\.77\.2 holds/,
    )
    expect(etcd.get(key)).toBe(value)
    expect(puts()).toBe(before)
  })
})

describe('foreign writes', () => {
  it('of another public IP: lost', async () => {
    await keep()
    etcd.put(KEY, RIVAL_VALUE, { ttl: 100 })
    await expect(running).rejects.toThrow(/192\.168\.77\.2 holds it now/)
    expect(etcd.get(KEY)).toBe(RIVAL_VALUE)
  })

  it('found only at renewal: lost, not overwritten', async () => {
    const lease = await registry.createLease(SUBNET, OWN, stop.signal)
    keeper = new LeaseKeeper({ registry, lease, network: NETWORK, marginMinutes: 60, clock, log })
    running = keeper.run(stop.signal)
    running.catch(() => undefined)
    await settled()
    etcd.put(KEY, RIVAL_VALUE, { ttl: 864_000 })
    pass(23 * HOUR)
    await expect(running).rejects.toThrow(LeaseLostError)
    expect(etcd.get(KEY)).toBe(RIVAL_VALUE)
  })

  it('of garbage: put right', async () => {
    await keep()
    etcd.put(KEY, 'garbage')
    await until('it is right again', () => etcd.get(KEY) === OWN_VALUE)
    expect(
      log.matching(
        /^warn Lease \(10\.5\.33\.0\/24\) was overwritten, putting it right: its value cannot be read/,
      ),
    ).toHaveLength(1)
  })

  it('of somebody who makes it a reservation, by our public IP alone: it becomes one', async () => {
    await keep()
    await settled()
    etcd.put(KEY, '{"PublicIP":"192.168.77.1"}')
    await until('it is right again', () => etcd.get(KEY) === OWN_VALUE)
    expect(etcd.ttl(KEY)).toBeUndefined()
    await until(
      'the line',
      () => log.matching(/^info Lease .* is a reservation and is not renewed/).length === 1,
    )
  })

  it('of a twin with our public IP: put right once, then named loudly and left until the renewal', async () => {
    await keep()
    etcd.put(KEY, TWIN_VALUE, { ttl: 86_400 })
    await until('it is right again', () => etcd.get(KEY) === OWN_VALUE)
    await settled()
    for (let i = 0; i < 3; i++) {
      const index = etcd.put(KEY, TWIN_VALUE, { ttl: 86_400 })
      await until('it is seen', () => keeper.lease.modifiedIndex === index)
    }
    expect(etcd.get(KEY)).toBe(TWIN_VALUE)
    const errors = log.matching(/^error/)
    expect(errors).toHaveLength(1)
    expect(errors[0]).toMatch(/overwritten again, .*bb:bb:bb:bb:bb:bb.*aa:aa:aa:aa:aa:aa.*-public-ip/)
    await settled()
    pass(23 * HOUR)
    await until('the renewal', () => etcd.get(KEY) === OWN_VALUE)
  })
})

describe('a twin that takes the lease over without changing it', () => {
  /** As a second daemon on a machine with our public IP does at its start. */
  const takeOver = () => etcd.put(KEY, OWN_VALUE, { ttl: 86_400 })

  it('is answered once by another write, and named loudly when it goes on', async () => {
    await keep()
    await settled()
    const index = takeOver()
    await until('our write', () => keeper.lease.modifiedIndex > index)
    expect(
      log.matching(/^warn Lease .* overwritten, .* same public IP 192\.168\.77\.1 has taken it over/),
    ).toHaveLength(1)
    await settled()
    for (let i = 0; i < 3; i++) {
      const again = takeOver()
      await until('it is seen', () => keeper.lease.modifiedIndex === again)
    }
    expect(log.matching(/^error Lease .* overwritten again, .*-public-ip/)).toHaveLength(1)
    expect(puts()).toBe(2)
  })

  it('is answered when it writes a reservation again, too, which stays one', async () => {
    await keep({ ttl: 'none' })
    await settled()
    const index = etcd.put(KEY, OWN_VALUE)
    await until('our write', () => keeper.lease.modifiedIndex > index)
    expect(
      log.matching(/^warn Lease .* overwritten, .* same public IP 192\.168\.77\.1 has taken it over/),
    ).toHaveLength(1)
    expect(etcd.ttl(KEY)).toBeUndefined()
  })

  it.each([
    ['a lease', undefined, 86_400],
    ['a reservation', 'none', undefined],
  ] as const)('gives way itself: it took %s over a moment ago', async (_, ttl, theirs) => {
    await keep({ takenOver: true, ...(ttl === undefined ? {} : { ttl }) })
    await settled()
    const before = puts()
    etcd.put(KEY, OWN_VALUE, theirs === undefined ? {} : { ttl: theirs })
    await expect(running).rejects.toThrow(
      /^Lease has been revoked\..* a running node holds it that has the public IP 192\.168\.77\.1 too; give every node its own -public-ip$/,
    )
    expect(puts()).toBe(before)
  })

  it('does not give way an hour later', async () => {
    await keep({ takenOver: true })
    await settled()
    pass(HOUR)
    await settled()
    const index = takeOver()
    await until('our write', () => keeper.lease.modifiedIndex > index)
  })

  it('is not seen in another TTL, which people write', async () => {
    await keep()
    await settled()
    const index = etcd.put(KEY, OWN_VALUE, { ttl: 40_000 })
    await until('it is adopted', () => keeper.lease.modifiedIndex === index)
    expect(log.matching(/overwritten/)).toEqual([])
  })
})

describe('clocks', () => {
  it('that drift apart, as after a suspension, make it read what is left', async () => {
    await keep()
    await settled()
    etcd.advance(23 * HOUR)
    clock.jump(23 * HOUR)
    clock.advance(30_000)
    await until('the renewal', () => keeper.renewals === 1)
    expect(log.matching(/^info The clock jumped by 82800 s /)).toHaveLength(1)
    await settled()
    clock.jump(-3 * HOUR)
    clock.advance(30_000)
    await until('the line', () => log.matching(/^info The clock jumped by -10800 s /).length === 1)
    await settled()
    expect(keeper.renewals).toBe(1)
  })
})

describe('other attributes', () => {
  it('are written at once, with the TTL renewed', async () => {
    await keep()
    await settled()
    keeper.updateAttributes(attributes('192.168.77.9', 'aa:aa:aa:aa:aa:aa'))
    await until('the write', () => etcd.get(KEY)?.includes('192.168.77.9') === true)
    expect(etcd.ttl(KEY)).toBe(86_400)
    await settled()
    expect(log.matching(/lost|overwritten/)).toEqual([])
  })

  it.each([
    ['back', '192.168.77.1'],
    ['once more', '192.168.77.8'],
  ])('that were written without an answer are no foreign write when they change %s', async (_, last) => {
    await keep()
    await settled()
    etcd.loseAnswer('PUT')
    keeper.updateAttributes(attributes('192.168.77.9', 'aa:aa:aa:aa:aa:aa'))
    await until('the write', () => etcd.get(KEY)?.includes('192.168.77.9') === true)
    keeper.updateAttributes(attributes(last, 'aa:aa:aa:aa:aa:aa'))
    await Promise.race([
      running,
      until('the last write', () => {
        clock.advance(1_000)
        return etcd.get(KEY)?.includes(last) === true
      }),
    ])
    expect(log.matching(/lost|overwritten/)).toEqual([])
  })

  it('survive an etcd that is away', async () => {
    await keep()
    await settled()
    await etcd.stop()
    keeper.updateAttributes(attributes('192.168.77.9', 'aa:aa:aa:aa:aa:aa'))
    await until('a failure', () => log.matching(/^error/).length > 0)
    await etcd.start()
    await settled()
    clock.advance(30_000)
    await until('the write', () => etcd.get(KEY)?.includes('192.168.77.9') === true)
  })
})

it.each([
  [1_500, '1.5s'],
  [250, '250ms'],
  [60_000, '1m0s'],
  [82_799_998, '22h59m59.998s'],
  [82_800_000, '23h0m0s'],
])('goDuration(%d) is %s', (ms, text) => {
  expect(goDuration(ms)).toBe(text)
})
