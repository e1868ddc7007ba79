/** One VXLAN network from first start to last peer, over a fake and a real kernel alike. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { PLAIN_ROUTES } from '../../src/backend/routes.ts'
import type { Machine } from './machine.ts'
import { DEVICE, leaseOf, type NodeOptions, OWN_MAC, type Peer, peer, prepare, TestNode } from './node.ts'
import { Operator } from './operator.ts'

const ALICE = peer(1)
const BOB = peer(2)
const CAROL = peer(3)

export function networkSuite(make: () => Machine): void {
  let machine: Machine
  let op: Operator
  const nodes: TestNode[] = []

  beforeEach(() => {
    machine = make()
    op = new Operator(machine.open())
    prepare(op)
  })
  afterEach(async () => {
    for (const node of nodes.splice(0)) await node.stop()
    machine.close()
  })

  function newNode(options: NodeOptions = {}): TestNode {
    const node = new TestNode(machine, op, options)
    nodes.push(node)
    return node
  }
  const start = (peers: readonly Peer[], options: NodeOptions = {}) => newNode(options).start(peers)
  async function restart(
    node: TestNode,
    peers: readonly Peer[],
    options: NodeOptions = {},
  ): Promise<TestNode> {
    nodes.splice(nodes.indexOf(node), 1)
    await node.stop()
    return start(peers, options)
  }
  const tunnel = ({ subnet }: Peer) => ({
    ...{ to: subnet, via: subnet.replace(/\/.*/, ''), dev: DEVICE, onlink: true },
  })

  describe('a first snapshot', () => {
    it('makes of an empty machine what flannel makes of it', () => {
      const node = start([ALICE, BOB])
      node.expectState([ALICE, BOB])
      const { mtu, mac, up, vxlan, txQueueLength } = op.link(DEVICE)
      expect({ mtu, mac, up, txQueueLength }).toEqual({ mtu: 1450, mac: OWN_MAC, up: true, txQueueLength: 0 })
      expect(vxlan).toMatchObject({ vni: 1, port: 8472, local: 0xc0000201, learning: false, gbp: false })
      expect(node.network.status).toMatchObject({
        peers: 2,
        tables: { route: { wanted: 2, held: 2, failed: 0 }, neighbour: { wanted: 2, held: 2, failed: 0 } },
        repairs: { route: 0, neighbour: 0, fdb: 0, nexthop: 0, device: 0 },
      })
    })

    it('over a dirty kernel keeps what is right, mends what is wrong, removes what is stale, leaves what is foreign', async () => {
      await restart(start([ALICE]), [])
      nodes.splice(0).map((node) => node.stop())
      // Right: ALICE. Wrong: BOB, in all tables. Stale: CAROL. Foreign: eth0's, another table's, another metric's.
      for (const request of [
        op.neighbour('replace', DEVICE, '10.244.1.0', ALICE.mac),
        op.fdb('replace', DEVICE, ALICE.mac, ALICE.ip),
        op.route('replace', tunnel(ALICE)),
        op.neighbour('replace', DEVICE, '10.244.2.0', '02:00:00:00:bb:bb'),
        op.fdb('replace', DEVICE, BOB.mac, '198.51.100.66'),
        op.route('replace', { ...tunnel(BOB), via: '10.244.99.0' }),
        op.neighbour('replace', DEVICE, '10.244.3.0', CAROL.mac),
        op.fdb('replace', DEVICE, CAROL.mac, CAROL.ip),
        op.fdb('append', DEVICE, '00:00:00:00:00:00', CAROL.ip),
        op.fdb('append', DEVICE, '00:00:00:00:00:00', BOB.ip),
        op.route('replace', tunnel(CAROL)),
        op.nexthop('replace', 0xf1000003, '10.244.3.0', DEVICE),
        op.route('replace', { to: '10.244.33.0/24', nhid: 0xf1000003 }),
        // Beside ours, on our device, though not from us: the device is ours alone.
        op.route('replace', {
          to: '198.51.100.0/24',
          via: '10.244.2.0',
          dev: DEVICE,
          onlink: true,
          proto: 4,
        }),
      ])
        op.do(request)
      for (const request of [
        op.neighbour('replace', 'eth0', '192.0.2.9', '02:00:00:00:00:99'),
        op.nexthop('replace', 77, '192.0.2.9', 'eth0'),
        op.nexthop('replace', 0xf1000009, '192.0.2.9', 'eth0'),
        op.nexthop('replace', 78, '10.244.2.0', DEVICE),
        op.route('add', { to: '10.99.0.0/16', nhid: 77 }),
        op.route('add', { to: CAROL.subnet, via: '192.0.2.9', dev: 'eth0', metric: 9 }),
        op.route('add', { to: ALICE.subnet, via: '192.0.2.9', dev: 'eth0', metric: 9 }),
        op.route('add', { ...tunnel(CAROL), table: 100 }),
      ])
        op.do(request)
      const node = start([ALICE, BOB])
      node.expectState([ALICE, BOB], {
        neighbours: ['192.0.2.9 dev eth0 lladdr 02:00:00:00:00:99 PERMANENT'],
        nexthops: [
          'id 77 via 192.0.2.9 dev eth0 scope link proto boot onlink',
          'id 78 via 10.244.2.0 dev flannel.1 scope link proto boot onlink',
          'id 4043309065 via 192.0.2.9 dev eth0 scope link proto boot onlink',
        ],
        routes: [
          '10.99.0.0/16 nhid 77 via 192.0.2.9 dev eth0 onlink',
          `${CAROL.subnet} via 192.0.2.9 dev eth0 metric 9`,
          `${ALICE.subnet} via 192.0.2.9 dev eth0 metric 9`,
          `${CAROL.subnet} via 10.244.3.0 dev flannel.1 table 100 onlink`,
        ],
      })
      expect(node.writes.filter((write) => write.includes('"10.244.1.0"'))).toEqual([])
      expect(node.logged.filter((line) => !line.startsWith('I'))).toEqual([])
    })

    it('is waited for before anything is deleted', () => {
      const stale = start([ALICE, BOB])
      const node = newNode()
      node.network.start()
      node.network.putLease(leaseOf(CAROL))
      node.network.apply()
      stale.expectState([ALICE, BOB])
      node.snapshot([CAROL])
      node.network.apply()
      node.expectState([CAROL])
    })

    it('that is empty withdraws every peer', async () => {
      const node = start([ALICE, BOB])
      node.snapshot([])
      await node.settle()
      node.expectState([])
    })

    it('skips leases that are none of ours, one line each', async () => {
      const own = { ...CAROL, mac: OWN_MAC }
      const node = newNode()
      node.network.start()
      const bad = {
        ...leaseOf(BOB),
        attributes: { ...leaseOf(BOB).attributes, backendData: { VtepMAC: 'x' } },
      }
      for (let i = 0; i < 2; i++) node.network.replaceLeases([leaseOf(ALICE), bad, leaseOf(own)])
      node.network.apply()
      node.expectState([ALICE])
      expect(node.network.status).toMatchObject({ peers: 1, skipped: 2 })
      expect(node.logged.filter((line) => line.startsWith('W'))).toEqual([
        'W error decoding subnet lease JSON: 10.244.2.0/24 has no usable VtepMAC in BackendData {"VtepMAC":"x"}',
        expect.stringContaining('10.244.3.0/24 of 203.0.113.3: its VtepMAC 02:00:00:00:00:01 is our own'),
      ])
    })
  })

  describe('a change', () => {
    it.each([
      { what: 'MAC', next: { ...ALICE, mac: '02:00:00:00:aa:aa' } },
      { what: 'PublicIP', next: { ...ALICE, ip: '198.51.100.7' } },
      { what: 'MAC and PublicIP', next: { ...ALICE, mac: '02:00:00:00:aa:aa', ip: '198.51.100.7' } },
    ])("of a peer's $what leaves nothing of the old, by event and by snapshot", async ({ next }) => {
      const node = start([ALICE, BOB])
      node.put(next)
      await node.settle()
      node.expectState([next, BOB])
      node.snapshot([ALICE, BOB])
      await node.settle()
      node.expectState([ALICE, BOB])
      expect(node.logged.filter((line) => !line.startsWith('I'))).toEqual([])
    })

    it('that is none writes nothing', async () => {
      const node = start([ALICE, BOB])
      node.forget()
      node.snapshot([ALICE, BOB])
      node.put(ALICE)
      await node.settle()
      expect(node.writes).toEqual([])
    })

    it('that removes one peer touches no other', async () => {
      const node = start([ALICE, BOB])
      node.forget()
      node.remove(ALICE)
      await node.settle()
      node.expectState([BOB])
      expect(node.writes.filter((write) => write.includes(BOB.mac) || write.includes('10.244.2.0'))).toEqual(
        [],
      )
    })

    it('that removes a peer, some of which is gone already, removes the rest', async () => {
      const node = start([ALICE, BOB])
      node.deaf = true
      op.do(op.neighbour('delete', DEVICE, '10.244.1.0'))
      op.do(op.fdb('delete', DEVICE, ALICE.mac, ALICE.ip))
      node.remove(ALICE)
      await node.settle()
      node.expectState([BOB])
      expect(node.logged.filter((line) => !line.startsWith('I'))).toEqual([])
    })

    it('that comes and goes at once is never seen by the kernel', async () => {
      const node = start([ALICE])
      node.forget()
      node.put(BOB)
      node.remove(BOB)
      await node.settle()
      expect(node.writes).toEqual([])
    })
  })

  describe('two leases of one node', () => {
    const moved = { ...BOB, mac: ALICE.mac, ip: ALICE.ip }

    it('share their FDB entry, which goes with the last', async () => {
      const node = start([ALICE, moved])
      node.expectState([ALICE, moved])
      node.remove(ALICE)
      await node.settle()
      node.expectState([moved])
      node.put(ALICE)
      await node.settle()
      node.remove(moved)
      await node.settle()
      node.expectState([ALICE])
      node.remove(ALICE)
      await node.settle()
      node.expectState([])
    })

    it('follow the newest where their addresses differ, and go back when it leaves', async () => {
      const newer = { ...BOB, mac: ALICE.mac, modifiedIndex: 100 }
      const node = start([ALICE])
      node.put(newer)
      await node.settle()
      node.expectState([newer])
      node.put(CAROL)
      node.remove(newer)
      await node.settle()
      node.expectState([ALICE, CAROL])
      const renewed = { ...ALICE, modifiedIndex: 200 }
      node.put(newer)
      await node.settle()
      node.put(renewed)
      await node.settle()
      node.expectState([renewed, CAROL])
    })

    it('are both wanted again when the newer gets a MAC of its own', async () => {
      const newer = { ...BOB, mac: ALICE.mac, modifiedIndex: 100 }
      const node = start([ALICE, newer])
      node.expectState([newer])
      node.put({ ...BOB, modifiedIndex: 101 })
      await node.settle()
      node.expectState([ALICE, BOB])
    })

    it('move together when both get another address', async () => {
      const node = start([ALICE, moved])
      node.put({ ...ALICE, ip: '198.51.100.9', modifiedIndex: 50 })
      node.put({ ...moved, ip: '198.51.100.9', modifiedIndex: 51 })
      await node.settle()
      node.expectState([
        { ...ALICE, ip: '198.51.100.9' },
        { ...moved, ip: '198.51.100.9' },
      ])
    })
  })

  describe('DirectRouting', () => {
    const near: Peer = { ...ALICE, ip: '192.0.2.11', kind: 'direct' }
    const far = BOB
    beforeEach(() => op.do(op.route('add', { to: '0.0.0.0/0', via: '192.0.2.254' })))
    const out = { routes: ['default via 192.0.2.254 dev eth0'] }

    it('takes the tunnel only where there is a router between', () => {
      start([near, far], { directRouting: true }).expectState([near, far], out)
    })

    it('that is off takes the tunnel always, and takes over from a run with it on, and back', async () => {
      const tunnelled: Peer = { ...near, kind: 'tunnel' }
      let node = start([tunnelled, far])
      node.expectState([tunnelled, far], out)
      node = await restart(node, [near, far], { directRouting: true })
      node.expectState([near, far], out)
      node = await restart(node, [tunnelled, far])
      node.expectState([tunnelled, far], out)
    })

    it('removes the direct route of a peer that left while it was not running, and no other', async () => {
      op.do(op.route('add', { to: '10.99.1.0/24', via: '192.0.2.9', dev: 'eth0' }))
      op.do(op.route('add', { to: '10.244.128.0/20', via: '192.0.2.9', dev: 'eth0' }))
      const node = await restart(start([near, far], { directRouting: true }), [far], { directRouting: true })
      node.expectState([far], {
        routes: [
          ...out.routes,
          '10.99.1.0/24 via 192.0.2.9 dev eth0',
          '10.244.128.0/20 via 192.0.2.9 dev eth0',
        ],
      })
    })

    it('follows a peer that moves behind a router and back', async () => {
      const node = start([near, far], { directRouting: true })
      const moved: Peer = { ...near, ip: '198.51.100.1', kind: 'tunnel' }
      node.put(moved)
      await node.settle()
      node.expectState([moved, far], out)
      node.put(near)
      await node.settle()
      node.expectState([near, far], out)
    })

    it('follows the routes to a peer, at the latest with the next compare', async () => {
      const node = start([near], { directRouting: true })
      op.do(op.route('add', { to: '192.0.2.11/32', via: '192.0.2.254' }))
      await node.settle(61_000)
      const more = { routes: [...out.routes, '192.0.2.11 via 192.0.2.254 dev eth0'] }
      node.expectState([{ ...near, kind: 'tunnel' }], more)
      op.do(op.route('delete', { to: '192.0.2.11/32' }))
      await node.settle(61_000)
      node.expectState([near], out)
    })

    it('writes nothing over a right state', async () => {
      const node = await restart(start([near, far], { directRouting: true }), [near, far], {
        directRouting: true,
      })
      await node.settle(61_000)
      expect(node.writes).toEqual([])
    })
  })

  describe('many peers', () => {
    const many = (count: number) => Array.from({ length: count }, (_, i) => peer(i + 1))

    it(`are plain routes up to ${PLAIN_ROUTES}, nexthop objects beyond, and plain again when there are few`, async () => {
      const peers = many(PLAIN_ROUTES + 76).map(
        (p, i): Peer => ({ ...p, kind: i < PLAIN_ROUTES ? 'tunnel' : 'nexthop' }),
      )
      let node = start(peers)
      node.expectState(peers)
      node = await restart(node, peers)
      await node.settle(61_000)
      expect(node.writes).toEqual([])
      // The kind of a route is no reason to touch it while there are many.
      const fewer = peers.slice(100)
      node.snapshot(fewer)
      await node.settle()
      node.expectState(fewer)
      node = await restart(node, fewer.toReversed())
      expect(node.writes).toEqual([])
      const few = peers.slice(-20)
      node.snapshot(few)
      await node.settle()
      node.expectState(few.map((p): Peer => ({ ...p, kind: 'tunnel' })))
    })

    it('leave one by one: each has a few routes more go back to plain ones, and the next compare the rest', async () => {
      const peers = many(PLAIN_ROUTES + 76)
      const node = start(peers)
      const left = peers.slice(PLAIN_ROUTES * 0.25 + 77)
      node.snapshot(left)
      await node.settle()
      const nexthops = (): number => machine.state().nexthops.length
      // There are few from this one on.
      expect([left.length, nexthops()]).toEqual([PLAIN_ROUTES * 0.75 - 1, 72])
      let leaving = 0
      for (const p of left.splice(0, 3)) {
        node.forget()
        node.remove(p)
        await node.settle()
        leaving++
        expect(nexthops()).toBe(72 - 4 * leaving)
        // What it had, and for each of the four a route in the place of another and an object less.
        expect(node.writes).toHaveLength(3 + 2 * 4)
      }
      await node.settle(61_000)
      node.expectState(left)
      node.forget()
      await node.settle(61_000)
      expect(node.writes).toEqual([])
      expect(node.logged).toEqual([])
    })
  })

  it('tells of each full compare how many entries it has read', async () => {
    const node = start([ALICE, BOB])
    node.compared.length = 0
    await node.settle(181_000)
    // Of each peer a route, a neighbour and an FDB entry.
    expect(node.compared).toEqual([6, 6, 6])
  })

  describe('the device', () => {
    const parent = () => op.link('eth0').index
    const made = (given: Parameters<Operator['vxlan']>[1] = {}) =>
      op.do(op.vxlan(DEVICE, { parent: parent(), local: 0xc0000201, mac: OWN_MAC, ...given }))

    it('that is right is left alone, with all on it', async () => {
      const before = start([ALICE, BOB])
      const { index } = op.link(DEVICE)
      const node = await restart(before, [ALICE, BOB])
      await node.settle(200_000)
      expect(op.link(DEVICE).index).toBe(index)
      expect(node.writes).toEqual([])
      expect(node.logged).toEqual([])
    })

    it.each([
      { what: 'VNI', given: { vni: 9 }, why: 'vni: 1 vs 9' },
      { what: 'port', given: { port: 4789 }, why: 'port: 8472 vs 4789' },
      {
        what: 'local address',
        given: { local: 0xc0000209 },
        why: 'vtep (external) IP: 192.0.2.1 vs 192.0.2.9',
      },
      { what: 'parent', given: { parent: 0 }, why: /vtep \(external\) interface: \d+ vs 0/ },
      { what: 'GBP', given: { gbp: true }, why: 'gbp: false vs true' },
    ])('with another $what is made anew, with the same MAC', ({ given, why }) => {
      made(given)
      const { index } = op.link(DEVICE)
      const node = start([ALICE])
      node.expectState([ALICE])
      const link = op.link(DEVICE)
      expect(link.index).not.toBe(index)
      expect(link).toMatchObject({ mac: OWN_MAC, up: true, vxlan: { vni: 1, port: 8472, gbp: false } })
      const warned = node.logged.find((line) => line.startsWith('W')) ?? ''
      expect(warned).toContain('"flannel.1" already exists with incompatable configuration: ')
      expect(warned).toMatch(why)
      expect(warned).toContain('; recreating device')
    })

    it('with learning on is made anew or corrected', () => {
      made()
      op.do(op.setVxlan(DEVICE, { learning: true }))
      start([ALICE]).expectState([ALICE])
      expect(op.link(DEVICE).vxlan?.learning).toBe(false)
    })

    it.each([
      { what: 'MTU', given: { mtu: 1300 } },
      { what: 'MAC', given: { mac: '02:00:00:00:77:77' } },
    ])('with another $what is corrected in place', ({ given }) => {
      made(given)
      const { index } = op.link(DEVICE)
      start([ALICE]).expectState([ALICE])
      expect(op.link(DEVICE)).toMatchObject({ index, mtu: 1450, mac: OWN_MAC, up: true })
    })

    it('with one other address gets the right one', () => {
      made()
      op.do(op.address('add', DEVICE, '10.244.9.0/32'))
      op.do(op.set(DEVICE, { up: true }))
      start([ALICE]).expectState([ALICE])
    })

    it('with the right address and another keeps the right one', () => {
      made()
      for (const cidr of ['10.244.9.0/32', '10.244.0.0/32']) op.do(op.address('add', DEVICE, cidr))
      start([ALICE]).expectState([ALICE])
    })

    it('with two other addresses is for the operator to decide', () => {
      made()
      for (const cidr of ['10.244.9.0/32', '10.244.8.0/24']) op.do(op.address('add', DEVICE, cidr))
      expect(() => newNode().network.start()).toThrow(
        expect.objectContaining({
          name: 'DeviceError',
          message: expect.stringContaining(
            'link has incompatible addresses 10.244.9.0/32, 10.244.8.0/24. Remove',
          ),
        }),
      )
    })

    it('of another kind is not ours to delete', () => {
      op.do(op.bridge(DEVICE))
      expect(() => newNode().network.start()).toThrow(
        expect.objectContaining({
          name: 'DeviceError',
          message: expect.stringContaining('flannel.1 of kind bridge'),
        }),
      )
      expect(op.link(DEVICE).kind).toBe('bridge')
    })

    it('whose VNI another device has names that', () => {
      op.do(op.vxlan('vx0'))
      expect(() => newNode().network.start()).toThrow(
        expect.objectContaining({
          name: 'DeviceError',
          message: expect.stringContaining('VNI 1 on UDP port 8472 is in use by another device, vx0'),
        }),
      )
    })
  })
}
