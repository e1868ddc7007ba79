import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { decodeDone, decodeError } from '../../src/netlink/ack.ts'
import { addAddress, decodeAddress } from '../../src/netlink/address.ts'
import { decodeFdbEntry, replaceFdbEntry } from '../../src/netlink/fdb.ts'
import { changeLink, createVxlan, decodeLink } from '../../src/netlink/link.ts'
import { decodeNotification } from '../../src/netlink/monitor.ts'
import { decodeNeighbour, replaceNeighbour } from '../../src/netlink/neighbour.ts'
import { decodeNexthop, replaceNexthop } from '../../src/netlink/nexthop.ts'
import { decodeRoute, replaceRoute } from '../../src/netlink/route.ts'
import { describeMessage } from '../../src/netlink/trace.ts'
import { readMessages } from '../../src/netlink/wire.ts'
import * as any from './arbitraries.ts'
import { encodeMessage, payloadOf } from './payload.ts'

const flag = fc.boolean()
const maybe = <T>(arbitrary: fc.Arbitrary<T>) => fc.option(arbitrary, { nil: undefined })

const neighbour = fc.record({
  ...{ index: any.index, address: fc.oneof(any.ipv4, any.ipv6), mac: any.mac, state: any.u16 },
})
const fdbEntry = fc.record({ index: any.index, mac: any.mac, destination: any.ipv4, state: any.u16 })
const address = fc.record({
  ...{ index: any.index, name: any.deviceName, address: fc.oneof(any.ipv4, any.ipv6) },
  length: fc.integer({ min: 0, max: 128 }),
})
const nexthop = fc.record({
  ...{ id: any.u32, gateway: maybe(any.ipv4), oif: any.index, onlink: flag, protocol: any.u8 },
})
const route = fc.record({
  ...{ destination: any.subnet, table: any.u32, protocol: any.u8, scope: any.u8, type: any.u8, tos: any.u8 },
  ...{ metric: any.u32, gateway: maybe(any.ipv4), nexthopId: maybe(any.u32), oif: maybe(any.index) },
  ...{ source: maybe(any.ipv4), onlink: flag },
})
const vxlan = fc.record({
  ...{
    name: any.deviceName,
    vni: any.u32,
    parent: any.u32,
    local: maybe(any.ipv4),
    port: any.port,
    gbp: flag,
  },
  ...{ mac: maybe(any.mac), mtu: maybe(any.u32), txQueueLength: any.u32 },
})

/** Every decoder, and payloads that it accepts. */
const nouns = [
  {
    noun: 'neighbour',
    decode: decodeNeighbour,
    valid: neighbour.map((n) => payloadOf(replaceNeighbour(n, 'x'))),
  },
  {
    noun: 'FDB entry',
    decode: decodeFdbEntry,
    valid: fdbEntry.map((e) => payloadOf(replaceFdbEntry(e, 'x'))),
  },
  { noun: 'address', decode: decodeAddress, valid: address.map((a) => payloadOf(addAddress(a))) },
  { noun: 'route', decode: decodeRoute, valid: route.map((r) => payloadOf(replaceRoute(r, 'x'))) },
  { noun: 'nexthop', decode: decodeNexthop, valid: nexthop.map((n) => payloadOf(replaceNexthop(n, 'x'))) },
  { noun: 'link', decode: decodeLink, valid: vxlan.map((v) => payloadOf(createVxlan(v))) },
]

describe('what was encoded decodes to the same', () => {
  it('neighbour', () => {
    fc.assert(
      fc.property(neighbour, (n) => {
        expect(decodeNeighbour(payloadOf(replaceNeighbour(n, 'x')))).toEqual({ ...n, flags: 0 })
      }),
    )
  })

  it('FDB entry', () => {
    fc.assert(
      fc.property(fdbEntry, (entry) => {
        const own = { port: undefined, vni: undefined, via: undefined }
        expect(decodeFdbEntry(payloadOf(replaceFdbEntry(entry, 'x')))).toEqual({ ...entry, flags: 2, ...own })
      }),
    )
  })

  it('address', () => {
    fc.assert(
      fc.property(address, ({ name, ...a }) => {
        expect(decodeAddress(payloadOf(addAddress({ name, ...a })))).toMatchObject(a)
      }),
    )
  })

  it('nexthop', () => {
    fc.assert(
      fc.property(nexthop, (n) => {
        expect(decodeNexthop(payloadOf(replaceNexthop(n, 'x')))).toEqual(n)
      }),
    )
  })

  it('route', () => {
    fc.assert(
      fc.property(route, (r) => {
        // What a nexthop says is not sent with the route.
        const sent =
          r.nexthopId === undefined ? r : { ...r, gateway: undefined, oif: undefined, onlink: false }
        expect(decodeRoute(payloadOf(replaceRoute(r, 'x')))).toEqual({
          ...sent,
          multipath: undefined,
          cloned: false,
        })
      }),
    )
  })

  it('VXLAN device', () => {
    fc.assert(
      fc.property(vxlan, (v) => {
        const { name, vni, parent, local, port, gbp, mac, txQueueLength, mtu = 0 } = v
        const vxlan = { vni, parent, local, port, gbp, learning: false, l2miss: false, l3miss: false }
        expect(decodeLink(payloadOf(createVxlan(v)))).toMatchObject({
          ...{ name, mac, mtu, txQueueLength, kind: 'vxlan', vxlan },
        })
      }),
    )
  })

  it('device change', () => {
    const change = fc.record({ index: any.index, name: any.deviceName, rename: any.deviceName, mac: any.mac })
    fc.assert(
      fc.property(change, any.u32, flag, ({ index, name, rename, mac }, mtu, up) => {
        const payload = payloadOf(changeLink({ index, name, rename, mac, mtu, up }))
        expect(decodeLink(payload)).toMatchObject({ index, name: rename, mac, mtu, up })
      }),
    )
  })

  it('message', () => {
    fc.assert(
      fc.property(fc.array(any.message, { maxLength: 5 }), (messages) => {
        const datagram = Buffer.concat(messages.map(encodeMessage))
        expect(
          [...readMessages(datagram)].map((m) => ({ ...m, payload: Uint8Array.from(m.payload) })),
        ).toEqual(messages)
      }),
    )
  })
})

describe.each(nouns)('no bytes make the decoder of a $noun throw or hang', ({ decode, valid }) => {
  const runs = { numRuns: 1000 }

  it('random ones', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => void decode(bytes)),
      runs,
    )
  })

  it('truncated ones: nothing is read from beyond the end', () => {
    fc.assert(
      fc.property(valid, fc.nat(), (bytes, cut) => {
        const length = cut % (bytes.length + 1)
        // The view has the rest behind it, the copy has not.
        expect(decode(bytes.subarray(0, length))).toEqual(decode(bytes.slice(0, length)))
      }),
      runs,
    )
  })

  it('valid ones: they read the same wherever in a datagram they lie', () => {
    fc.assert(
      fc.property(
        valid,
        fc.uint8Array({ maxLength: 20 }),
        fc.uint8Array({ maxLength: 20 }),
        (bytes, before, after) => {
          const datagram = Buffer.concat([before, bytes, after])
          expect(decode(datagram, before.length, before.length + bytes.length)).toEqual(decode(bytes))
        },
      ),
    )
  })

  it('mutated ones', () => {
    const changes = fc.array(fc.tuple(fc.nat(), any.u8), { minLength: 1, maxLength: 4 })
    fc.assert(
      fc.property(valid, changes, (bytes, changes) => {
        const mutated = Uint8Array.from(bytes)
        for (const [at, value] of changes) mutated[at % mutated.length] = value
        decode(mutated)
      }),
      runs,
    )
  })

  it('with attributes that nobody knows: they are skipped', () => {
    fc.assert(
      fc.property(valid, fc.uint8Array({ maxLength: 40 }), (bytes, value) => {
        const unknown = new Uint8Array(4 + value.length)
        new DataView(unknown.buffer).setUint16(0, unknown.length, true)
        new DataView(unknown.buffer).setUint16(2, 0x3ff0, true)
        unknown.set(value, 4)
        expect(decode(Buffer.concat([bytes, unknown]))).toEqual(decode(bytes))
      }),
      runs,
    )
  })
})

describe('no datagram makes us throw or hang', () => {
  it('random bytes: messages stay within them', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (datagram) => {
        let total = 0
        for (const message of readMessages(datagram)) {
          total += 16 + message.payload.length
          decodeNotification(message)
          describeMessage(message)
        }
        expect(total).toBeLessThanOrEqual(datagram.length)
      }),
      { numRuns: 2000 },
    )
  })

  it('well-formed messages of any type with any payload', () => {
    fc.assert(
      fc.property(any.message, (message) => {
        decodeNotification(message)
        expect(describeMessage(message)).not.toContain('\n')
        expect(decodeError(message).errno).toBeGreaterThanOrEqual(0)
        expect(decodeDone(message).errno).toBeGreaterThanOrEqual(0)
      }),
      { numRuns: 2000 },
    )
  })
})
