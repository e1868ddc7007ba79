/**
 * What the daemon relies on of Linux, as cases for a fake and a real kernel alike. A case is a list of commands;
 * each is answered as said, and makes the kernel say what is said.
 */
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { formatIpv4, formatSubnet } from '../../src/ip.ts'
import { decodeNotification, type Notification } from '../../src/netlink/monitor.ts'
import type { NetlinkRequest } from '../../src/netlink/request.ts'
import type { NetlinkSocket } from '../../src/netlink/socket.ts'
import { readMessages } from '../../src/netlink/wire.ts'
import type { Machine } from './machine.ts'
import { Operator } from './operator.ts'

const LOCAL_TABLE = 255

export function kernelSuite(make: () => Machine): void {
  let machine: Machine
  let op: Operator
  let portId: number
  let monitor: NetlinkSocket

  beforeEach(() => {
    machine = make()
    const socket = machine.open()
    portId = socket.portId
    op = new Operator(socket)
    op.do(op.veth('eth0', 'far0'))
    op.do(op.set('far0', { up: true }))
    op.do(op.set('eth0', { up: true }))
    op.do(op.address('add', 'eth0', '192.0.2.1/24'))
    op.do(
      op.vxlan('flannel.1', { parent: op.link('eth0').index, local: 0xc0000201, mac: '02:00:00:00:00:01' }),
    )
    op.do(op.set('flannel.1', { up: true }))
    monitor = machine.monitor()
  })
  afterEach(() => machine.close())

  const ok = (...requests: NetlinkRequest[]) => {
    for (const request of requests) expect(op.try(request), request.operation()).toBe('ok')
  }
  const routes = () => machine.state().routes.slice(0, -1)

  /** What was said since the last time but for devices, which say more than once what they are. */
  function said(): string[] {
    const lines: string[] = []
    for (let datagram = monitor.receive(); datagram !== undefined; datagram = monitor.receive()) {
      for (const message of readMessages(datagram)) {
        const change = decodeNotification(message)
        if (change === undefined || change.kind === 'link') continue
        // The local table is the kernel's own.
        if (change.kind !== 'route' || change.value.table !== LOCAL_TABLE)
          lines.push(describeChange(change, portId))
      }
    }
    return lines
  }

  describe('routes', () => {
    const S = '10.244.1.0/24'
    const right = { to: S, via: '10.244.1.0', dev: 'flannel.1', onlink: true }
    const other = { to: S, via: '192.0.2.9', dev: 'eth0' }
    const third = { to: S, via: '192.0.2.10', dev: 'eth0' }
    const R = `${S} via 10.244.1.0 dev flannel.1 onlink`
    const O = `${S} via 192.0.2.9 dev eth0`
    const T = `${S} via 192.0.2.10 dev eth0`

    it('are added once', () => {
      ok(op.route('add', right))
      expect(said()).toEqual([`+ route ${S} by us`])
      expect(op.try(op.route('add', right))).toBe('EEXIST')
      expect(op.try(op.route('add', other))).toBe('EEXIST')
      expect(op.try(op.route('append', right))).toBe('EEXIST')
      expect(said()).toEqual([])
      expect(routes()).toEqual([R])
    })

    it('are replaced by prefix, TOS and metric, whatever else they are', () => {
      ok(op.route('replace', right))
      said()
      ok(op.route('replace', other))
      expect(said()).toEqual([`+ route ${S} by us, replacing`])
      expect(routes()).toEqual([O])
      ok(op.route('replace', { ...right, metric: 5 }), op.route('replace', { ...right, tos: 0x10 }))
      expect(said()).toEqual([`+ route ${S} by us`, `+ route ${S} by us`])
      expect(routes()).toEqual([
        `${S} tos 0x10 via 10.244.1.0 dev flannel.1 onlink`,
        O,
        `${S} via 10.244.1.0 dev flannel.1 metric 5 onlink`,
      ])
    })

    it('are as they are when replaced by themselves, without a word', () => {
      ok(op.route('add', right))
      said()
      ok(op.route('replace', right))
      expect(said()).toEqual([])
    })

    it('stand in a row that append and prepend lengthen; replace takes the first place only', () => {
      ok(op.route('add', right), op.route('append', other), op.route('prepend', third))
      expect(routes()).toEqual([T, R, O])
      expect(op.try(op.route('replace', right))).toBe('EEXIST')
      ok(op.route('replace', { ...third, proto: 4 }))
      expect(routes()).toEqual([`${T} proto static`, R, O])
    })

    it('cannot be changed when there is none', () => {
      expect(op.try(op.route('change', right))).toBe('ENOENT')
    })

    it('are deleted by what is given, the first that has it', () => {
      ok(op.route('add', right), op.route('append', other), op.route('append', { ...right, metric: 7 }))
      expect(op.try(op.route('delete', { to: S, metric: 9 }))).toBe('ESRCH')
      expect(op.try(op.route('delete', { to: S, via: '10.244.9.9' }))).toBe('ESRCH')
      expect(op.try(op.route('delete', { to: S, proto: 4 }))).toBe('ESRCH')
      said()
      ok(op.route('delete', { to: S, dev: 'eth0' }))
      expect(said()).toEqual([`- route ${S} by us`])
      ok(op.route('delete', { to: S }))
      expect(routes()).toEqual([`${S} via 10.244.1.0 dev flannel.1 metric 7 onlink`])
      // Metric 0 is any.
      ok(op.route('delete', right))
      expect(routes()).toEqual([])
      expect(op.try(op.route('delete', right))).toBe('ESRCH')
    })

    it('with several gateways are deleted by all of them, and compared with as many as the other has', () => {
      const hops = [
        { via: '192.0.2.9', dev: 'eth0' },
        { via: '192.0.2.10', dev: 'eth0' },
      ]
      const many = { to: S, hops }
      ok(op.route('add', right), op.route('append', many))
      const M = [S, '\tnexthop via 192.0.2.9 dev eth0 weight 1', '\tnexthop via 192.0.2.10 dev eth0 weight 1']
      expect(routes()).toEqual([R, ...M])
      expect(op.try(op.route('delete', { to: S, hops: hops.toReversed() }))).toBe('ESRCH')
      ok(op.route('delete', many))
      expect(routes()).toEqual([R])
      // The first in the row that has the first of its gateways.
      ok(op.route('append', other), op.route('append', many), op.route('delete', many))
      expect(routes()).toEqual([R, ...M])
      ok(op.route('append', other), op.route('delete', other))
      expect(routes()).toEqual([R, O])
    })

    it('through a nexthop object are deleted by its number', () => {
      ok(op.nexthop('add', 7, '10.244.1.0', 'flannel.1'), op.route('add', { to: S, nhid: 7 }))
      ok(op.route('append', other))
      expect(op.try(op.route('delete', right))).toBe('ESRCH')
      expect(op.try(op.route('delete', { to: S, nhid: 8 }))).toBe('EINVAL')
      ok(op.route('delete', { to: S, nhid: 7 }))
      expect(routes()).toEqual([O])
    })

    it('are kept apart by table; a table that never had one is not there', () => {
      expect(op.try(op.route('delete', { to: S, table: 100 }))).toBe('ESRCH')
      ok(op.route('add', right), op.route('add', { ...right, table: 100 }))
      expect(machine.state().routes.at(-1)).toBe(`${S} via 10.244.1.0 dev flannel.1 table 100 onlink`)
      ok(op.route('delete', { to: S }))
      expect(op.try(op.route('delete', { to: S }))).toBe('ESRCH')
      ok(op.route('delete', { to: S, table: 100 }))
    })

    it.each([
      {
        what: 'host bits',
        words: { ...right, to: '10.244.1.1/24' },
        why: 'EINVAL',
      },
      {
        what: 'a gateway off the link',
        words: { ...right, onlink: false },
        why: 'ENETUNREACH',
      },
      {
        what: 'a nexthop object that is not there',
        words: { to: S, nhid: 7 },
        why: 'EINVAL',
      },
      {
        what: 'a source that is not ours',
        words: { ...right, src: '10.9.9.9' },
        why: 'EINVAL',
      },
    ])('are refused with $what', ({ words, why }) => {
      expect(op.try(op.route('add', words))).toBe(why)
    })

    it('are refused through a device that is down or gone', () => {
      const request = op.route('add', right)
      ok(op.set('flannel.1', { up: false }))
      expect(op.try(request)).toBe('ENETDOWN')
      ok(op.unlink('flannel.1'))
      expect(op.try(request)).toBe('ENODEV')
    })

    it('may leave the device to the kernel', () => {
      ok(op.route('add', { to: S, via: '192.0.2.9' }))
      expect(routes()).toEqual([O])
    })
  })

  describe('neighbours', () => {
    const A = '10.244.1.0'
    const line = (mac: string) => `${A} dev flannel.1 lladdr ${mac} PERMANENT`

    it('are one for an address', () => {
      ok(op.neighbour('add', 'flannel.1', A, '02:00:00:00:00:02'))
      expect(said()).toEqual([`+ neighbour ${A} 02:00:00:00:00:02 128 by us`])
      expect(op.try(op.neighbour('add', 'flannel.1', A, '02:00:00:00:00:02'))).toBe('EEXIST')
      ok(op.neighbour('replace', 'flannel.1', A, '02:00:00:00:00:02'))
      expect(said()).toEqual([])
      ok(op.neighbour('replace', 'flannel.1', A, '02:00:00:00:00:03'))
      expect(said()).toEqual([`+ neighbour ${A} 02:00:00:00:00:03 128 by us`])
      // Without REPLACE another MAC is not taken over, and that is no error.
      ok(op.neighbour('append', 'flannel.1', A, '02:00:00:00:00:04'))
      expect(machine.state().neighbours).toEqual([line('02:00:00:00:00:03')])
    })

    it('fail, and then go, when they are deleted', () => {
      ok(op.neighbour('add', 'flannel.1', A, '02:00:00:00:00:02'))
      said()
      ok(op.neighbour('delete', 'flannel.1', A))
      expect(said()).toEqual([
        `+ neighbour ${A} undefined 32 by us`,
        `- neighbour ${A} undefined 32 by the kernel`,
      ])
      expect(op.try(op.neighbour('delete', 'flannel.1', A))).toBe('ENOENT')
      expect(op.try(op.neighbour('change', 'flannel.1', A))).toBe('ENOENT')
    })

    it('may be written while the device is down, not when it is gone', () => {
      ok(op.set('flannel.1', { up: false }), op.neighbour('add', 'flannel.1', A, '02:00:00:00:00:02'))
      const request = op.neighbour('replace', 'flannel.1', '10.244.2.0')
      ok(op.set('flannel.1', { up: true }))
      expect(machine.state().neighbours).toEqual([line('02:00:00:00:00:02')])
      ok(op.unlink('flannel.1'))
      expect(op.try(request)).toBe('ENODEV')
    })
  })

  describe('FDB entries', () => {
    const M = '02:00:00:00:00:02'
    const G = '01:00:5e:00:00:01'
    const line = (mac: string, dst: string) => `${mac} dev flannel.1 dst ${dst} self permanent`

    it('lead one MAC to one destination, which REPLACE changes', () => {
      ok(op.fdb('replace', 'flannel.1', M, '192.0.2.2'))
      expect(said()).toEqual([`+ fdb ${M} 192.0.2.2 by the kernel`])
      ok(op.fdb('replace', 'flannel.1', M, '192.0.2.2'))
      expect(said()).toEqual([])
      ok(op.fdb('replace', 'flannel.1', M, '192.0.2.3'))
      expect(said()).toEqual([`+ fdb ${M} 192.0.2.3 by the kernel`])
      expect(machine.state().fdb).toEqual([line(M, '192.0.2.3')])
      expect(op.try(op.fdb('add', 'flannel.1', M, '192.0.2.4'))).toBe('EEXIST')
      // For a unicast MAC these do nothing, and say so to nobody.
      ok(op.fdb('append', 'flannel.1', M, '192.0.2.4'), op.fdb('prepend', 'flannel.1', M, '192.0.2.4'))
      expect(said()).toEqual([])
      expect(machine.state().fdb).toEqual([line(M, '192.0.2.3')])
    })

    it('lead a multicast MAC to several', () => {
      ok(op.fdb('append', 'flannel.1', G, '192.0.2.2'), op.fdb('append', 'flannel.1', G, '192.0.2.3'))
      expect(machine.state().fdb).toEqual([line(G, '192.0.2.2'), line(G, '192.0.2.3')])
      expect(op.try(op.fdb('replace', 'flannel.1', G, '192.0.2.4'))).toBe('ENOTSUP')
      said()
      ok(op.fdb('delete', 'flannel.1', G, '192.0.2.2'))
      expect(said()).toEqual([`- fdb ${G} 192.0.2.2 by the kernel`])
      expect(machine.state().fdb).toEqual([line(G, '192.0.2.3')])
    })

    it('are deleted by MAC and destination', () => {
      ok(op.fdb('add', 'flannel.1', M, '192.0.2.2'))
      said()
      // Another destination than it has: nothing happens, and that is no error.
      ok(op.fdb('delete', 'flannel.1', M, '192.0.2.3'))
      expect(said()).toEqual([])
      ok(op.fdb('delete', 'flannel.1', M, '192.0.2.2'))
      expect(said()).toEqual([`- fdb ${M} 192.0.2.2 by the kernel`])
      expect(op.try(op.fdb('delete', 'flannel.1', M, '192.0.2.2'))).toBe('ENOENT')
      expect(op.try(op.fdb('change', 'flannel.1', M, '192.0.2.2'))).toBe('ENOENT')
    })
  })

  describe('nexthop objects', () => {
    it('are replaced by id, and routes follow', () => {
      ok(
        op.nexthop('replace', 7, '10.244.1.0', 'flannel.1'),
        op.route('add', { to: '10.244.1.0/24', nhid: 7 }),
      )
      expect(said()).toEqual(['+ nexthop 7 by us, replacing', '+ route 10.244.1.0/24 by us'])
      ok(op.nexthop('replace', 7, '10.244.2.0', 'flannel.1'))
      expect(said()).toEqual(['+ nexthop 7 by us, replacing', '+ route 10.244.1.0/24 by us, replacing'])
      expect(routes()).toEqual(['10.244.1.0/24 nhid 7 via 10.244.2.0 dev flannel.1 onlink'])
      expect(machine.state().nexthops).toEqual([
        'id 7 via 10.244.2.0 dev flannel.1 scope link proto boot onlink',
      ])
    })

    it('are added once, and changed only when they are there', () => {
      ok(op.nexthop('add', 7, '10.244.1.0', 'flannel.1'))
      expect(op.try(op.nexthop('add', 7, '10.244.1.0', 'flannel.1'))).toBe('EEXIST')
      expect(op.try(op.nexthop('change', 8, '10.244.1.0', 'flannel.1'))).toBe('ENOENT')
    })

    it('take their routes along, in silence', () => {
      ok(op.nexthop('add', 7, '10.244.1.0', 'flannel.1'), op.route('add', { to: '10.244.1.0/24', nhid: 7 }))
      said()
      ok(op.nexthop('delete', 7, '10.244.1.0', 'flannel.1'))
      expect(said()).toEqual(['- nexthop 7 by us'])
      expect(routes()).toEqual([])
      expect(op.try(op.nexthop('delete', 7, '10.244.1.0', 'flannel.1'))).toBe('ENOENT')
    })

    it('let a route be deleted by id, or without a gateway', () => {
      ok(op.nexthop('add', 7, '10.244.1.0', 'flannel.1'), op.route('add', { to: '10.244.1.0/24', nhid: 7 }))
      expect(op.try(op.route('delete', { to: '10.244.1.0/24', via: '10.244.1.0' }))).toBe('ESRCH')
      expect(op.try(op.route('delete', { to: '10.244.1.0/24', nhid: 8 }))).not.toBe('ok')
      ok(op.route('delete', { to: '10.244.1.0/24', nhid: 7 }))
    })

    it('are refused through a device that is down or gone', () => {
      const request = op.nexthop('add', 7, '10.244.1.0', 'flannel.1')
      ok(op.set('flannel.1', { up: false }))
      expect(op.try(request)).toBe('ENETDOWN')
      ok(op.unlink('flannel.1'))
      expect(op.try(request)).toBe('EINVAL')
    })
  })

  describe('a device', () => {
    const full = () => {
      ok(
        op.address('add', 'flannel.1', '10.244.0.0/32'),
        op.neighbour('add', 'flannel.1', '10.244.1.0', '02:00:00:00:00:02'),
        op.fdb('add', 'flannel.1', '02:00:00:00:00:02', '192.0.2.2'),
        op.nexthop('add', 7, '10.244.2.0', 'flannel.1'),
        op.route('add', { to: '10.244.1.0/24', via: '10.244.1.0', dev: 'flannel.1', onlink: true }),
        op.route('add', { to: '10.244.2.0/24', nhid: 7 }),
        op.route('add', { to: '10.9.0.0/24', via: '192.0.2.9', dev: 'eth0' }),
      )
      said()
    }
    const counts = () => {
      const { routes, neighbours, fdb, nexthops, addresses } = machine.state()
      return {
        routes: routes.filter((line) => line.includes('flannel.1')).length,
        ...{ neighbours: neighbours.length, fdb: fdb.length, nexthops: nexthops.length },
        addresses: addresses.filter((line) => line.startsWith('flannel.1')).length,
      }
    }

    it('that goes down loses routes and nexthop objects in silence, neighbours with a word, FDB entries not', () => {
      full()
      ok(op.set('flannel.1', { up: false }))
      expect(counts()).toEqual({ routes: 0, neighbours: 0, fdb: 1, nexthops: 0, addresses: 1 })
      expect(said()).toEqual(['- neighbour 10.244.1.0 02:00:00:00:00:02 128 by the kernel'])
      ok(op.set('flannel.1', { up: true }))
      expect(counts()).toEqual({ routes: 0, neighbours: 0, fdb: 1, nexthops: 0, addresses: 1 })
    })

    it('that is deleted loses all', () => {
      full()
      ok(op.unlink('flannel.1'))
      expect(counts()).toEqual({ routes: 0, neighbours: 0, fdb: 0, nexthops: 0, addresses: 0 })
      expect(said().sort()).toEqual([
        '- address 10.244.0.0/32 by the kernel',
        '- fdb 02:00:00:00:00:02 192.0.2.2 by the kernel',
        '- neighbour 10.244.1.0 02:00:00:00:00:02 128 by the kernel',
      ])
    })

    it('that is deleted while it is down loses what was added meanwhile', () => {
      ok(op.set('flannel.1', { up: false }))
      ok(op.neighbour('add', 'flannel.1', '10.244.1.0', '02:00:00:00:00:02'))
      ok(op.unlink('flannel.1'))
      expect(counts()).toMatchObject({ neighbours: 0, fdb: 0 })
    })

    it('that loses its last address loses plain routes and neighbours', () => {
      full()
      ok(op.address('add', 'flannel.1', '10.244.0.9/32'), op.address('delete', 'flannel.1', '10.244.0.0/32'))
      expect(counts()).toEqual({ routes: 2, neighbours: 1, fdb: 1, nexthops: 1, addresses: 1 })
      ok(op.address('delete', 'flannel.1', '10.244.0.9/32'))
      expect(counts()).toEqual({ routes: 1, neighbours: 0, fdb: 1, nexthops: 1, addresses: 0 })
    })

    it('with another MAC loses neighbours', () => {
      full()
      ok(op.set('flannel.1', { mac: '02:00:00:00:00:77' }))
      expect(counts()).toEqual({ routes: 2, neighbours: 0, fdb: 1, nexthops: 1, addresses: 1 })
      expect(op.link('flannel.1').mac).toBe('02:00:00:00:00:77')
    })

    it('with another MTU or name loses nothing', () => {
      full()
      ok(op.set('flannel.1', { mtu: 1300 }), op.set('flannel.1', { rename: 'x' }))
      ok(op.set('x', { rename: 'flannel.1' }))
      expect(counts()).toEqual({ routes: 2, neighbours: 1, fdb: 1, nexthops: 1, addresses: 1 })
      // The address is said again, as its label has the name in it.
      expect(said()).toEqual(Array(2).fill('+ address 10.244.0.0/32 by the kernel'))
    })

    it('whose parent goes down, loses its address or MTU stays as it is', () => {
      full()
      ok(op.set('eth0', { up: false }), op.set('eth0', { up: true }))
      ok(op.address('delete', 'eth0', '192.0.2.1/24'), op.set('eth0', { mtu: 1200 }))
      expect(counts()).toEqual({ routes: 2, neighbours: 1, fdb: 1, nexthops: 1, addresses: 1 })
      expect(op.link('flannel.1').mtu).toBe(1450)
      expect(machine.state().routes.some((line) => line.includes('eth0'))).toBe(false)
    })

    it('whose parent is deleted goes with it', () => {
      full()
      ok(op.unlink('eth0'))
      expect(op.hasLink('flannel.1')).toBe(false)
      expect(op.hasLink('far0')).toBe(false)
    })

    it('goes with the routes of its own subnet', () => {
      expect(machine.state().routes).toEqual(['192.0.2.0/24 dev eth0 proto kernel scope link src 192.0.2.1'])
      ok(op.set('eth0', { up: false }))
      expect(machine.state().routes).toEqual([])
      said()
      ok(op.set('eth0', { up: true }))
      expect(said()).toEqual(['+ route 192.0.2.0/24 by the kernel'])
      ok(op.address('delete', 'eth0', '192.0.2.1/24'))
      expect(said()).toEqual(['- address 192.0.2.1/24 by us', '- route 192.0.2.0/24 by the kernel'])
    })

    it.each([
      { what: 'a name that is taken', make: () => op.vxlan('eth0', { vni: 2 }), why: 'EEXIST' },
      {
        what: 'a VNI and port that are taken',
        make: () => op.vxlan('x'),
        why: 'EEXIST',
      },
      {
        what: 'a parent that is not there',
        make: () => op.vxlan('x', { vni: 2, parent: 999 }),
        why: 'ENODEV',
      },
      { what: 'the same VNI on another port', make: () => op.vxlan('x', { port: 4789 }), why: 'ok' },
    ])('is made with $what: $why', ({ make: request, why }) => {
      expect(op.try(request())).toBe(why)
    })

    it('has the MTU of its parent less 50, and no more', () => {
      const parent = op.link('eth0').index
      ok(op.vxlan('a', { vni: 2, parent }), op.vxlan('b', { vni: 3, parent, mtu: 9000 }))
      ok(op.vxlan('c', { vni: 4, parent, mtu: 1200 }))
      expect(['a', 'b', 'c'].map((name) => op.link(name).mtu)).toEqual([1450, 1450, 1200])
      expect(op.try(op.set('c', { mtu: 1451 }))).toBe('EINVAL')
      expect(op.try(op.set('c', { mtu: 67 }))).toBe('EINVAL')
      ok(op.set('c', { mtu: 1450 }))
    })

    it('reads as it was made', () => {
      const { kind, up, vxlan, txQueueLength } = op.link('flannel.1')
      expect({ kind, up, txQueueLength }).toEqual({ kind: 'vxlan', up: true, txQueueLength: 0 })
      expect(vxlan).toMatchObject({
        ...{ vni: 1, parent: op.link('eth0').index, local: 0xc0000201, port: 8472, learning: false },
        ...{ proxy: false, rsc: false, l2miss: false, l3miss: false, gbp: false, group: undefined },
      })
      ok(op.setVxlan('flannel.1', { learning: true, local: 0xc0000202 }))
      expect(op.link('flannel.1').vxlan).toMatchObject({ learning: true, local: 0xc0000202 })
    })

    it('has addresses once each', () => {
      ok(op.address('add', 'flannel.1', '10.244.0.0/32'))
      expect(said()).toEqual(['+ address 10.244.0.0/32 by us'])
      expect(op.try(op.address('add', 'flannel.1', '10.244.0.0/32'))).toBe('EEXIST')
      expect(op.try(op.address('delete', 'flannel.1', '10.244.0.1/32'))).toBe('EADDRNOTAVAIL')
    })
  })
}

function describeChange(change: Exclude<Notification, { kind: 'link' }>, us: number): string {
  const who = change.portId === us ? 'us' : change.portId === 0 ? 'the kernel' : change.portId
  const by = `by ${who}${change.replaced && change.kind !== 'fdb' ? ', replacing' : ''}`
  const sign = change.deleted ? '-' : '+'
  switch (change.kind) {
    case 'address':
      return `${sign} address ${formatIpv4(Number(change.value.address))}/${change.value.length} ${by}`
    case 'route':
      return `${sign} route ${formatSubnet(change.value.destination)} ${by}`
    case 'neighbour':
      return `${sign} neighbour ${formatIpv4(Number(change.value.address))} ${change.value.mac} ${change.value.state} ${by}`
    case 'fdb':
      return `${sign} fdb ${change.value.mac} ${formatIpv4(change.value.destination ?? 0)} ${by}`
    case 'nexthop':
      return `${sign} nexthop ${change.value.id} ${by}`
  }
}
