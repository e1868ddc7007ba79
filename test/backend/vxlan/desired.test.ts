import { describe, expect, it } from 'vitest'
import { DIRECT_ID_PREFIX, isOurNexthopId, nexthopIdOf } from '../../../src/backend/nexthopids.ts'
import { routeEntries } from '../../../src/backend/routes.ts'
import { pathTo, wantedFdbEntry, wantedNeighbour } from '../../../src/backend/vxlan/desired.ts'
import { parseCidr, type Subnet } from '../../../src/ip.ts'

const vtep = { subnet: subnet('10.244.1.0/24'), mac: '02:00:00:00:00:02', underlay: 0xc0000202 }
const links = { device: 4, parent: 3 }
const neighbour = { index: 4, address: 0x0af40100, mac: '02:00:00:00:00:02', state: 0x80, flags: 0 }
const fdb = {
  ...{ index: 4, mac: '02:00:00:00:00:02', destination: 0xc0000202, state: 0x80, flags: 2 },
  ...{ port: undefined, vni: undefined, via: undefined },
}
const route = {
  ...{ destination: vtep.subnet, table: 254, protocol: 3, scope: 0, type: 1, tos: 0, metric: 0 },
  ...{ source: undefined, multipath: undefined, cloned: false },
}

describe("a peer's entries", () => {
  it('lead through the tunnel as flannel writes them', () => {
    expect(wantedNeighbour(vtep, links)).toEqual(neighbour)
    expect(wantedFdbEntry(vtep, links)).toEqual(fdb)
    expect(routeEntries(vtep.subnet, pathTo(vtep, false, links), undefined)).toMatchObject({
      nexthop: undefined,
      route: { ...route, gateway: 0x0af40100, oif: 4, onlink: true, nexthopId: undefined },
    })
  })

  it('lead through a nexthop object, which says what the route then need not', () => {
    expect(routeEntries(vtep.subnet, pathTo(vtep, false, links), 0xf1000001)).toMatchObject({
      nexthop: { id: 0xf1000001, gateway: 0x0af40100, oif: 4, onlink: true, protocol: 3 },
      route: { ...route, gateway: undefined, oif: undefined, onlink: false, nexthopId: 0xf1000001 },
    })
  })

  it('are a route alone where the peer is on the same link', () => {
    expect(routeEntries(vtep.subnet, pathTo(vtep, true, links), undefined)).toMatchObject({
      nexthop: undefined,
      route: { ...route, gateway: 0xc0000202, oif: 3, onlink: false, nexthopId: undefined },
    })
  })
})

describe('a nexthop id', () => {
  it.each([
    { of: '10.244.0.0/24', in: '10.244.0.0/16', len: 24, id: 0xf1000000 },
    { of: '10.244.255.0/24', in: '10.244.0.0/16', len: 24, id: 0xf10000ff },
    { of: '10.244.1.128/26', in: '10.244.0.0/16', len: 26, id: 0xf1000006 },
    { of: '10.255.255.255/32', in: '10.0.0.0/8', len: 32, id: 0xf1ffffff },
    // More subnets than ids, and a lease that is not of the network's length.
    { of: '10.0.0.1/32', in: '10.0.0.0/7', len: 32, id: undefined },
    { of: '10.244.1.0/25', in: '10.244.0.0/16', len: 24, id: undefined },
  ])('of $of in $in is $id', ({ of, in: network, len, id }) => {
    expect(nexthopIdOf(subnet(of), subnet(network), len)).toBe(id)
    if (id !== undefined) expect(isOurNexthopId(id)).toBe(true)
  })

  it('differs where the path is around the tunnel, and is ours as well', () => {
    const id = nexthopIdOf(subnet('10.244.1.0/24'), subnet('10.244.0.0/16'), 24, DIRECT_ID_PREFIX)
    expect(id).toBe(0xf2000001)
    expect(isOurNexthopId(0xf2000001)).toBe(true)
  })

  it.each([0, 1, 0x01f10000, 0xf0ffffff, 0xf3000000, 0xff000000])('%i is not ours', (id) => {
    expect(isOurNexthopId(id)).toBe(false)
  })
})

function subnet(text: string): Subnet {
  return parseCidr(text) as Subnet
}
