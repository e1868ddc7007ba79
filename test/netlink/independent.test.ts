/** Our codec against that of the npm package `netlink`: it reads what we write, and we read what it writes. */
import { AttrStream, type ifla, ifla as iflaCodec, parseAttributes, rt, type StreamData } from 'netlink'
import { describe, expect, it } from 'vitest'
import { addAddress, decodeAddress } from '../../src/netlink/address.ts'
import { decodeFdbEntry, replaceFdbEntry } from '../../src/netlink/fdb.ts'
import { createVxlan, decodeLink } from '../../src/netlink/link.ts'
import { decodeNeighbour, replaceNeighbour } from '../../src/netlink/neighbour.ts'
import { decodeNexthop, replaceNexthop } from '../../src/netlink/nexthop.ts'
import { decodeRoute, replaceRoute } from '../../src/netlink/route.ts'
import { payloadOf } from './payload.ts'

const overlay = Buffer.from([100, 64, 1, 0])
const underlay = Buffer.from([192, 0, 2, 2])
const mac = Buffer.from([2, 0, 0, 0, 0, 2])
const route = {
  ...{ destination: { address: 0x64400100, length: 24 }, table: 254, protocol: 3, scope: 0, type: 1, tos: 0 },
  ...{ metric: 5, gateway: 0x64400100, nexthopId: undefined, oif: 4, source: 0x64400000, onlink: true },
}

function bytes(write: (out: AttrStream) => void): Buffer {
  const out = new AttrStream()
  write(out)
  return Buffer.concat(out.bufs)
}

function streamed(data: StreamData): Buffer {
  return bytes((out) => out.emit(data))
}

describe('what we write', () => {
  it('is a neighbour', () => {
    const payload = payloadOf(
      replaceNeighbour({ index: 4, address: 0x64400100, mac: '02:00:00:00:00:02' }, 'flannel.1'),
    )
    expect(rt.parseNeighborMessage(Buffer.from(payload))).toMatchObject({
      data: { family: 2, ifindex: 4, state: { permanent: true }, flags: {} },
      attrs: { dst: overlay, lladdr: mac },
    })
  })

  it('is an FDB entry', () => {
    const entry = { index: 4, mac: '02:00:00:00:00:02', destination: 0xc0000202 }
    expect(
      rt.parseNeighborMessage(Buffer.from(payloadOf(replaceFdbEntry(entry, 'flannel.1')))),
    ).toMatchObject({
      data: { family: 7, ifindex: 4, state: { permanent: true }, flags: { self: true } },
      attrs: { dst: underlay, lladdr: mac },
    })
  })

  it('is a route', () => {
    expect(rt.parseRouteMessage(Buffer.from(payloadOf(replaceRoute(route, 'flannel.1'))))).toMatchObject({
      data: { family: 2, dstLen: 24, table: 254, protocol: 'BOOT', scope: 'UNIVERSE', type: 'UNICAST' },
      attrs: { dst: overlay, gateway: overlay, oif: 4, priority: 5, prefsrc: Buffer.from([100, 64, 0, 0]) },
    })
  })

  it('is a nexthop', () => {
    const nexthop = { id: 7, gateway: 0x64400100, oif: 4, onlink: true, protocol: 3 }
    expect(
      rt.parseNextHopMessage(Buffer.from(payloadOf(replaceNexthop(nexthop, 'flannel.1')))),
    ).toMatchObject({
      data: { family: 2, protocol: 3, flags: { onlink: true } },
      attrs: { id: 7, oif: 4, gateway: overlay },
    })
  })

  it('is an address', () => {
    const payload = payloadOf(addAddress({ index: 4, name: 'flannel.1', address: 0x64400100, length: 32 }))
    expect(rt.parseAddressMessage(Buffer.from(payload))).toMatchObject({
      data: { family: 2, prefixlen: 32, index: 4, scope: 0 },
      attrs: { local: overlay, address: overlay },
    })
  })

  it('is a VXLAN device', () => {
    const payload = payloadOf(
      createVxlan({
        ...{ name: 'flannel.1', vni: 1, parent: 3, local: 0xc0000202, port: 8472, gbp: true },
        ...{ mac: '02:00:00:00:00:02', mtu: 1450, txQueueLength: 0 },
      }),
    )
    const { attrs } = rt.parseLinkMessage(Buffer.from(payload))
    expect(attrs).toMatchObject({ address: mac, ifname: 'flannel.1', mtu: 1450, txqlen: 0 })
    // The package wants a NUL behind the kind; iproute2, Go and we send none.
    const info: Buffer[] = []
    parseAttributes(attrs.linkinfo as Buffer, ({ data }) => info.push(data as Buffer))
    expect(String(info[0])).toBe('vxlan')
    expect(iflaCodec.parseVxlan(info[1] as Buffer)).toMatchObject({
      ...{ id: 1, link: 3, local: underlay, ttl: 0, tos: 0, gbp: true },
    })
  })
})

describe('what we read', () => {
  it('is a neighbour', () => {
    const data = { family: 2, ifindex: 4, state: { permanent: true }, flags: { router: true } } as const
    const attrs = {
      dst: overlay,
      lladdr: mac,
      probes: 3,
      cacheInfo: { confirmed: 1, used: 2, updated: 3, refcnt: 4 },
    }
    const payload = bytes((out) => rt.formatNeighborMessage({ kind: 'neighbor', data, attrs }, out))
    expect(decodeNeighbour(payload)).toEqual({
      ...{ index: 4, address: 0x64400100, mac: '02:00:00:00:00:02', state: 0x80, flags: 0x80 },
    })
    expect(decodeFdbEntry(payload)).toBeUndefined()
  })

  it('is an FDB entry', () => {
    const data = { family: 7, ifindex: 4, state: { permanent: true }, flags: { self: true } } as const
    const attrs = {
      dst: underlay,
      lladdr: mac,
      port: Buffer.from([0x21, 0x19]),
      vni: Buffer.from([9, 0, 0, 0]),
    }
    const payload = bytes((out) => rt.formatNeighborMessage({ kind: 'neighbor', data, attrs }, out))
    expect(decodeFdbEntry(payload)).toEqual({
      ...{
        index: 4,
        mac: '02:00:00:00:00:02',
        destination: 0xc0000202,
        state: 0x80,
        flags: 2,
        port: 8473,
        vni: 9,
      },
    })
    expect(decodeNeighbour(payload)).toBeUndefined()
  })

  it('is a route', () => {
    const data = {
      family: 2,
      dstLen: 24,
      table: 252,
      protocol: 'BOOT',
      scope: 'UNIVERSE',
      type: 'UNICAST',
    } as const
    const attrs = {
      dst: overlay,
      gateway: overlay,
      oif: 4,
      priority: 5,
      table: 1000,
      prefsrc: Buffer.from([100, 64, 0, 0]),
    }
    const payload = bytes((out) => rt.formatRouteMessage({ kind: 'route', data, attrs }, out))
    expect(decodeRoute(payload)).toEqual({
      ...route,
      table: 1000,
      onlink: false,
      multipath: undefined,
      cloned: false,
    })
  })

  it('is a nexthop', () => {
    const data = { family: 2, protocol: 3, flags: { onlink: true } } as const
    const attrs = { id: 7, oif: 4, gateway: overlay }
    const payload = bytes((out) => rt.formatNextHopMessage({ kind: 'nexthop', data, attrs }, out))
    expect(decodeNexthop(payload)).toEqual({ id: 7, gateway: 0x64400100, oif: 4, onlink: true, protocol: 3 })
  })

  it('is an address', () => {
    const data = { family: 2, prefixlen: 24, index: 4, scope: 253 } as const
    const attrs = {
      local: overlay,
      address: underlay,
      label: 'eth0:1',
      broadcast: Buffer.from([100, 64, 1, 255]),
    }
    const payload = bytes((out) => rt.formatAddressMessage({ kind: 'address', data, attrs }, out))
    expect(decodeAddress(payload)).toEqual({
      ...{
        index: 4,
        address: 0x64400100,
        peer: 0xc0000202,
        length: 24,
        scope: 253,
        label: 'eth0:1',
        flags: 0,
        broadcast: 0x644001ff,
      },
    })
  })

  it('is a VXLAN device', () => {
    const vxlan: ifla.Vxlan = {
      ...{ id: 1, link: 3, local: underlay, ttl: 9, learning: 1, ageing: 77, gbp: true },
    }
    const info = { kind: 'vxlan', data: streamed(iflaCodec.formatVxlan(vxlan)) }
    const payload = bytes((out) =>
      rt.formatLinkMessage(
        {
          kind: 'link',
          data: { index: 4, flags: { up: true } },
          attrs: {
            address: mac,
            ifname: 'flannel.1',
            mtu: 1450,
            linkinfo: streamed(iflaCodec.formatInfo(info)),
          },
        },
        out,
      ),
    )
    expect(decodeLink(payload)).toMatchObject({
      ...{ index: 4, up: true, name: 'flannel.1', mac: '02:00:00:00:00:02', mtu: 1450, kind: 'vxlan' },
      vxlan: {
        vni: 1,
        parent: 3,
        local: 0xc0000202,
        ttl: 9,
        learning: true,
        ageing: 77,
        gbp: true,
        l2miss: false,
      },
    })
  })
})
