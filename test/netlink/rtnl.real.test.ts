/** Every noun against the real kernel, in network namespaces of their own, with iproute2 as the second opinion. */
import { execFileSync } from 'node:child_process'
import { describe, expect, it, onTestFinished } from 'vitest'
import { addAddress, deleteAddress, dumpAddresses } from '../../src/netlink/address.ts'
import { Rtnl } from '../../src/netlink/conn.ts'
import {
  IFA_F_PERMANENT,
  NTF_SELF,
  NUD_PERMANENT,
  NUD_REACHABLE,
  RT_SCOPE_UNIVERSE,
  RT_TABLE_MAIN,
  RTPROT_BOOT,
} from '../../src/netlink/constants.ts'
import { deleteFdbEntry, dumpFdb, replaceFdbEntry } from '../../src/netlink/fdb.ts'
import { changeLink, changeVxlan, deleteLink, dumpLinks, getLink } from '../../src/netlink/link.ts'
import { deleteNeighbour, dumpNeighbours, replaceNeighbour } from '../../src/netlink/neighbour.ts'
import { deleteNexthop, dumpNexthops, replaceNexthop } from '../../src/netlink/nexthop.ts'
import { deleteRoute, dumpRoutes, getRoute, replaceRoute } from '../../src/netlink/route.ts'
import { openRtnetlink } from '../../src/netlink/socket.ts'
import { enterNewNamespace } from '../native/addons.ts'
import { create, device, index, mac2, mac3, refused, route, rtnl, run, underlay } from './namespace.ts'

describe('a VXLAN device', () => {
  it('is made as it was asked for, and read back', () => {
    rtnl.execute(create({ name: 'v2', vni: 77, port: 4789, gbp: true, mac: mac2, mtu: 1400 }))
    expect(rtnl.get(getLink({ name: 'v2' }))).toMatchObject({
      ...{ name: 'v2', kind: 'vxlan', up: false, mtu: 1400, mac: mac2, txQueueLength: 0, master: undefined },
      vxlan: {
        ...{ vni: 77, parent: underlay.index, local: 0xc0000201, group: undefined, port: 4789, gbp: true },
        ...{
          learning: false,
          proxy: false,
          rsc: false,
          l2miss: false,
          l3miss: false,
          ttl: 0,
          tos: 0,
          ageing: 300,
        },
      },
    })
    const [, , details] = run('ip -d link show v2')
    expect(details).toContain(
      'vxlan id 77 local 192.0.2.1 dev u0 srcport 0 0 dstport 4789 nolearning ttl auto ageing 300 udpcsum',
    )
  })

  it('has the kernel\u2019s MTU, MAC and port when none are asked for', () => {
    rtnl.execute(create({ name: 'v2', vni: 77, port: 0 }))
    const link = rtnl.get(getLink({ name: 'v2' }))
    expect(link).toMatchObject({ mtu: 1450, txQueueLength: 0, vxlan: { port: 8472 } })
    expect(link.mac).toMatch(/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/)
  })

  it('of others is read with all its attributes', () => {
    const options =
      'id 9 group ff05::100 dev u0 dstport 4790 ttl 7 tos 4 ageing 11 learning proxy rsc l2miss l3miss'
    run(`ip link add v6 type vxlan ${options}`)
    expect(rtnl.get(getLink({ name: 'v6' })).vxlan).toEqual({
      ...{ vni: 9, parent: underlay.index, local: undefined, group: (0xff05n << 112n) | 0x100n, port: 4790 },
      ...{
        learning: true,
        proxy: true,
        rsc: true,
        l2miss: true,
        l3miss: true,
        gbp: false,
        ttl: 7,
        tos: 4,
        ageing: 11,
      },
    })
  })

  it('is refused when the name is taken, or another has its VNI and port', () => {
    expect(refused(() => rtnl.execute(create())).message).toBe(
      'create VXLAN device flannel.1 (VNI 1): EEXIST',
    )
    expect(refused(() => rtnl.execute(create({ name: 'v2' })))).toMatchObject({
      ...{ code: 'EEXIST', kernelMessage: 'A VXLAN device with the specified VNI already exists' },
    })
  })

  it('changes in place what Linux allows, also while it is up', () => {
    rtnl.execute(changeVxlan({ index, name: device, learning: true, local: 0xc0000209 }))
    const { index: parent } = rtnl.get(getLink({ name: 'u1' }))
    rtnl.execute(changeVxlan({ index, name: device, parent }))
    expect(rtnl.get(getLink({ index })).vxlan).toMatchObject({ learning: true, local: 0xc0000209, parent })
    rtnl.execute(changeVxlan({ index, name: device, learning: false }))
    expect(rtnl.get(getLink({ index })).vxlan).toMatchObject({
      learning: false,
      local: 0xc0000209,
      vni: 1,
      port: 8472,
    })
  })

  it.each([
    { option: 'dstport 4789', words: 'Cannot change port' },
    { option: 'id 3', words: 'Cannot change VNI' },
    { option: 'gbp', words: 'cannot change GBP flag' },
    { option: 'l2miss', words: 'cannot change L2MISS flag' },
    { option: 'l3miss', words: 'cannot change L3MISS flag' },
    { option: 'proxy', words: 'cannot change PROXY flag' },
    { option: 'rsc', words: 'cannot change RSC flag' },
  ])('does not change $option in place, so it has to be made anew', ({ option, words }) => {
    expect(() =>
      execFileSync('ip', `link set ${device} type vxlan ${option}`.split(' '), { stdio: 'pipe' }),
    ).toThrow(words)
  })

  it('goes up and down, and changes name, MTU, MAC and queue', () => {
    rtnl.execute(changeLink({ index, name: device, up: false }))
    expect(rtnl.get(getLink({ index })).up).toBe(false)
    rtnl.execute(
      changeLink({ index, name: device, rename: 'other', mtu: 1300, mac: mac3, txQueueLength: 5, up: true }),
    )
    expect(rtnl.get(getLink({ name: 'other' }))).toMatchObject({
      ...{ index, up: true, mtu: 1300, mac: mac3, txQueueLength: 5 },
    })
  })

  it('is listed among the others, and gone when deleted', () => {
    const names = () => rtnl.dump(dumpLinks()).map(({ name, kind }) => `${name} ${kind}`)
    expect(names()).toEqual(expect.arrayContaining(['lo undefined', 'u0 veth', 'flannel.1 vxlan']))
    rtnl.execute(deleteLink({ index, name: device }))
    expect(names()).not.toContain('flannel.1 vxlan')
    expect(refused(() => rtnl.get(getLink({ name: device })))).toMatchObject({
      code: 'ENODEV',
      notFound: true,
    })
    expect(refused(() => rtnl.execute(deleteLink({ index, name: device }))).message).toBe(
      'delete device flannel.1: ENODEV',
    )
  })
})

describe('an address', () => {
  const address = 0x64400000

  it('is added, listed and deleted', () => {
    rtnl.execute(addAddress({ index, name: device, address, length: 32 }))
    expect(run(`ip -o -4 addr show dev ${device}`)[0]).toContain('inet 100.64.0.0/32 scope global flannel.1')
    expect(rtnl.dump(dumpAddresses({ family: 4, index }))).toEqual([
      {
        ...{ index, address, peer: address, length: 32, scope: RT_SCOPE_UNIVERSE },
        ...{ label: device, flags: IFA_F_PERMANENT },
        broadcast: undefined,
      },
    ])
    expect(
      refused(() => rtnl.execute(addAddress({ index, name: device, address, length: 32 }))).message,
    ).toMatch(/^add address 100\.64\.0\.0\/32 to flannel\.1: EEXIST/)
    rtnl.execute(deleteAddress({ index, name: device, address, length: 32 }))
    expect(rtnl.dump(dumpAddresses({ family: 4, index }))).toEqual([])
    const gone = refused(() => rtnl.execute(deleteAddress({ index, name: device, address, length: 32 })))
    expect(gone).toMatchObject({ code: 'EADDRNOTAVAIL', notFound: true })
  })

  it('of IPv6 is listed as well; of a device that is gone, none but an error', () => {
    run(`ip addr add fd00::5/64 dev ${device} nodad`)
    const all = rtnl.dump(dumpAddresses({ family: 6, index }))
    expect(all).toContainEqual(expect.objectContaining({ address: (0xfd00n << 112n) | 5n, length: 64 }))
    expect(rtnl.dump(dumpAddresses({ family: 4 })).map(({ label }) => label)).toEqual(['u0'])
    expect(refused(() => rtnl.dump(dumpAddresses({ family: 4, index: 999 }))).code).toBe('ENODEV')
  })
})

describe('a route', () => {
  it('onlink is what flannel users know, and read back', () => {
    rtnl.execute(replaceRoute(route(1), device))
    expect(run(`ip route show dev ${device}`)).toEqual(['100.64.1.0/24 via 100.64.1.0 onlink'])
    const written = [{ ...route(1), multipath: undefined, cloned: false }]
    expect(rtnl.dump(dumpRoutes({ table: RT_TABLE_MAIN, oif: index }))).toEqual(written)
    expect(rtnl.dump(dumpRoutes({ table: RT_TABLE_MAIN, protocol: RTPROT_BOOT }))).toEqual(written)
    expect(rtnl.dump(dumpRoutes({ table: RT_TABLE_MAIN, oif: index, length: 24 }))).toEqual(
      written.filter(({ destination }) => destination.length === 24),
    )
    expect(rtnl.dump(dumpRoutes({ table: RT_TABLE_MAIN, oif: index, length: 0 }))).toEqual([])
    expect(rtnl.dump(dumpRoutes({ table: RT_TABLE_MAIN, oif: underlay.index }))).toHaveLength(1)
    rtnl.execute(deleteRoute(route(1)))
    expect(rtnl.dump(dumpRoutes({ table: RT_TABLE_MAIN, oif: index }))).toEqual([])
    expect(refused(() => rtnl.execute(deleteRoute(route(1), device)))).toMatchObject({
      ...{ message: 'delete route 100.64.1.0/24 via 100.64.1.0 on flannel.1: ESRCH', notFound: true },
    })
  })

  it('direct needs no device: the kernel finds it', () => {
    rtnl.execute(replaceRoute(route(1, { gateway: 0xc0000202, oif: undefined, onlink: false }), 'u0'))
    expect(run('ip route show 100.64.1.0/24')).toEqual(['100.64.1.0/24 via 192.0.2.2 dev u0'])
    const refusal = refused(() =>
      rtnl.execute(replaceRoute(route(2, { gateway: 0xc6336401, oif: undefined, onlink: false }), 'u0')),
    )
    expect(refusal.message).toBe(
      'write route 100.64.2.0/24 via 198.51.100.1 on u0: ENETUNREACH: Nexthop has invalid gateway',
    )
  })

  it('through a nexthop says so, and what that is', () => {
    rtnl.execute(
      replaceNexthop({ id: 7, gateway: 0x64400200, oif: index, onlink: true, protocol: RTPROT_BOOT }, device),
    )
    rtnl.execute(replaceRoute(route(2, { nexthopId: 7 }), device))
    expect(run('ip route show 100.64.2.0/24')).toEqual([
      '100.64.2.0/24 nhid 7 via 100.64.2.0 dev flannel.1 onlink',
    ])
    expect(rtnl.dump(dumpRoutes({ table: RT_TABLE_MAIN, oif: index }))).toEqual([
      { ...route(2, { nexthopId: 7 }), multipath: undefined, cloned: false },
    ])
    rtnl.execute(deleteRoute(route(2, { nexthopId: 7 })))
    expect(rtnl.dump(dumpRoutes({ table: RT_TABLE_MAIN, oif: index }))).toEqual([])
  })

  it('replaces the one with the same destination and metric, and leaves one with another metric', () => {
    run(`ip route add 100.64.1.0/24 via 192.0.2.9 dev u0`)
    run(`ip route add 100.64.1.0/24 via 192.0.2.8 dev u0 metric 9`)
    rtnl.execute(replaceRoute(route(1), device))
    expect(run('ip route show 100.64.1.0/24')).toEqual([
      '100.64.1.0/24 via 100.64.1.0 dev flannel.1 onlink',
      '100.64.1.0/24 via 192.0.2.8 dev u0 metric 9',
    ])
  })

  it('of any other kind is read and deleted, too', () => {
    run(`ip route add 100.64.3.0/24 table 1000 metric 4 src 192.0.2.1 dev u0`)
    run(`ip route add blackhole 100.64.4.0/24`)
    run(`ip route add 100.64.5.0/24 nexthop via 192.0.2.8 dev u0 nexthop via 192.0.2.9 dev u0`)
    run(`ip route add 100.64.6.0/24 via inet6 fe80::1 dev u0`)
    run(`ip route add default via 192.0.2.7`)
    const [three, ...others] = rtnl.dump(dumpRoutes({ table: 1000 }))
    expect(three).toMatchObject({ table: 1000, metric: 4, source: 0xc0000201, gateway: undefined })
    expect(others).toEqual([])
    const main = rtnl.dump(dumpRoutes({ table: RT_TABLE_MAIN }))
    const at = (third: number) =>
      main.find(({ destination }) => destination.address === 0x64400000 + (third << 8))
    expect(at(4)).toMatchObject({ type: 6, oif: undefined })
    expect(at(5)).toMatchObject({ multipath: expect.any(Uint8Array), gateway: undefined })
    expect(at(6)).toMatchObject({ gateway: undefined, oif: underlay.index })
    expect(main).toContainEqual(
      expect.objectContaining({ destination: { address: 0, length: 0 }, gateway: 0xc0000207 }),
    )
    const foreign = [...main, ...(three ? [three] : [])].filter(({ protocol }) => protocol === RTPROT_BOOT)
    expect(foreign).toHaveLength(5)
    expect(rtnl.batch(foreign.map((route) => deleteRoute(route)))).toEqual(foreign.map(() => undefined))
    expect(rtnl.dump(dumpRoutes({ protocol: RTPROT_BOOT }))).toEqual([])
  })

  it('is looked up as a packet would', () => {
    rtnl.execute(replaceRoute(route(1), device))
    expect(rtnl.get(getRoute(0x64400105))).toMatchObject({
      ...{ gateway: 0x64400100, oif: index, cloned: true, destination: { address: 0x64400105, length: 32 } },
    })
    expect(rtnl.get(getRoute(0xc0000205))).toMatchObject({ gateway: undefined, oif: underlay.index })
    expect(refused(() => rtnl.get(getRoute(0xc6336401))).message).toBe(
      'look up the route to 198.51.100.1: ENETUNREACH',
    )
  })

  it('list is empty where no route was ever made', () => {
    const back = enterNewNamespace()
    onTestFinished(back)
    const fresh = new Rtnl(openRtnetlink())
    onTestFinished(() => fresh.close())
    expect(fresh.dump(dumpRoutes({ table: RT_TABLE_MAIN }))).toEqual([])
  })
})

describe('a nexthop', () => {
  const nexthop = () => ({ id: 7, gateway: 0x64400100, oif: index, onlink: true, protocol: RTPROT_BOOT })

  it('is written, replaced, listed and deleted, and takes its routes along', () => {
    run('ip link set lo up')
    run(`ip nexthop add id 70 via 192.0.2.7 dev u0`)
    run(`ip nexthop add id 71 group 70`)
    run(`ip nexthop add id 72 blackhole`)
    rtnl.execute(replaceNexthop({ ...nexthop(), gateway: 0x64400900 }, device))
    rtnl.execute(replaceNexthop(nexthop(), device))
    expect(rtnl.dump(dumpNexthops({ oif: index }))).toEqual([nexthop()])
    expect(rtnl.dump(dumpNexthops()).map(({ id, oif }) => [id, oif === 0])).toEqual([
      ...[
        [7, false],
        [70, false],
        [71, true],
        [72, true],
      ],
    ])
    rtnl.execute(replaceRoute(route(1, { nexthopId: 7 }), device))
    rtnl.execute(deleteNexthop(7))
    expect(rtnl.dump(dumpRoutes({ table: RT_TABLE_MAIN, oif: index }))).toEqual([])
    expect(refused(() => rtnl.execute(deleteNexthop(7)))).toMatchObject({ code: 'ENOENT', notFound: true })
  })
})

describe('a neighbour', () => {
  it('is written, replaced whatever it was, listed by device and deleted', () => {
    run(`ip neigh add 100.64.1.0 lladdr ${mac3} dev ${device} nud reachable`)
    run(`ip neigh add 192.0.2.77 lladdr ${mac3} dev u0 nud permanent`)
    rtnl.execute(replaceNeighbour({ index, address: 0x64400100, mac: mac2 }, device))
    expect(run(`ip neigh show dev ${device}`)).toEqual([`100.64.1.0 lladdr ${mac2} PERMANENT`])
    expect(rtnl.dump(dumpNeighbours({ family: 4, index }))).toEqual([
      { index, address: 0x64400100, mac: mac2, state: NUD_PERMANENT, flags: 0 },
    ])
    rtnl.execute(deleteNeighbour({ index, address: 0x64400100 }, device))
    expect(rtnl.dump(dumpNeighbours({ family: 4, index }))).toEqual([])
    const gone = refused(() => rtnl.execute(deleteNeighbour({ index, address: 0x64400100 }, device)))
    expect(gone).toMatchObject({ code: 'ENOENT', notFound: true })
  })

  it('of a state of one\u2019s choice, or of IPv6', () => {
    const six = (0xfd00n << 112n) | 9n
    rtnl.execute(replaceNeighbour({ index, address: 0x64400100, mac: mac2, state: NUD_REACHABLE }, device))
    rtnl.execute(replaceNeighbour({ index, address: six, mac: mac3 }, device))
    expect(rtnl.dump(dumpNeighbours({ family: 4, index }))).toMatchObject([{ state: NUD_REACHABLE }])
    expect(rtnl.dump(dumpNeighbours({ family: 6, index }))).toContainEqual(
      expect.objectContaining({ address: six, mac: mac3, state: NUD_PERMANENT }),
    )
  })
})

describe('an FDB entry', () => {
  it('is written, replaced in place, listed by device and deleted', () => {
    rtnl.execute(create({ name: 'v2', vni: 77 }))
    run(`bridge fdb add ${mac3} dev v2 dst 192.0.2.3 self permanent`)
    rtnl.execute(replaceFdbEntry({ index, mac: mac2, destination: 0xc0000209 }, device))
    rtnl.execute(replaceFdbEntry({ index, mac: mac2, destination: 0xc0000202 }, device))
    expect(run(`bridge fdb show dev ${device}`)).toEqual([`${mac2} dst 192.0.2.2 self permanent`])
    const entry = {
      index,
      mac: mac2,
      destination: 0xc0000202,
      port: undefined,
      vni: undefined,
      via: undefined,
    }
    expect(rtnl.dump(dumpFdb({ index }))).toEqual([{ ...entry, state: NUD_PERMANENT, flags: NTF_SELF }])
    // Another destination than it has: the kernel says that it is done, and does nothing.
    rtnl.execute(deleteFdbEntry({ ...entry, destination: 0xc0000209 }, device))
    expect(rtnl.dump(dumpFdb({ index }))).toHaveLength(1)
    rtnl.execute(deleteFdbEntry(entry, device))
    expect(rtnl.dump(dumpFdb({ index }))).toEqual([])
    const gone = refused(() => rtnl.execute(deleteFdbEntry(entry, device)))
    expect(gone).toMatchObject({ code: 'ENOENT', notFound: true })
  })

  it('of others, with a port, a VNI or many destinations, is read and deleted', () => {
    run(`bridge fdb append 00:00:00:00:00:00 dev ${device} dst 192.0.2.5`)
    run(`bridge fdb append 00:00:00:00:00:00 dev ${device} dst 192.0.2.6`)
    run(`bridge fdb add ${mac3} dev ${device} dst 192.0.2.3 port 9999 vni 5 self permanent`)
    const entries = rtnl.dump(dumpFdb({ index }))
    expect(entries).toHaveLength(3)
    expect(entries).toContainEqual(
      expect.objectContaining({ mac: mac3, destination: 0xc0000203, port: 9999, vni: 5 }),
    )
    expect(rtnl.batch(entries.map((entry) => deleteFdbEntry(entry, device)))).toEqual([
      undefined,
      undefined,
      undefined,
    ])
    expect(rtnl.dump(dumpFdb({ index }))).toEqual([])
    run(`bridge fdb append 00:00:00:00:00:00 dev ${device} dst 192.0.2.5`)
    run(`bridge fdb append 00:00:00:00:00:00 dev ${device} dst 192.0.2.6`)
    rtnl.execute(deleteFdbEntry({ index, mac: '00:00:00:00:00:00', destination: undefined }, device))
    expect(rtnl.dump(dumpFdb({ index }))).toEqual([])
  })
})
