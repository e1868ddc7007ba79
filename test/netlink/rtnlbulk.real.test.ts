/** Thousands of entries, and what the kernel tells of changes, against the real kernel. */
import { setImmediate as nextTurn } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, it, onTestFinished } from 'vitest'
import { addAddress } from '../../src/netlink/address.ts'
import {
  RT_TABLE_MAIN,
  RTM_NEWNEIGH,
  RTNLGRP_IPV4_IFADDR,
  RTNLGRP_IPV4_ROUTE,
  RTNLGRP_LINK,
  RTNLGRP_NEIGH,
  RTNLGRP_NEXTHOP,
  RTPROT_BOOT,
} from '../../src/netlink/constants.ts'
import { NetlinkError } from '../../src/netlink/errors.ts'
import { deleteFdbEntry, dumpFdb, replaceFdbEntry } from '../../src/netlink/fdb.ts'
import { deleteLink } from '../../src/netlink/link.ts'
import { Monitor, type Notification } from '../../src/netlink/monitor.ts'
import { deleteNeighbour, dumpNeighbours, replaceNeighbour } from '../../src/netlink/neighbour.ts'
import { deleteNexthop, dumpNexthops, replaceNexthop } from '../../src/netlink/nexthop.ts'
import { deleteRoute, dumpRoutes, replaceRoute } from '../../src/netlink/route.ts'
import { openRtnetlinkMonitor } from '../../src/netlink/socket.ts'
import type { MessageWriter } from '../../src/netlink/wire.ts'
import { device, index, mac2, mac3, refused, route, rtnl, run } from './namespace.ts'

describe('thousands', () => {
  const size = 5000
  const mac = (i: number) => `02:00:00:00:${hex(i >> 8)}:${hex(i & 255)}`
  const hex = (octet: number) => octet.toString(16).padStart(2, '0')
  const peers = Array.from({ length: size }, (_, i) => i)

  it('are written in a few datagrams and read back whole, each dump from many', () => {
    const requests = peers.flatMap((i) => [
      replaceNeighbour({ index, address: 0x64400000 + (i << 8), mac: mac(i) }, device),
      replaceFdbEntry({ index, mac: mac(i), destination: 0xc6120000 + i }, device),
      replaceNexthop(
        { id: i + 1, gateway: 0x64400000 + (i << 8), oif: index, onlink: true, protocol: RTPROT_BOOT },
        device,
      ),
      replaceRoute(route(i, { nexthopId: i + 1 }), device),
    ])
    expect(rtnl.batch(requests).filter((error) => error !== undefined)).toEqual([])
    const neighbours = rtnl.dump(dumpNeighbours({ family: 4, index }))
    expect(new Map(neighbours.map(({ address, mac }) => [address, mac]))).toEqual(
      new Map(peers.map((i) => [0x64400000 + (i << 8), mac(i)])),
    )
    const entries = rtnl.dump(dumpFdb({ index }))
    expect(new Map(entries.map(({ mac, destination }) => [mac, destination]))).toEqual(
      new Map(peers.map((i) => [mac(i), 0xc6120000 + i])),
    )
    expect(rtnl.dump(dumpNexthops({ oif: index })).map(({ id }) => id)).toEqual(peers.map((i) => i + 1))
    const routes = rtnl.dump(dumpRoutes({ table: RT_TABLE_MAIN, oif: index }))
    expect(new Map(routes.map(({ destination, nexthopId }) => [destination.address, nexthopId]))).toEqual(
      new Map(peers.map((i) => [0x64400000 + (i << 8), i + 1])),
    )
    for (const { length } of [neighbours, entries, routes]) expect(length).toBe(size)
    const undone = rtnl.batch(peers.map((i) => deleteNexthop(i + 1)))
    expect(undone.filter((error) => error !== undefined)).toEqual([])
    expect(rtnl.dump(dumpRoutes({ table: RT_TABLE_MAIN, oif: index }))).toEqual([])
  })

  it('are refused one by one: the others are done, and each refusal is at its index', () => {
    const bad = new Set([0, 1, 1364, 1365, 2500, size - 1])
    const requests = peers.map((i) =>
      replaceNeighbour(
        { index: bad.has(i) ? 9999 : index, address: 0x64400000 + (i << 8), mac: mac(i) },
        device,
      ),
    )
    const errors = rtnl.batch(requests)
    expect(errors.flatMap((error, i) => (error ? [i] : []))).toEqual([...bad])
    expect(errors[2500]?.message).toBe(
      'write neighbour 100.73.196.0 -> 02:00:00:00:09:c4 on flannel.1: ENODEV',
    )
    expect(rtnl.dump(dumpNeighbours({ family: 4, index }))).toHaveLength(size - bad.size)
  })

  it('are all refused: every refusal arrives', () => {
    const requests = peers.map((i) => deleteNeighbour({ index, address: 0x64400000 + (i << 8) }, device))
    expect(new Set(rtnl.batch(requests).map((error) => error?.code))).toEqual(new Set(['ENOENT']))
  })

  it('overrun a small queue of notifications, which is told after what was not lost', async () => {
    const seen: (Notification[] | 'overrun')[] = []
    const monitor = new Monitor(
      openRtnetlinkMonitor([RTNLGRP_NEIGH], { receiveBuffer: 1 }),
      (changes) => seen.push(changes),
      () => seen.push('overrun'),
    )
    onTestFinished(() => monitor.close())
    const errors = rtnl.batch(
      peers.map((i) => replaceNeighbour({ index, address: 0x64400000 + (i << 8), mac: mac(i) }, device)),
    )
    expect(errors.every((error) => error === undefined)).toBe(true)
    while (seen.length < 2) await nextTurn()
    expect(seen[1]).toBe('overrun')
    expect(seen[0]?.length).toBeLessThan(size)
    // The loss stopped nothing: what comes later is told.
    rtnl.execute(deleteNeighbour({ index, address: 0x64400000 }, device))
    while (seen.length < 3) await nextTurn()
    expect(seen[2]).toContainEqual(
      expect.objectContaining({ kind: 'neighbour', value: expect.objectContaining({ address: 0x64400000 }) }),
    )
  })

  it('fit into the queue of notifications as it is by default', () => {
    let told = 0
    const monitor = new Monitor(
      openRtnetlinkMonitor([RTNLGRP_NEIGH]),
      (changes) => {
        told += changes.length
      },
      () => expect.unreachable('overrun'),
    )
    onTestFinished(() => monitor.close())
    rtnl.batch(
      peers.map((i) => replaceNeighbour({ index, address: 0x64400000 + (i << 8), mac: mac(i) }, device)),
    )
    rtnl.batch(peers.map((i) => replaceFdbEntry({ index, mac: mac(i), destination: 0xc6120000 + i }, device)))
    monitor.drain()
    expect(told).toBeGreaterThanOrEqual(2 * size)
  })
})

describe('a monitor', () => {
  let seen: Notification[]
  let monitor: Monitor

  beforeEach(() => {
    seen = []
    const groups = [RTNLGRP_LINK, RTNLGRP_NEIGH, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE, RTNLGRP_NEXTHOP]
    monitor = new Monitor(
      openRtnetlinkMonitor(groups),
      (changes) => seen.push(...changes),
      () => expect.unreachable('overrun'),
    )
  })

  afterEach(() => monitor.close())

  /** What was told of IPv4 since the last call, and of devices that went: of their carriers the kernel tells in its own time. */
  function told(): Pick<Notification, 'kind' | 'deleted' | 'replaced' | 'portId'>[] {
    monitor.drain()
    const ipv4 = seen
      .splice(0)
      .filter(({ kind, value }) => kind !== 'neighbour' || typeof value.address === 'number')
      .filter(({ kind, deleted }) => kind !== 'link' || deleted)
    return ipv4.map(({ kind, deleted, replaced, portId }) => ({ kind, deleted, replaced, portId }))
  }

  const change = (
    kind: Notification['kind'],
    portId: number,
    how: 'new' | 'replaced' | 'deleted' = 'new',
  ) => ({
    ...{ kind, portId, deleted: how === 'deleted', replaced: how === 'replaced' },
  })

  it('tells what we changed, and that it was us, as far as the kernel says', () => {
    told()
    const us = rtnl.portId
    rtnl.execute(addAddress({ index, name: device, address: 0x64400000, length: 32 }))
    expect(told()).toContainEqual(change('address', us))
    rtnl.execute(replaceRoute(route(1), device))
    expect(told()).toEqual([change('route', us)])
    rtnl.execute(replaceRoute(route(1, { gateway: 0x64400105 }), device))
    expect(told()).toEqual([change('route', us, 'replaced')])
    rtnl.execute(replaceRoute(route(1, { gateway: 0x64400105 }), device))
    expect(told()).toEqual([])
    rtnl.execute(replaceNeighbour({ index, address: 0x64400100, mac: mac2 }, device))
    expect(told()).toEqual([change('neighbour', us)])
    rtnl.execute(replaceNeighbour({ index, address: 0x64400100, mac: mac3 }, device))
    expect(told()).toEqual([change('neighbour', us)])
    rtnl.execute(replaceNeighbour({ index, address: 0x64400100, mac: mac3 }, device))
    expect(told()).toEqual([])
    rtnl.execute(replaceFdbEntry({ index, mac: mac2, destination: 0xc0000202 }, device))
    expect(told()).toEqual([change('fdb', 0)])
    rtnl.execute(replaceFdbEntry({ index, mac: mac2, destination: 0xc0000202 }, device))
    expect(told()).toEqual([])
    rtnl.execute(
      replaceNexthop({ id: 7, gateway: 0x64400100, oif: index, onlink: true, protocol: 3 }, device),
    )
    expect(told()).toEqual([change('nexthop', us, 'replaced')])
    rtnl.execute(deleteNexthop(7))
    expect(told()).toEqual([change('nexthop', us, 'deleted')])
    rtnl.execute(deleteFdbEntry({ index, mac: mac2, destination: 0xc0000202 }, device))
    expect(told()).toEqual([change('fdb', 0, 'deleted')])
    rtnl.execute(deleteNeighbour({ index, address: 0x64400100 }, device))
    // First it fails, by us, then it is collected, by the kernel.
    expect(told()).toEqual([change('neighbour', us), change('neighbour', 0, 'deleted')])
    rtnl.execute(deleteRoute(route(1, { gateway: 0x64400105 })))
    expect(told()).toEqual([change('route', us, 'deleted')])
    rtnl.execute(deleteLink({ index, name: device }))
    expect(told()).toContainEqual(change('link', 0, 'deleted'))
  })

  it('keeps to itself what we changed when told to, but for deleted routes, and nothing else', () => {
    const others: Notification[] = []
    const deaf = new Monitor(
      openRtnetlinkMonitor([RTNLGRP_NEIGH, RTNLGRP_IPV4_ROUTE], { ignore: rtnl.portId }),
      (changes) => others.push(...changes),
      () => expect.unreachable('overrun'),
    )
    onTestFinished(() => deaf.close())
    rtnl.execute(replaceRoute(route(1), device))
    rtnl.execute(replaceNeighbour({ index, address: 0x64400100, mac: mac2 }, device))
    rtnl.execute(replaceFdbEntry({ index, mac: mac2, destination: 0xc0000202 }, device))
    run(`ip route add 100.64.2.0/24 via 100.64.2.0 dev ${device} onlink`)
    run(`ip neigh replace 100.64.1.0 lladdr ${mac3} dev ${device} nud permanent`)
    rtnl.execute(deleteRoute(route(1), device))
    deaf.drain()
    const ipv4 = others.filter(({ kind, value }) => kind !== 'neighbour' || typeof value.address === 'number')
    // Of an FDB entry the kernel does not say who wrote it.
    expect(ipv4.map(({ kind }) => kind)).toEqual(['fdb', 'route', 'neighbour', 'route'])
    const ours = ipv4.filter(({ portId }) => portId === rtnl.portId)
    expect(ours.map(({ deleted }) => deleted)).toEqual([true])
  })

  it('tells what others changed, without being asked to drain', async () => {
    told()
    run(`ip route add 100.64.1.0/24 via 100.64.1.0 dev ${device} onlink`)
    while (!seen.some(({ kind }) => kind === 'route')) await nextTurn()
    const [added] = seen.filter(({ kind }) => kind === 'route')
    expect(added?.portId).not.toBe(rtnl.portId)
    expect(added?.portId).not.toBe(0)
    run(`ip link set ${device} down`)
    const down = () => seen.some(({ kind, value }) => kind === 'link' && value.index === index && !value.up)
    while (!down()) await nextTurn()
    // A device that goes down takes its routes without a word about them.
    monitor.drain()
    expect(
      seen.filter(({ kind, deleted, value }) => kind === 'route' && deleted && value.table === RT_TABLE_MAIN),
    ).toEqual([])
    expect(rtnl.dump(dumpRoutes({ table: RT_TABLE_MAIN, oif: index }))).toEqual([])
  })
})

it('answers to a request that the kernel does not understand in the kernel\u2019s words', () => {
  const request = {
    type: RTM_NEWNEIGH,
    flags: 0x500,
    operation: () => 'write nonsense',
    encode: (writer: MessageWriter) => void writer.u32(0).u32(0).u32(0),
  }
  expect(refused(() => rtnl.execute(request)).message).toBe(
    'write nonsense: EINVAL: Network address not specified',
  )
})

it('says that a group of notifications does not exist', () => {
  expect(() => openRtnetlinkMonitor([99_999])).toThrow(new NetlinkError('join netlink group 99999', 22))
})
