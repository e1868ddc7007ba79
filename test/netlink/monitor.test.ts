import { describe, expect, it } from 'vitest'
import { addAddress } from '../../src/netlink/address.ts'
import { replaceFdbEntry } from '../../src/netlink/fdb.ts'
import { changeLink } from '../../src/netlink/link.ts'
import { Monitor, type Notification } from '../../src/netlink/monitor.ts'
import { replaceNeighbour } from '../../src/netlink/neighbour.ts'
import { replaceNexthop } from '../../src/netlink/nexthop.ts'
import { replaceRoute } from '../../src/netlink/route.ts'
import type { NetlinkMessage } from '../../src/netlink/wire.ts'
import { payloadOf } from './payload.ts'
import { ScriptedSocket } from './scripted.ts'

const ENOBUFS = 105

const neighbour = payloadOf(
  replaceNeighbour({ index: 4, address: 0x64400100, mac: '02:00:00:00:00:02' }, 'x'),
)
const fdb = payloadOf(replaceFdbEntry({ index: 4, mac: '02:00:00:00:00:02', destination: 0xc0000202 }, 'x'))
const link = payloadOf(changeLink({ index: 4, name: 'x', up: true }))
const address = payloadOf(addAddress({ index: 4, name: 'x', address: 0x64400000, length: 32 }))
const nexthop = payloadOf(replaceNexthop({ id: 7, gateway: 1, oif: 4, onlink: true, protocol: 3 }, 'x'))
const route = payloadOf(
  replaceRoute(
    {
      ...{
        destination: { address: 0x64400100, length: 24 },
        table: 254,
        protocol: 3,
        scope: 0,
        type: 1,
        tos: 0,
      },
      ...{ metric: 0, gateway: 1, nexthopId: undefined, oif: 4, source: undefined, onlink: true },
    },
    'x',
  ),
)

function notification(type: number, payload: Uint8Array, flags = 0, portId = 0): NetlinkMessage {
  return { type, flags, sequence: 0, portId, payload }
}

function watched() {
  const socket = new ScriptedSocket()
  const seen: (Notification[] | 'overrun')[] = []
  const monitor = new Monitor(
    socket,
    (changes) => seen.push(changes),
    () => seen.push('overrun'),
  )
  return { socket, seen, monitor }
}

describe('a notification', () => {
  it.each([
    { type: 16, payload: link, kind: 'link', deleted: false },
    { type: 17, payload: link, kind: 'link', deleted: true },
    { type: 20, payload: address, kind: 'address', deleted: false },
    { type: 21, payload: address, kind: 'address', deleted: true },
    { type: 24, payload: route, kind: 'route', deleted: false },
    { type: 25, payload: route, kind: 'route', deleted: true },
    { type: 28, payload: neighbour, kind: 'neighbour', deleted: false },
    { type: 29, payload: neighbour, kind: 'neighbour', deleted: true },
    { type: 28, payload: fdb, kind: 'fdb', deleted: false },
    { type: 29, payload: fdb, kind: 'fdb', deleted: true },
    { type: 104, payload: nexthop, kind: 'nexthop', deleted: false },
    { type: 105, payload: nexthop, kind: 'nexthop', deleted: true },
  ])('of type $type is of a $kind (deleted: $deleted)', ({ type, payload, kind, deleted }) => {
    const { socket, seen } = watched()
    socket.queue.push([notification(type, payload, 0, 123)])
    socket.readable()
    expect(seen).toEqual([[expect.objectContaining({ kind, deleted, replaced: false, portId: 123 })]])
  })

  it('says when an entry took the place of another', () => {
    const { socket, seen } = watched()
    socket.queue.push([notification(24, route, 0x100)])
    socket.readable()
    expect(seen).toEqual([[expect.objectContaining({ kind: 'route', replaced: true })]])
  })

  it('that is of another kind or cannot be read is passed over', () => {
    const { socket, seen } = watched()
    socket.queue.push(
      [notification(200, route)],
      [notification(24, route.subarray(0, 7))],
      [notification(28, fdb)],
    )
    socket.readable()
    expect(seen).toEqual([[expect.objectContaining({ kind: 'fdb' })]])
  })
})

describe('a monitor', () => {
  it('takes in order what is queued, in one go', () => {
    const { socket, seen } = watched()
    socket.queue.push([notification(28, neighbour), notification(28, fdb)], [notification(24, route)])
    socket.readable()
    expect(seen.flat().map((change) => change !== 'overrun' && change.kind)).toEqual([
      'neighbour',
      'fdb',
      'route',
    ])
    expect(seen).toHaveLength(1)
    socket.readable()
    expect(seen).toHaveLength(1)
  })

  it('takes a bounded number a turn, and all when told to drain', () => {
    const { socket, seen, monitor } = watched()
    for (let i = 0; i < 1000; i++) socket.queue.push([notification(28, neighbour)])
    socket.readable()
    expect(socket.queue.length).toBeGreaterThan(0)
    expect(socket.queue.length).toBeLessThan(1000)
    monitor.drain()
    expect(socket.queue).toEqual([])
    expect(seen.flat()).toHaveLength(1000)
  })

  it('says that some was lost, after what was not', () => {
    const { socket, seen } = watched()
    socket.queue.push(ENOBUFS, [notification(24, route)])
    socket.readable()
    expect(seen).toEqual([[expect.objectContaining({ kind: 'route' })], 'overrun'])
  })

  it('ends though receiving fails again and again', () => {
    const { socket, seen, monitor } = watched()
    for (let i = 0; i < 1000; i++) socket.queue.push(ENOBUFS)
    monitor.drain()
    expect(seen).toEqual(['overrun'])
  })

  it('may be closed from what it calls', () => {
    const socket = new ScriptedSocket()
    const monitor = new Monitor(
      socket,
      () => monitor.close(),
      () => undefined,
    )
    for (let i = 0; i < 1000; i++) socket.queue.push([notification(28, neighbour)])
    monitor.drain()
    expect(socket.closed).toBe(1)
    expect(socket.queue.length).toBeGreaterThan(0)
  })

  it('prints every message when asked to', () => {
    const socket = new ScriptedSocket()
    const lines: string[] = []
    const monitor = new Monitor(
      socket,
      () => undefined,
      () => undefined,
      { trace: () => (line) => lines.push(line) },
    )
    socket.queue.push([notification(105, nexthop)])
    socket.readable()
    expect(lines).toEqual([
      '< RTM_DELNEXTHOP flags=0x0 seq=0 port=0 {"id":7,"gateway":"0.0.0.1","oif":4,"onlink":true,"protocol":3}',
    ])
    expect(monitor.counters).toEqual({ notifications: 1, overruns: 0 })
  })
})
