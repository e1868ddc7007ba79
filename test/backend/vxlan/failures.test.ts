/** Every call that can fail, failing; on the fake kernel, which can be told to. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { PLAIN_ROUTES } from '../../../src/backend/routes.ts'
import {
  RTM_DELADDR,
  RTM_DELLINK,
  RTM_DELNEIGH,
  RTM_DELNEXTHOP,
  RTM_DELROUTE,
  RTM_GETADDR,
  RTM_GETLINK,
  RTM_GETNEIGH,
  RTM_GETNEXTHOP,
  RTM_GETROUTE,
  RTM_NEWADDR,
  RTM_NEWLINK,
  RTM_NEWNEIGH,
  RTM_NEWNEXTHOP,
  RTM_NEWROUTE,
} from '../../../src/netlink/constants.ts'
import { deleteNexthop } from '../../../src/netlink/nexthop.ts'
import { FakeMachine } from '../../conformance/machine.ts'
import { DEVICE, type NodeOptions, type Peer, peer, prepare, TestNode } from '../../conformance/node.ts'
import { ip, Operator } from '../../conformance/operator.ts'
import type { Injection } from '../../fakes/kernel.ts'

const SOON = 100
const LATER = 61_000
const ALICE = peer(1)
const BOB = peer(2)
const CAROL = peer(3)
/** Of the first peer beyond the limit of plain routes: its place in 10.240.0.0/12. */
const NEXTHOP_ID = 0xf1000000 + 0x400 + PLAIN_ROUTES + 1

const CALLS = {
  ...{ RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR },
  ...{ RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE, RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH },
  ...{ RTM_NEWNEXTHOP, RTM_DELNEXTHOP, RTM_GETNEXTHOP },
}
type Call = keyof typeof CALLS

let machine: FakeMachine
let op: Operator
let node: TestNode | undefined

beforeEach(() => {
  machine = new FakeMachine()
  op = new Operator(machine.open())
  prepare(op)
})
afterEach(async () => {
  await node?.stop()
  node = undefined
})

function newNode(options: NodeOptions = {}): TestNode {
  node = new TestNode(machine, op, options)
  return node
}

function inject(call: Call, code: Injection['code'], times = 1): Injection {
  if (node === undefined) throw new Error('no node')
  const injection: Injection = { type: CALLS[call], from: node.portId, code, times }
  machine.kernel.injections.push(injection)
  return injection
}

describe('a start', () => {
  it.each<Call>(['RTM_GETLINK', 'RTM_NEWLINK', 'RTM_GETADDR', 'RTM_NEWADDR'])(
    'that fails at %s says what failed, and works the next time',
    (call) => {
      const first = newNode()
      const injection = inject(call, 'ENOMEM')
      expect(() => first.network.start()).toThrow(
        expect.objectContaining({ name: 'NetlinkError', code: 'ENOMEM' }),
      )
      expect(injection.times).toBe(0)
      first.start([ALICE])
      first.expectState([ALICE])
    },
  )

  it('in which the entries cannot be read deletes nothing, and goes on when they can', async () => {
    newNode().start([ALICE, BOB])
    await node?.stop()
    const next = newNode()
    next.network.start()
    const injection = inject('RTM_GETNEIGH', 'ENOMEM', 3)
    expect(() => next.snapshot([ALICE])).not.toThrow()
    next.network.apply()
    next.expectState([ALICE, BOB])
    next.network.apply()
    next.network.apply()
    next.network.apply()
    expect(injection.times).toBe(0)
    next.expectState([ALICE])
  })

  it('on a kernel without nexthop objects makes plain routes only', () => {
    machine.kernel.supportsNexthops = false
    const peers = Array.from({ length: PLAIN_ROUTES + 5 }, (_, i) => peer(i + 1))
    newNode().start(peers).expectState(peers)
  })
})

describe('a compare', () => {
  it('that cannot be finished loses nothing of what it found', async () => {
    const running = newNode().start([ALICE, BOB])
    await running.settle(SOON)
    running.deaf = true
    op.do(op.neighbour('replace', DEVICE, '10.244.1.0', '02:00:00:00:99:99'))
    op.do(op.fdb('replace', DEVICE, BOB.mac, '203.0.113.77'))
    await running.settle(SOON)
    running.deaf = false
    running.forget()
    const injection = inject('RTM_GETROUTE', 'ENOMEM')
    await running.settle(LATER)
    expect(injection.times).toBe(0)
    await running.settle(LATER)
    running.expectState([ALICE, BOB])
    expect(running.network.status.repairs).toMatchObject({ neighbour: 1, fdb: 1 })
    expect(running.logged).toContainEqual(
      expect.stringMatching(/^W repaired what was changed behind our back/),
    )
  })

  it('sees that nothing stands in the way of a peer any more', async () => {
    op.do(op.address('add', 'eth0', '10.244.1.9/24'))
    const running = newNode().start([ALICE, BOB])
    await running.settle(SOON)
    expect(running.network.status.tables.route).toMatchObject({ wanted: 2, held: 1 })
    running.deaf = true
    op.do(op.address('delete', 'eth0', '10.244.1.9/24'))
    await running.settle(SOON)
    running.deaf = false
    await running.settle(LATER)
    running.expectState([ALICE, BOB])
  })

  it("before the first apply finds what is nobody's doing", async () => {
    await newNode().start([ALICE, BOB]).stop()
    op.do(op.neighbour('replace', DEVICE, '10.244.2.0', '02:00:00:00:99:99'))
    const next = newNode()
    next.network.start()
    next.network.apply()
    op.do(op.neighbour('replace', DEVICE, '10.244.1.0', '02:00:00:00:99:99'))
    next.network.observeOverrun()
    next.start([ALICE, BOB])
    next.expectState([ALICE, BOB])
    expect(next.network.status.repairs).toMatchObject({ neighbour: 0 })
  })
})

describe('a change by others', () => {
  it('to the device while it is being mended is seen', async () => {
    let step = 'waiting'
    const interfere = (words: string): boolean => {
      if (step === 'armed' && words.startsWith('RTM_NEWADDR')) step = 'address added'
      else if (step === 'address added') {
        step = 'address deleted'
        op.do(op.address('delete', DEVICE, '10.244.0.0/32'))
      }
      return false
    }
    const running = newNode({ refuse: interfere }).start([ALICE])
    await running.settle(SOON)
    step = 'armed'
    op.do(op.address('delete', DEVICE, '10.244.0.0/32'))
    op.do(op.set(DEVICE, { up: false }))
    await running.settle(SOON)
    expect(step).toBe('address deleted')
    running.expectState([ALICE])
  })
})

describe('a notification', () => {
  it('of an FDB entry deleted that was replaced since is no news', async () => {
    const running = newNode().start([ALICE])
    await running.settle(SOON)
    running.forget()
    const { index } = op.link(DEVICE)
    const value = { index, mac: ALICE.mac, destination: 0xc6336442, state: 128, flags: 2 }
    const deleted = {
      value: { ...value, port: undefined, vni: undefined, via: undefined },
      deleted: true,
      replaced: false,
    }
    running.network.observe([{ kind: 'fdb', ...deleted, portId: 99 }])
    await running.settle(SOON)
    expect(running.writes).toEqual([])
    expect(running.network.status.repairs).toMatchObject({ fdb: 0 })
  })

  it('of an FDB entry that leads to the peer by way of another interface is news', async () => {
    const running = newNode().start([ALICE])
    await running.settle(SOON)
    running.forget()
    const value = {
      ...{ index: op.link(DEVICE).index, mac: ALICE.mac, destination: ip(ALICE.ip) },
      state: 128,
    }
    const there = { ...value, flags: 2, port: undefined, vni: undefined, via: op.link('eth0').index }
    running.network.observe([{ kind: 'fdb', value: there, deleted: false, replaced: false, portId: 0 }])
    await running.settle(SOON)
    expect(running.writes).toHaveLength(1)
  })

  it("of a route replaced in a row with somebody else's leaves none of ours behind", async () => {
    const running = newNode().start([])
    await running.settle(SOON)
    const to = '10.244.5.0/24'
    op.do(op.route('add', { to, via: '192.0.2.9', dev: 'eth0' }))
    op.do(op.route('append', { to, via: '10.244.1.0', dev: DEVICE, onlink: true }))
    op.do(op.route('replace', { to, via: '10.244.2.0', dev: DEVICE, onlink: true }))
    await running.settle(SOON)
    expect(machine.state().routes.filter((route) => route.startsWith(to))).toEqual([])
  })
})

describe('a peer that the kernel refuses', () => {
  it('is tried at once when it has another address', async () => {
    const running = newNode({ refuse: (words) => words.includes('203.0.113.1"') }).start([ALICE, BOB])
    await running.settle(100_000)
    const moved = { ...ALICE, ip: '203.0.113.50', modifiedIndex: 50 }
    running.put(moved)
    await running.settle(SOON)
    running.expectState([moved, BOB])
  })
})

const CODES: readonly Injection['code'][] = [
  'ENOMEM',
  'EINVAL',
  'ENODEV',
  'ENETDOWN',
  'EEXIST',
  'ENOENT',
  'ESRCH',
]

describe.each(CODES)('%s', (code) => {
  it.each<Call>([
    ...(['RTM_NEWLINK', 'RTM_DELLINK', 'RTM_GETLINK', 'RTM_NEWADDR', 'RTM_DELADDR', 'RTM_GETADDR'] as const),
    ...([
      'RTM_NEWROUTE',
      'RTM_DELROUTE',
      'RTM_GETROUTE',
      'RTM_NEWNEIGH',
      'RTM_DELNEIGH',
      'RTM_GETNEIGH',
    ] as const),
  ])('in answer to %s costs a retry and nothing else', async (call) => {
    const running = newNode({ directRouting: true }).start([ALICE, BOB])
    await running.settle(SOON)
    const injection = inject(call, code)
    op.do(op.address('add', DEVICE, '10.244.0.9/32'))
    running.remove(BOB)
    running.put(CAROL)
    await running.settle(SOON)
    if (injection.times > 0) {
      op.do(op.setVxlan(DEVICE, { local: 0xc0000209 }))
      await running.settle(SOON)
    }
    expect(injection.times).toBe(0)
    await running.settle(2 * LATER)
    running.expectState([ALICE, CAROL])
    running.forget()
    await running.settle(LATER)
    expect({ writes: running.writes, logged: running.logged }).toEqual({ writes: [], logged: [] })
  })
})

describe('beyond the limit of plain routes', () => {
  const many = Array.from({ length: PLAIN_ROUTES }, (_, i) => peer(i + 1))
  const last: Peer = { ...peer(PLAIN_ROUTES + 1), kind: 'nexthop' }
  it.each(
    (['RTM_NEWNEXTHOP', 'RTM_DELNEXTHOP', 'RTM_GETNEXTHOP', 'RTM_NEWROUTE'] as const).flatMap((call) =>
      (['ENOMEM', 'EINVAL', 'ENOENT'] as const).map((code) => ({ call, code })),
    ),
  )('$code in answer to $call costs a retry and nothing else', async ({ call, code }) => {
    const running = newNode().start([...many, last])
    const injection = inject(call, code)
    const next: Peer = { ...peer(PLAIN_ROUTES + 2), kind: 'nexthop' }
    running.remove(last)
    running.put(next)
    await running.settle(SOON)
    await running.settle(2 * LATER)
    expect(injection.times).toBe(0)
    running.expectState([...many, next])
  })
})

describe('somebody who takes nexthop objects away while routes through them are written', () => {
  const last: Peer = { ...peer(PLAIN_ROUTES + 1), kind: 'nexthop' }
  const many = [...Array.from({ length: PLAIN_ROUTES }, (_, i) => peer(i + 1)), last]
  const through = (words: string): boolean => words.startsWith('RTM_NEWROUTE') && words.includes('nexthopId')

  it('costs the next try, which does not wait', async () => {
    let armed = false
    const interfere = (words: string): boolean => {
      if (armed && through(words)) {
        armed = false
        op.do(deleteNexthop(NEXTHOP_ID))
      }
      return false
    }
    const running = newNode({ refuse: interfere }).start(many)
    await running.settle(SOON)
    running.forget()
    armed = true
    op.do(deleteNexthop(NEXTHOP_ID))
    await running.settle(SOON)
    expect(armed).toBe(false)
    running.expectState(many)
    expect(running.logged.filter((line) => line.startsWith('E'))).toEqual([])
  })

  it('and who does not stop does not make us spin', async () => {
    const interfere = (words: string): boolean => {
      if (through(words)) op.try(deleteNexthop(NEXTHOP_ID))
      return false
    }
    const running = newNode({ refuse: interfere }).start(many)
    await running.settle(SOON)
    running.forget()
    await running.settle(LATER)
    expect(running.writes.filter(through).length).toBeLessThan(60)
  })
})

describe('answers', () => {
  it.each([1, 2, 3, 4, 5, 8, 20])('of which %i are lost are asked for again', async (lost) => {
    const running = newNode().start([ALICE, BOB])
    await running.settle(SOON)
    machine.kernel.lostAnswers = lost
    op = new Operator(machine.open())
    running.remove(ALICE)
    running.put(CAROL)
    await running.settle(SOON)
    await running.settle(5 * LATER)
    expect(machine.kernel.lostAnswers).toBe(0)
    running.expectState([BOB, CAROL])
    running.forget()
    await running.settle(LATER)
    expect({ writes: running.writes, logged: running.logged }).toEqual({ writes: [], logged: [] })
  })

  it.each([1, 9, 10, 35])('of which %i are interrupted dumps are asked for again', async (interrupted) => {
    const running = newNode().start([ALICE, BOB])
    await running.settle(SOON)
    machine.kernel.interruptions = interrupted
    op.do(op.unlink(DEVICE))
    await running.settle(2 * LATER)
    expect(machine.kernel.interruptions).toBe(0)
    running.expectState([ALICE, BOB])
  })
})

describe('a failure that lasts', () => {
  it('is one line, and one more when it ends', async () => {
    const running = newNode().start([ALICE])
    await running.settle(SOON)
    running.forget()
    const injection = inject('RTM_NEWNEIGH', 'ENOMEM', 1000)
    running.put(BOB)
    await running.settle(10 * LATER)
    expect(running.logged).toEqual([
      'E write neighbour 10.244.2.0 -> 02:00:00:01:00:02 on flannel.1: ENOMEM; write FDB entry 02:00:00:01:00:02 -> 203.0.113.2 on flannel.1: ENOMEM; trying again',
    ])
    expect(running.network.status.tables).toMatchObject({ neighbour: { failed: 1 }, fdb: { failed: 1 } })
    injection.times = 0
    running.forget()
    await running.settle(LATER)
    running.expectState([ALICE, BOB])
    expect(running.logged).toEqual([
      expect.stringMatching(/^I write neighbour .*; write FDB entry .*: works again$/),
    ])
    expect(running.network.status.tables).toMatchObject({ neighbour: { failed: 0 }, fdb: { failed: 0 } })
  })

  it('is tried again as soon as an interface has changed, which may be what stood in the way', async () => {
    const running = newNode({ directRouting: true }).start([ALICE])
    await running.settle(SOON)
    const injection = inject('RTM_NEWNEIGH', 'ENETDOWN', 1000)
    running.put(BOB)
    await running.settle(5 * LATER)
    injection.times = 0
    running.forget()
    op.do(op.set('far0', { up: false }))
    op.do(op.set('far0', { up: true }))
    await running.settle(SOON)
    running.expectState([ALICE, BOB])
  })

  it('of a peer that leaves is forgotten', async () => {
    const running = newNode().start([ALICE])
    const injection = inject('RTM_NEWNEIGH', 'ENOMEM', 1000)
    running.put(BOB)
    await running.settle(LATER)
    running.remove(BOB)
    await running.settle(LATER)
    injection.times = 0
    running.forget()
    await running.settle(5 * LATER)
    expect({ writes: running.writes, logged: running.logged }).toEqual({ writes: [], logged: [] })
    expect(running.network.status.tables).toMatchObject({ neighbour: { failed: 0 }, fdb: { failed: 0 } })
  })

  it('of the device for another reason than before is told of, too', async () => {
    const running = newNode().start([ALICE])
    await running.settle(SOON)
    const injection = inject('RTM_NEWLINK', 'ENOMEM', 1000)
    op.do(op.unlink(DEVICE))
    await running.settle(LATER)
    running.forget()
    op.do(op.bridge(DEVICE))
    await running.settle(LATER)
    expect(running.logged).toEqual([
      expect.stringContaining(`E an interface ${DEVICE} of kind bridge exists already`),
    ])
    injection.times = 0
    op.do(op.unlink(DEVICE))
    await running.settle(LATER)
    running.expectState([ALICE])
  })

  it('of the device is one line, tried again with pauses, and ends', async () => {
    const running = newNode().start([ALICE])
    await running.settle(SOON)
    const injection = inject('RTM_NEWLINK', 'ENOMEM', 1000)
    op.do(op.unlink(DEVICE))
    running.forget()
    await running.settle(10 * LATER)
    expect(running.logged).toHaveLength(1)
    expect(1000 - injection.times).toBeLessThan(30)
    injection.times = 0
    await running.settle(LATER)
    running.expectState([ALICE])
  })
})
