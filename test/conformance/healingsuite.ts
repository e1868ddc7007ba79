/** What somebody else breaks comes back: by notification at once, and without one with the next compare. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { PLAIN_ROUTES } from '../../src/backend/routes.ts'
import { NUD_STALE } from '../../src/netlink/constants.ts'
import type { NetlinkRequest } from '../../src/netlink/request.ts'
import type { Machine } from './machine.ts'
import { DEVICE, type NodeOptions, OWN_MAC, type Peer, peer, prepare, TestNode, underlayOf } from './node.ts'
import { Operator } from './operator.ts'

const ALICE = peer(1)
const BOB = peer(2)
const CAROL = peer(3)
const ROUTE = { to: ALICE.subnet, via: '10.244.1.0', dev: DEVICE, onlink: true }
const ELSEWHERE = { to: ALICE.subnet, via: '192.0.2.9', dev: 'eth0' }
const MANY = {
  to: ALICE.subnet,
  hops: [
    { via: '192.0.2.9', dev: 'eth0' },
    { via: '192.0.2.10', dev: 'eth0' },
  ],
}

/** Longer than the pause in which notifications are gathered, far shorter than any period. */
const SOON = 100
/** Longer than the period of compares. */
const LATER = 61_000

interface Sabotage {
  readonly what: string
  readonly by: (op: Operator) => void
}

/** Does these, each made when the one before is done. */
function does(...steps: readonly ((op: Operator) => NetlinkRequest)[]): (op: Operator) => void {
  return (op) => {
    for (const step of steps) op.do(step(op))
  }
}

const OF_ENTRIES: readonly Sabotage[] = [
  { what: 'a route deleted', by: does((op) => op.route('delete', ROUTE)) },
  {
    what: 'a route given another gateway',
    by: does((op) => op.route('replace', { ...ROUTE, via: '10.244.2.0' })),
  },
  { what: 'a route given another device', by: does((op) => op.route('replace', ELSEWHERE)) },
  { what: 'a route given another protocol', by: does((op) => op.route('replace', { ...ROUTE, proto: 4 })) },
  {
    what: 'a route given another metric',
    by: does(
      (op) => op.route('delete', ROUTE),
      (op) => op.route('add', { ...ROUTE, metric: 5 }),
    ),
  },
  { what: 'a route shadowed by one before it', by: does((op) => op.route('prepend', ELSEWHERE)) },
  {
    what: 'a route shadowed by one on the same device',
    by: does((op) => op.route('prepend', { ...ROUTE, via: '10.244.2.0' })),
  },
  { what: 'a route appended to', by: does((op) => op.route('append', ELSEWHERE)) },
  { what: 'a route appended to by one of several gateways', by: does((op) => op.route('append', MANY)) },
  { what: 'a route shadowed by one of several gateways', by: does((op) => op.route('prepend', MANY)) },
  {
    what: 'a route appended to by some of several gateways',
    by: does(
      (op) => op.route('append', MANY),
      (op) => op.route('append', { ...MANY, hops: MANY.hops.toReversed() }),
    ),
  },
  {
    what: 'a route shadowed, and then deleted',
    by: does(
      (op) => op.route('prepend', ELSEWHERE),
      (op) => op.route('delete', ROUTE),
    ),
  },
  {
    what: 'a route appended to, and then replaced',
    by: does(
      (op) => op.route('append', ELSEWHERE),
      (op) => op.route('replace', { ...ROUTE, via: '10.244.2.0' }),
    ),
  },
  {
    what: 'a route shadowed, and the shadow replaced',
    by: does(
      (op) => op.route('prepend', ELSEWHERE),
      (op) => op.route('replace', { ...ROUTE, via: '10.244.2.0' }),
    ),
  },
  {
    what: 'a route to nowhere added on the device',
    by: does((op) =>
      op.route('add', { to: '10.244.77.0/24', via: '10.244.77.0', dev: DEVICE, onlink: true }),
    ),
  },
  { what: 'a neighbour deleted', by: does((op) => op.neighbour('delete', DEVICE, '10.244.1.0')) },
  { what: 'a neighbour given another MAC', by: does((op) => op.neighbour('replace', DEVICE, '10.244.1.0')) },
  {
    what: 'a neighbour no longer permanent',
    by: does((op) => op.neighbour('replace', DEVICE, '10.244.1.0', ALICE.mac, NUD_STALE)),
  },
  { what: 'a neighbour to nowhere added', by: does((op) => op.neighbour('add', DEVICE, '10.244.77.0')) },
  { what: 'an FDB entry deleted', by: does((op) => op.fdb('delete', DEVICE, ALICE.mac, ALICE.ip)) },
  {
    what: 'an FDB entry pointed elsewhere',
    by: does((op) => op.fdb('replace', DEVICE, ALICE.mac, '198.51.100.66')),
  },
  {
    what: "an FDB entry pointed at another peer's address",
    by: does((op) => op.fdb('replace', DEVICE, ALICE.mac, BOB.ip)),
  },
  {
    what: 'an FDB entry appended to',
    by: does((op) => op.fdb('append', DEVICE, ALICE.mac, '198.51.100.66')),
  },
  {
    what: 'an FDB entry that floods',
    by: does(
      (op) => op.fdb('append', DEVICE, '00:00:00:00:00:00', '198.51.100.66'),
      (op) => op.fdb('append', DEVICE, '00:00:00:00:00:00', '198.51.100.67'),
    ),
  },
  {
    what: 'everything of a peer gone',
    by: does(
      (op) => op.neighbour('delete', DEVICE, '10.244.1.0'),
      (op) => op.fdb('delete', DEVICE, ALICE.mac, ALICE.ip),
      (op) => op.route('delete', ROUTE),
    ),
  },
]

/** The kernel finds the wrong one of the two, and it takes its word about it to know. */
const OF_TWINS: readonly Sabotage[] = [
  {
    what: 'a route appended to by one whose first gateway is the same',
    by: does((op) => op.route('append', { ...MANY, hops: [ROUTE, ...MANY.hops] })),
  },
]

const OF_THE_DEVICE: readonly Sabotage[] = [
  { what: 'the device deleted', by: does((op) => op.unlink(DEVICE)) },
  { what: 'the device set down', by: does((op) => op.set(DEVICE, { up: false })) },
  {
    what: 'the device set down and up',
    by: does(
      (op) => op.set(DEVICE, { up: false }),
      (op) => op.set(DEVICE, { up: true }),
    ),
  },
  { what: 'the device renamed', by: does((op) => op.set(DEVICE, { rename: 'stolen0' })) },
  { what: 'its address removed', by: does((op) => op.address('delete', DEVICE, '10.244.0.0/32')) },
  {
    what: 'its address removed and added',
    by: does(
      (op) => op.address('delete', DEVICE, '10.244.0.0/32'),
      (op) => op.address('add', DEVICE, '10.244.0.0/32'),
    ),
  },
  { what: 'a stray address added', by: does((op) => op.address('add', DEVICE, '10.244.0.9/32')) },
  {
    what: 'two stray addresses beside its own',
    by: does(
      (op) => op.address('add', DEVICE, '10.244.0.9/32'),
      (op) => op.address('add', DEVICE, '10.243.0.9/24'),
    ),
  },
  { what: 'its MTU changed', by: does((op) => op.set(DEVICE, { mtu: 1300 })) },
  { what: 'its MAC changed', by: does((op) => op.set(DEVICE, { mac: '02:00:00:00:77:77' })) },
  { what: 'learning turned on', by: does((op) => op.setVxlan(DEVICE, { learning: true })) },
  { what: 'its local address changed', by: does((op) => op.setVxlan(DEVICE, { local: 0xc0000209 })) },
  {
    what: 'its parent set down and up',
    by: does(
      (op) => op.set('eth0', { up: false }),
      (op) => op.set('eth0', { up: true }),
    ),
  },
  {
    what: 'the device deleted and made anew by somebody else',
    by: does(
      (op) => op.unlink(DEVICE),
      (op) => op.vxlan(DEVICE, { parent: op.link('eth0').index, local: 0xc0000201 }),
      (op) => op.set(DEVICE, { up: true }),
    ),
  },
]

export function healingSuite(make: () => Machine): void {
  let machine: Machine
  let op: Operator
  let node: TestNode | undefined

  beforeEach(() => {
    machine = make()
    op = new Operator(machine.open())
    prepare(op)
  })
  afterEach(async () => {
    await node?.stop()
    node = undefined
    machine.close()
  })

  function start(peers: readonly Peer[], options: NodeOptions = {}): TestNode {
    node = new TestNode(machine, op, options).start(peers)
    return node
  }

  function expectDevice(): void {
    expect(op.link(DEVICE)).toMatchObject({
      ...{ mtu: 1450, mac: OWN_MAC, up: true },
      vxlan: { vni: 1, port: 8472, learning: false, local: 0xc0000201, parent: op.link('eth0').index },
    })
  }

  describe('within a moment, and in one round', () => {
    it.each([...OF_ENTRIES, ...OF_TWINS, ...OF_THE_DEVICE])('$what', async ({ by }) => {
      const running = start([ALICE, BOB])
      await running.settle(SOON)
      by(op)
      await running.settle(SOON)
      running.expectState([ALICE, BOB])
      expectDevice()
      // And nothing more is found wrong then.
      running.forget()
      await running.settle(LATER)
      expect({ writes: running.writes, logged: running.logged }).toEqual({ writes: [], logged: [] })
    })
  })

  describe('without a notification, with the next compare', () => {
    it.each([...OF_ENTRIES, ...OF_THE_DEVICE])('$what', async ({ by }) => {
      const running = start([ALICE, BOB])
      await running.settle(SOON)
      running.deaf = true
      by(op)
      await running.settle(LATER)
      running.expectState([ALICE, BOB])
      expectDevice()
    })
  })

  describe('beyond the limit of plain routes', () => {
    const first: Peer = { ...peer(PLAIN_ROUTES + 1), kind: 'nexthop' }
    const id = 0xf1000801
    it.each<Sabotage>([
      { what: 'a nexthop object deleted', by: does((op) => op.nexthop('delete', id, '', DEVICE)) },
      {
        what: 'a nexthop object replaced',
        by: does((op) => op.nexthop('replace', id, '10.244.2.0', DEVICE)),
      },
      { what: 'a nexthop object moved', by: does((op) => op.nexthop('replace', id, '192.0.2.9', 'eth0')) },
      { what: 'a route deleted', by: does((op) => op.route('delete', { to: first.subnet })) },
      { what: 'a route replaced', by: does((op) => op.route('replace', { ...ELSEWHERE, to: first.subnet })) },
      {
        what: 'a nexthop object of ours that nothing uses',
        by: does((op) => op.nexthop('add', 0xf1000ff0, '10.244.2.0', DEVICE)),
      },
      { what: 'the device set down', by: does((op) => op.set(DEVICE, { up: false })) },
      { what: 'the address removed', by: does((op) => op.address('delete', DEVICE, '10.244.0.0/32')) },
    ])('$what', async ({ by }) => {
      const peers = [...Array.from({ length: PLAIN_ROUTES }, (_, i) => peer(i + 1)), first]
      const running = start(peers)
      running.expectState(peers)
      by(op)
      await running.settle(SOON)
      running.expectState(peers)
      running.forget()
      await running.settle(LATER)
      expect({ writes: running.writes, logged: running.logged }).toEqual({ writes: [], logged: [] })
    })
  })

  it('lets a peer go whose nexthop object went without a word', async () => {
    const peers = Array.from({ length: PLAIN_ROUTES }, (_, i) => peer(i + 1))
    const last: Peer = { ...peer(PLAIN_ROUTES + 1), kind: 'nexthop' }
    const running = start([...peers, last])
    await running.settle(SOON)
    running.forget()
    running.deaf = true
    op.do(op.nexthop('delete', 0xf1000801, '', DEVICE))
    await running.settle(SOON)
    running.remove(last)
    await running.settle(SOON)
    running.expectState(peers)
    expect(running.logged).toEqual([])
  })

  it('keeps the entries of a device that cannot be all that it has to be', async () => {
    const running = start([ALICE, BOB])
    // Whose device is it that has two other addresses?
    op.do(op.address('add', DEVICE, '10.243.0.9/24'))
    op.do(op.address('add', DEVICE, '10.242.0.9/24'))
    op.do(op.address('delete', DEVICE, '10.244.0.0/32'))
    await running.settle(SOON)
    running.forget()
    op.do(op.route('delete', ROUTE))
    running.put(CAROL)
    await running.settle(SOON)
    const { routes, neighbours, fdb } = running.machine.state()
    expect(routes.filter((route) => route.includes(' via '))).toHaveLength(3)
    expect([neighbours, fdb].map(({ length }) => length)).toEqual([3, 3])
    await running.settle(600_000)
    expect(running.logged.filter((line) => line.startsWith('error'))).toEqual([])
    op.do(op.address('delete', DEVICE, '10.243.0.9/24'))
    await running.settle(SOON)
    expectDevice()
    expect(running.logged.filter((line) => line.includes('as it should be again'))).toHaveLength(1)
  })

  it('tells of a stray route even if it came as the address was lost, and not of what went with that', async () => {
    const running = start([ALICE, BOB])
    await running.settle(SOON)
    running.forget()
    op.do(op.address('delete', DEVICE, '10.244.0.0/32'))
    op.do(op.address('add', DEVICE, '10.244.0.9/24'))
    op.do(op.route('add', { ...ROUTE, to: '203.0.113.0/24' }))
    await running.settle(SOON)
    running.expectState([ALICE, BOB])
    const told = running.logged.filter((line) => line.startsWith('W repaired')).join()
    expect(told).toContain('delete route 203.0.113.0/24')
    expect(told).not.toContain('10.244.2.0')
  })

  it('says in one line what it repaired, and who it was', async () => {
    const running = start([ALICE, BOB])
    await running.settle(SOON)
    running.forget()
    op.do(op.route('delete', ROUTE))
    op.do(op.route('delete', { ...ROUTE, to: BOB.subnet, via: '10.244.2.0' }))
    await running.settle(SOON)
    expect(running.logged).toEqual([
      expect.stringMatching(
        /^W repaired what was changed behind our back: write route 10\.244\.1\.0\/24 .*; write route 10\.244\.2\.0\/24 .* by=.*pid \d+/,
      ),
    ])
    expect(running.network.status.repairs.route).toBe(2)
  })

  describe('what is not ours', () => {
    it('may change as it likes', async () => {
      const running = start([ALICE, BOB])
      await running.settle(SOON)
      running.forget()
      const own = { to: '10.99.0.0/16', via: '192.0.2.9', dev: 'eth0' }
      for (const request of [
        op.route('add', own),
        op.route('replace', { ...own, via: '192.0.2.10' }),
        op.route('add', { ...own, to: ALICE.subnet, metric: 50 }),
        op.route('add', { ...ROUTE, table: 100 }),
        op.neighbour('add', 'eth0', '192.0.2.9'),
        op.nexthop('add', 5, '192.0.2.9', 'eth0'),
        op.address('add', 'eth0', '198.51.100.1/24'),
        op.set('far0', { mtu: 1400 }),
      ])
        op.do(request)
      await running.settle(LATER)
      expect({ writes: running.writes, logged: running.logged }).toEqual({ writes: [], logged: [] })
    })
  })

  describe('lost notifications', () => {
    it('are made up for by a compare at once', async () => {
      const running = start([ALICE, BOB], { receiveBuffer: 1 })
      await running.settle(SOON)
      op.do(op.route('delete', ROUTE))
      op.do(op.unlink(DEVICE))
      machine.overrun(() => {
        for (let i = 0; i < 500; i++) {
          op.do(op.route('add', { to: '10.99.0.0/16', dev: 'eth0' }))
          op.do(op.route('delete', { to: '10.99.0.0/16' }))
        }
      })
      await running.settle(SOON)
      running.expectState([ALICE, BOB])
    })
  })

  describe('the interface under it', () => {
    it('that is deleted and made anew is followed', async () => {
      const running = start([ALICE, BOB])
      op.do(op.unlink('eth0'))
      await running.settle(SOON)
      expect(op.hasLink(DEVICE)).toBe(false)
      // Nothing can be made without it: one line says so, however long it takes.
      running.forget()
      await running.settle(600_000)
      expect(running.logged.length).toBeLessThanOrEqual(1)
      prepare(op)
      running.network.setUnderlay(underlayOf(op))
      await running.settle(SOON)
      running.expectState([ALICE, BOB])
      expectDevice()
    })

    it('with another MTU hands it on', async () => {
      const running = start([ALICE, BOB])
      for (const mtu of [1400, 1500]) {
        op.do(op.set('eth0', { mtu }))
        await running.settle(SOON)
        running.network.setUnderlay(underlayOf(op))
        await running.settle(SOON)
        expect(op.link(DEVICE).mtu).toBe(mtu - 50)
        running.expectState([ALICE, BOB])
      }
    })

    it('that changes over and over is followed each time, and nobody is blamed', async () => {
      const running = start([ALICE, BOB])
      for (let i = 0; i < 40; i++) {
        op.do(op.set('eth0', { mtu: 1400 + i }))
        running.network.setUnderlay(underlayOf(op))
        await running.settle(SOON)
        expect(op.link(DEVICE).mtu).toBe(1350 + i)
      }
      expect(running.logged.filter((line) => line.includes('somebody'))).toEqual([])
    })

    it('is followed at once while somebody fights over the device', async () => {
      const running = start([ALICE, BOB])
      for (let i = 0; i < 100; i++) {
        op.do(op.set(DEVICE, { mtu: 1300 }))
        await running.settle(SOON)
      }
      expect(op.link(DEVICE).mtu).toBe(1300)
      op.do(op.set('eth0', { mtu: 1400 }))
      running.network.setUnderlay(underlayOf(op))
      await running.settle(SOON)
      expect(op.link(DEVICE).mtu).toBe(1350)
      running.expectState([ALICE, BOB])
    })

    it('that is set down and up brings direct routes back', async () => {
      const near: Peer = { ...ALICE, ip: '192.0.2.11', kind: 'direct' }
      const running = start([near, BOB], { directRouting: true })
      running.expectState([near, BOB])
      op.do(op.set('eth0', { up: false }))
      await running.settle(SOON)
      op.do(op.set('eth0', { up: true }))
      await running.settle(SOON)
      running.expectState([near, BOB])
    })
  })

  describe('a fight', () => {
    it.each<Sabotage & { readonly loser: string }>([
      {
        what: 'over a route',
        loser: 'route 10.244.1.0/24',
        by: does((op) => op.route('delete', { to: ALICE.subnet })),
      },
      {
        what: 'over a replaced route',
        loser: 'route 10.244.1.0/24',
        by: does((op) => op.route('replace', ELSEWHERE)),
      },
      {
        what: 'over a neighbour',
        loser: 'neighbour',
        by: does((op) => op.neighbour('replace', DEVICE, '10.244.1.0')),
      },
      {
        what: 'over an FDB entry',
        loser: 'FDB entry',
        by: does((op) => op.fdb('replace', DEVICE, ALICE.mac, '198.51.100.66')),
      },
      { what: 'over the device', loser: 'flannel.1', by: does((op) => op.set(DEVICE, { mtu: 1300 })) },
    ])('$what is noticed once, costs little, and ends', async ({ by, loser }) => {
      const running = start([ALICE, BOB])
      await running.settle(SOON)
      running.forget()
      // Three minutes of somebody who does it again ten times a second.
      for (let i = 0; i < 1800; i++) {
        try {
          by(op)
        } catch {
          // It is gone already.
        }
        await running.settle(100)
      }
      expect(running.writes.length).toBeLessThan(100)
      const warned = running.logged.filter((line) => line.includes('somebody keeps changing'))
      expect(warned).toHaveLength(1)
      expect(warned[0]).toContain(loser)
      expect(running.logged.length).toBeLessThan(100)
      // The other peer is not touched, and a new one has not to wait.
      const carol = peer(3)
      running.put(carol)
      await running.settle(SOON)
      expect(machine.state().routes).toContain(`${carol.subnet} via 10.244.3.0 dev ${DEVICE} onlink`)
      expect(machine.state().routes).toContain(`${BOB.subnet} via 10.244.2.0 dev ${DEVICE} onlink`)
      await running.settle(LATER)
      running.expectState([ALICE, BOB, carol])
      expectDevice()
    })
  })

  it('a device that is set down all the time and at last is left up has all entries at once', async () => {
    const running = start([ALICE, BOB])
    for (let i = 0; i < 300; i++) {
      op.do(op.set(DEVICE, { up: false }))
      await running.settle(100)
    }
    for (let waited = 0; !op.link(DEVICE).up && waited < LATER; waited += SOON) await running.settle(SOON)
    running.expectState([ALICE, BOB])
  })

  describe('a peer that the kernel refuses', () => {
    it.each([
      {
        what: 'neighbour',
        marks: (words: string) => words.includes(BOB.mac) && words.includes('10.244.2.0'),
      },
      { what: 'FDB entry', marks: (words: string) => words.includes(BOB.mac) && words.includes(BOB.ip) },
      {
        what: 'route',
        marks: (words: string) => words.includes('"length":24') && words.includes('10.244.2.0'),
      },
    ])('in its $what delays no other, is tried again, and works in the end', async ({ marks }) => {
      let refusing = true
      const running = start([BOB, ALICE], { refuse: (words) => refusing && marks(words) })
      const routed = (p: Peer) => machine.state().routes.some((line) => line.startsWith(p.subnet))
      expect([routed(ALICE), routed(BOB)]).toEqual([true, false])
      const carol = peer(3)
      running.put(carol)
      await running.settle(SOON)
      expect(routed(carol)).toBe(true)
      running.forget()
      await running.settle(600_000)
      // One a minute.
      expect(running.writes.length).toBeGreaterThan(8)
      expect(running.writes.length).toBeLessThan(20)
      expect(running.logged).toEqual([])
      expect(running.network.status.tables).toMatchObject({ route: { wanted: 3 } })
      const failed = Object.values(running.network.status.tables).reduce(
        (sum, table) => sum + table.failed,
        0,
      )
      expect(failed).toBe(1)
      refusing = false
      await running.settle(LATER)
      running.expectState([ALICE, BOB, carol])
      expect(running.logged).toEqual([expect.stringContaining('works again')])
    })
  })
}
