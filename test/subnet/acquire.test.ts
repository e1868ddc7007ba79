import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { systemClock } from '../../src/clock.ts'
import { formatSubnet } from '../../src/ip.ts'
import {
  type AcquiredLease,
  type AcquireOptions,
  acquireLease,
  waitForConfig,
} from '../../src/subnet/acquire.ts'
import { parseNetworkConfig } from '../../src/subnet/config.ts'
import type { EtcdClient } from '../../src/subnet/etcd/client.ts'
import type { Registry } from '../../src/subnet/registry.ts'
import { FakeEtcd } from '../fakes/etcd.ts'
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

const MAC = '8a:61:82:e3:60:74'
const OWN = attributes('192.168.77.1', MAC)
const OWN_VALUE = `{"PublicIP":"192.168.77.1","BackendType":"vxlan","BackendData":{"VtepMAC":"${MAC}"}}`
const OLD_VALUE = '{"PublicIP":"192.168.77.1","BackendType":"host-gw"}'
const FOREIGN =
  '{"PublicIP":"192.168.77.2","BackendType":"vxlan","BackendData":{"VtepMAC":"02:00:00:00:00:02"}}'

let etcd: FakeEtcd
let client: EtcdClient
let registry: Registry
let log: LogLines
let stop: AbortController

beforeEach(async () => {
  etcd = new FakeEtcd()
  await etcd.start()
  client = openClient(etcd.url)
  registry = openRegistry(client)
  log = new LogLines()
  stop = new AbortController()
})
afterEach(async () => {
  stop.abort()
  client.close()
  await etcd.stop()
})

function acquire(more: Partial<AcquireOptions> = {}): Promise<AcquiredLease> {
  return acquireLease({
    registry,
    config: parseNetworkConfig('{"Network":"10.5.0.0/16"}'),
    publicIP: OWN.publicIP,
    attributes: () => OWN,
    previousSubnet: undefined,
    underlay: [],
    findRival: async () => undefined,
    signal: stop.signal,
    clock: systemClock,
    log,
    ...more,
  })
}

const put = (key: string, value: string, ttl?: number) =>
  etcd.put(`${SUBNETS}/${key}`, value, ttl === undefined ? {} : { ttl })
const writes = () => etcd.requests.map(({ line }) => line).filter((line) => /^(PUT|DELETE)/.test(line))

it('hands its list over once, so that nobody who waits goes on holding the leases', async () => {
  await put('10.5.7.0-24', FOREIGN)
  const { list } = await acquire()
  expect(list.take().leases).toMatchObject([{ subnet: subnet('10.5.7.0/24') }])
  expect(() => list.take()).toThrow('handed over before')
})

describe('a new lease', () => {
  it('is asked for with the requests flannel sends', async () => {
    const { lease } = await acquire()
    const key = formatSubnet(lease.subnet).replace('/', '-')
    expect(etcd.requests.map(({ line, body }) => `${line} ${body}`.trim())).toEqual([
      `GET /v2/keys${SUBNETS}?quorum=true&recursive=true&sorted=false`,
      `PUT /v2/keys${SUBNETS}/${key}?prevExist=false ttl=86400&value=${encodeURIComponent(OWN_VALUE)}`,
    ])
    expect(log.lines).toEqual([
      'info Picking subnet in range 10.5.1.0 ... 10.5.255.0',
      `info Allocated lease (${formatSubnet(lease.subnet)}) to current node (192.168.77.1) `,
    ])
    expect(etcd.get(`${SUBNETS}/${key}`)).toBe(OWN_VALUE)
    expect(lease.ttl).toBe(86_400)
  })

  it('stays away from what any key lays claim to, readable or not', async () => {
    const config = parseNetworkConfig('{"Network":"10.5.0.0/21"}')
    put('10.5.1.0-24', 'garbage')
    put('10.5.2.0-23', FOREIGN)
    put('10.5.4.9-24', FOREIGN)
    put('10.5.5.64-26', FOREIGN)
    put('foo', FOREIGN)
    const { lease } = await acquire({ config, underlay: [{ address: 0x0a050601, length: 24 }] })
    expect(formatSubnet(lease.subnet)).toBe('10.5.7.0/24')
  })

  it('comes from another subnet when somebody was faster', async () => {
    let beaten = ''
    etcd.intercept = ({ method, url }) => {
      if (method === 'PUT' && beaten === '') {
        beaten = decodeURIComponent(new URL(url ?? '', etcd.url).pathname).slice('/v2/keys'.length)
        etcd.put(beaten, FOREIGN)
      }
      return false
    }
    const { lease } = await acquire()
    expect(beaten).not.toBe('')
    expect(etcd.get(beaten)).toBe(FOREIGN)
    expect(`${SUBNETS}/${formatSubnet(lease.subnet).replace('/', '-')}`).not.toBe(beaten)
    expect(log.matching(/^(warn|error)/)).toEqual([])
  })

  const losses: readonly [by: string, urls: () => string][] = [
    ['sent again by who lists first', () => etcd.url],
    ['sent again to another endpoint', () => `${etcd.url},${etcd.url}`],
  ]
  describe.each(losses)('whose answer was lost, %s', (_, urls) => {
    const rival = async (): Promise<string> => '02:00:00:00:00:99'
    beforeEach(() => {
      client.close()
      client = openClient(urls())
      registry = openRegistry(client)
    })

    it.each([
      ['the data of a device', OWN],
      ['no data', { ...OWN, backendType: 'host-gw', backendData: undefined }],
    ])('is known as the one already made, with %s', async (_, own) => {
      etcd.loseAnswer('PUT')
      const { lease, takenOver } = await acquire({ attributes: () => own, findRival: rival })
      expect(takenOver).toBe(false)
      expect(etcd.keys()).toEqual([`${SUBNETS}/${formatSubnet(lease.subnet).replace('/', '-')}`])
      expect(log.matching(/^info Found lease .* for current IP .*, reusing$/)).toHaveLength(1)
    })
  })

  it('that another machine with our address has just made is not taken for ours', async () => {
    const own = { ...OWN, backendType: 'host-gw', backendData: undefined }
    let made = false
    etcd.intercept = ({ method, url }) => {
      if (made || method !== 'PUT') return false
      made = true
      etcd.put(decodeURIComponent(new URL(url ?? '', etcd.url).pathname).slice('/v2/keys'.length), OLD_VALUE)
      return false
    }
    const findRival = async (): Promise<string> => '02:00:00:00:00:99'
    await expect(acquire({ attributes: () => own, findRival })).rejects.toThrow('in use by another machine')
  })
})

describe('no subnet free', () => {
  it('is not what a lease of the whole network, or of more, means', async () => {
    for (const key of ['10.5.0.0-16', '10.0.0.0-8', '0.0.0.0-0']) put(key, FOREIGN)
    const { lease } = await acquire()
    expect(formatSubnet(lease.subnet)).toMatch(/^10\.5\.\d+\.0\/24$/)
  })

  it('is said once, and a lease is taken as soon as there is one', async () => {
    const config = parseNetworkConfig('{"Network":"10.5.0.0/28","SubnetLen":30}')
    for (const last of [4, 8, 12]) put(`10.5.0.${last}-30`, FOREIGN)
    let rounds = 0
    const clock = {
      ...systemClock,
      sleep: async () => void (++rounds === 3 && etcd.delete(`${SUBNETS}/10.5.0.8-30`)),
    }
    const { lease } = await acquire({ config, clock })
    expect(formatSubnet(lease.subnet)).toBe('10.5.0.8/30')
    expect(log.matching(/^error .*out of subnets/)).toHaveLength(1)
    expect(log.matching(/^info Acquired a lease after 3 failed attempts/)).toHaveLength(1)
  })
})

describe('a lease this node has', () => {
  it('is reused, with the data of today and a full TTL', async () => {
    put('10.5.9.0-24', OLD_VALUE, 100)
    const { lease } = await acquire({ previousSubnet: subnet('10.5.8.0/24') })
    expect(formatSubnet(lease.subnet)).toBe('10.5.9.0/24')
    expect(etcd.get(`${SUBNETS}/10.5.9.0-24`)).toBe(OWN_VALUE)
    expect(etcd.ttl(`${SUBNETS}/10.5.9.0-24`)).toBe(86_400)
    expect(log.lines).toEqual(['info Found lease (10.5.9.0/24) for current IP (192.168.77.1), reusing'])
  })

  it.each<[string, string, Partial<AcquireOptions>, boolean]>([
    ['found by its address alone was perhaps taken over', OLD_VALUE, {}, true],
    ['that is in the subnet file was ours', OLD_VALUE, { previousSubnet: subnet('10.5.9.0/24') }, false],
    [
      'that is not the one in the subnet file was perhaps not',
      OLD_VALUE,
      { previousSubnet: subnet('10.5.8.0/24') },
      true,
    ],
    ['that says what our device says was ours', OWN_VALUE, {}, false],
    [
      'that says what all devices of its kind say was perhaps taken over',
      OLD_VALUE,
      { attributes: () => ({ ...OWN, backendType: 'host-gw', backendData: undefined }) },
      true,
    ],
  ])('%s', async (_, value, more, takenOver) => {
    put('10.5.9.0-24', value, 100)
    expect((await acquire(more)).takenOver).toBe(takenOver)
  })

  const EARLIER = OWN_VALUE.replace('192.168.77.1', '192.168.77.9')
  const previousSubnet = subnet('10.5.9.0/24')

  it('is found under an address that this node had before, and follows it to the new one', async () => {
    put('10.5.9.0-24', EARLIER, 100)
    const { lease, takenOver } = await acquire({ previousSubnet })
    expect([formatSubnet(lease.subnet), takenOver]).toEqual(['10.5.9.0/24', false])
    expect(etcd.get(`${SUBNETS}/10.5.9.0-24`)).toBe(OWN_VALUE)
    expect(
      log.matching(
        /^info Found lease \(10\.5\.9\.0\/24\) matching previously leased subnet, reusing; its IP was 192\.168\.77\.9, now /,
      ),
    ).toHaveLength(1)
  })

  it.each([
    ['that the subnet file does not name', EARLIER, {}],
    ['of another device', EARLIER.replace(MAC, '02:00:00:00:00:02'), { previousSubnet }],
    ['of another backend', EARLIER.replace('vxlan', 'wireguard'), { previousSubnet }],
    [
      'that says nothing of a device',
      EARLIER.replace(/,"BackendData":.*}}/, '}'),
      { previousSubnet, attributes: () => ({ ...OWN, backendData: undefined }) },
    ],
  ])('is not one under another address %s', async (_, value, more) => {
    put('10.5.9.0-24', value, 100)
    const { lease } = await acquire(more)
    expect(formatSubnet(lease.subnet)).not.toBe('10.5.9.0/24')
    expect(etcd.get(`${SUBNETS}/10.5.9.0-24`)).toBe(value)
  })

  it('tells of which backend it was, whether it was known or not', async () => {
    put('10.5.9.0-24', FOREIGN.replace('192.168.77.2', '192.168.77.1'), 100)
    expect((await acquire()).before).toBe('vxlan')
    put('10.5.9.0-24', OLD_VALUE, 100)
    expect((await acquire({ previousSubnet })).before).toBe('host-gw')
  })

  it('tells so, too, when the answer to its being written over was lost', async () => {
    put('10.5.9.0-24', OLD_VALUE, 100)
    etcd.loseAnswer('PUT')
    expect((await acquire()).before).toBe('host-gw')
  })

  it('was perhaps taken over, too, when the answer to that was lost', async () => {
    put('10.5.9.0-24', OLD_VALUE, 100)
    etcd.loseAnswer('PUT')
    expect((await acquire()).takenOver).toBe(true)
    expect(writes().length).toBeGreaterThan(1)
  })

  it.each([
    ['runs out', 100],
    ['is a reservation', undefined],
  ])(
    'and %s is not touched when another machine has its address, unless it is known as ours',
    async (_, ttl) => {
      const findRival = async (): Promise<string> => '02:00:00:00:00:99'
      put('10.5.9.0-24', OLD_VALUE, ttl)
      await expect(acquire({ findRival })).rejects.toThrow(
        'Public IP 192.168.77.1 is in use by another machine, 02:00:00:00:00:99, and nothing tells that its lease 10.5.9.0-24',
      )
      expect(writes()).toEqual([])
      await acquire({ findRival, previousSubnet: subnet('10.5.9.0/24') })
      expect(etcd.get(`${SUBNETS}/10.5.9.0-24`)).toBe(OWN_VALUE)
    },
  )

  it('that does not fit is not deleted either when another machine has its address', async () => {
    put('10.5.8.0-23', OLD_VALUE, 100)
    await expect(acquire({ findRival: async () => '02:00:00:00:00:99' })).rejects.toThrow('10.5.8.0-23')
    expect(writes()).toEqual([])
  })

  it('stays a reservation if it is one', async () => {
    put('10.5.9.0-24', OWN_VALUE)
    expect((await acquire()).lease.ttl).toBeUndefined()
    expect(etcd.ttl(`${SUBNETS}/10.5.9.0-24`)).toBeUndefined()
  })

  it('is looked at again if it changed in between', async () => {
    put('10.5.9.0-24', OWN_VALUE, 100)
    let meddled = false
    etcd.intercept = ({ method }) => {
      if (method === 'PUT' && !meddled) {
        meddled = true
        put('10.5.9.0-24', FOREIGN, 100)
      }
      return false
    }
    const { lease } = await acquire()
    expect(formatSubnet(lease.subnet)).not.toBe('10.5.9.0/24')
    expect(etcd.get(`${SUBNETS}/10.5.9.0-24`)).toBe(FOREIGN)
  })

  it.each([
    ['of another length', '10.5.8.0-23'],
    ['outside of the range', '10.5.0.0-24'],
    ['outside of the network', '10.9.1.0-24'],
  ])('and that is %s is deleted and replaced, even if it is the previous one', async (_, key) => {
    put(key, OWN_VALUE, 100)
    const { lease } = await acquire({ previousSubnet: subnet(key.replace('-', '/')) })
    expect(etcd.keys()).toEqual([`${SUBNETS}/${formatSubnet(lease.subnet).replace('/', '-')}`])
    expect(log.matching(/but not compatible with current config, deleting$/)).toHaveLength(1)
  })

  it('beside a second one: the previous one is kept, and both are named', async () => {
    put('10.5.9.0-24', OWN_VALUE, 100)
    put('10.5.10.0-24', OWN_VALUE, 100)
    const { lease } = await acquire({ previousSubnet: subnet('10.5.10.0/24') })
    expect(formatSubnet(lease.subnet)).toBe('10.5.10.0/24')
    expect(
      log.matching(/^warn Other leases have this node's public IP 192\.168\.77\.1 too: 10\.5\.9\.0\/24/),
    ).toHaveLength(1)
    expect(etcd.keys()).toHaveLength(2)
  })
})

describe('the previous subnet', () => {
  const previousSubnet = subnet('10.5.44.0/24')

  it('is leased again when it is free', async () => {
    const { lease } = await acquire({ previousSubnet })
    expect(lease.subnet).toEqual(previousSubnet)
    expect(log.lines[0]).toBe('info Found previously leased subnet (10.5.44.0/24), reusing')
  })

  it.each([
    ['the subnet itself', '10.5.44.0-24'],
    ['a wider one', '10.5.44.0-22'],
    ['a part of it', '10.5.44.64-26'],
  ])('is not taken from a node that leases %s', async (_, key) => {
    put(key, FOREIGN, 100)
    const { lease } = await acquire({ previousSubnet })
    expect(lease.subnet).not.toEqual(previousSubnet)
    expect(etcd.get(`${SUBNETS}/${key}`)).toBe(FOREIGN)
    expect(writes()).toHaveLength(1)
    expect(
      log.matching(
        /^warn Previously leased subnet \(10\.5\.44\.0\/24\) is leased to 192\.168\.77\.2 meanwhile/,
      ),
    ).toHaveLength(1)
  })

  it.each(['10.9.1.0/24', '10.5.0.0/24', '10.5.8.0/23'])(
    'is ignored when it does not fit: %s',
    async (cidr) => {
      const { lease } = await acquire({ previousSubnet: subnet(cidr) })
      expect(lease.subnet).not.toEqual(subnet(cidr))
      expect(log.lines[0]).toBe(
        `error Found previously leased subnet (${cidr}) that is not compatible with the Etcd network config, ignoring`,
      )
    },
  )
})

describe('failures', () => {
  it('of every request are waited out, said once and counted', async () => {
    for (const failing of ['GET', 'PUT']) {
      let left = 3
      etcd.intercept = ({ method }, response) => {
        if (method !== failing || left-- <= 0) return false
        response.writeHead(500).end('{"errorCode":300,"message":"Raft Internal Error","cause":"","index":1}')
        return true
      }
      await acquire()
      expect(left).toBeLessThan(0)
      expect(
        log.matching(/^error Couldn't acquire a lease, trying again: .*300: Raft Internal Error/),
      ).toHaveLength(1)
      expect(log.matching(/^info Acquired a lease after \d+ failed attempts/)).toHaveLength(1)
      log.lines.length = 0
      for (const key of etcd.keys()) etcd.delete(key)
    }
  })

  it('of authority name their cause and are no conflict', async () => {
    let refusals = 0
    etcd.intercept = ({ method }, response) => {
      if (method !== 'PUT' || ++refusals > 2) return false
      response
        .writeHead(401)
        .end('{"errorCode":110,"message":"The request requires user authentication","cause":"x","index":1}')
      return true
    }
    await acquire()
    expect(
      log.matching(/^error .*110: The request requires user authentication.*check -etcd-username/),
    ).toHaveLength(1)
  })

  it('end when the signal fires', async () => {
    await etcd.stop()
    const running = acquire()
    await until('the failure is logged', () => log.matching(/^error/).length > 0)
    stop.abort()
    await expect(running).rejects.toThrow()
  })
})

describe('many nodes at once', () => {
  it('all get a subnet of their own, in a network that is just big enough', async () => {
    const config = parseNetworkConfig('{"Network":"10.5.0.0/22","SubnetLen":27}')
    const clients = Array.from({ length: 31 }, () => openClient(etcd.url))
    const leases = await Promise.all(
      clients.map((each, i) =>
        acquire({
          config,
          registry: openRegistry(each),
          publicIP: ip('192.168.77.1') + i,
          attributes: () => attributes(`192.168.77.${i + 1}`),
          log: new LogLines(),
        }),
      ),
    )
    for (const each of clients) each.close()
    expect(new Set(leases.map(({ lease }) => formatSubnet(lease.subnet))).size).toBe(31)
    expect(etcd.keys()).toHaveLength(31)
  })
})

describe('waiting for the config', () => {
  it('says each reason once, and takes the first valid one', async () => {
    const steps = ['', '{}', '{}', '{"Network":"10.5.0.0/16","Backend":{"Type":"VXLAN"}}']
    let sleeps = 0
    const clock = {
      ...systemClock,
      sleep: async () => {
        sleeps++
        const value = steps.shift()
        if (value) etcd.put(`${PREFIX}/config`, value)
      },
    }
    const { config } = await waitForConfig({ registry, signal: stop.signal, clock, log })
    expect(config.backendType).toBe('vxlan')
    expect(sleeps).toBe(4)
    expect(log.lines).toEqual([
      expect.stringMatching(
        /^error Couldn't fetch network config: .*100: Key not found \(\/coreos\.com\) \[3\]/,
      ),
      expect.stringMatching(/^error Couldn't fetch network config: the network config has no Network/),
      expect.stringMatching(/^info Fetched the network config after 4 failed attempts/),
      'info Found network config - Backend type: vxlan',
    ])
  })

  it('ends when the signal fires', async () => {
    const running = waitForConfig({ registry, signal: stop.signal, clock: systemClock, log })
    await until('a failure', () => log.lines.length > 0)
    stop.abort()
    await expect(running).rejects.toThrow()
  })
})
