/**
 * Whatever happens, in whatever order, it ends well: leases come and go, somebody interferes, calls fail, answers and
 * notifications are lost, the daemon restarts. Once that stops, the kernel holds what the leases say, what is not ours
 * is as it was, and nothing more is written.
 */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { subnetOf } from '../../../src/ip.ts'
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
  RTM_NEWROUTE,
} from '../../../src/netlink/constants.ts'
import type { NetlinkRequest } from '../../../src/netlink/request.ts'
import { FakeMachine } from '../../conformance/machine.ts'
import { DEVICE, expected, type Peer, peer, prepare, sorted, TestNode } from '../../conformance/node.ts'
import { ip, Operator, type Verb } from '../../conformance/operator.ts'
import type { Injection, KernelState } from '../../fakes/kernel.ts'

const PEERS = 5
/** Some are on the link of eth0, and some are shared. */
const ADDRESSES = ['203.0.113.1', '203.0.113.2', '203.0.113.3', '192.0.2.11', '192.0.2.12']
const MACS = ['02:00:00:00:0a:01', '02:00:00:00:0a:02', '02:00:00:00:0a:03', '02:00:00:00:0a:04']
const CODES: readonly Injection['code'][] = ['ENOMEM', 'EINVAL', 'ENODEV', 'ENETDOWN', 'ENOENT', 'ESRCH']

/** Back-off grows to a minute, and a compare comes every minute: this is enough for both, some times over. */
const LONG = 400_000

const CALLS = [
  ...[
    RTM_NEWLINK,
    RTM_DELLINK,
    RTM_GETLINK,
    RTM_NEWADDR,
    RTM_DELADDR,
    RTM_GETADDR,
    RTM_NEWROUTE,
    RTM_DELROUTE,
  ],
  ...[RTM_GETROUTE, RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH, RTM_DELNEXTHOP, RTM_GETNEXTHOP],
]

const FOREIGN: KernelState = {
  routes: [
    '10.99.0.0/16 nhid 77 via 192.0.2.9 dev eth0 onlink',
    '10.244.1.0/24 via 192.0.2.9 dev eth0 metric 9',
    '10.244.2.0/24 via 192.0.2.9 dev eth0 table 100',
    '10.244.0.0/20 via 192.0.2.9 dev eth0',
    '192.0.2.0/24 dev eth0 proto kernel scope link src 192.0.2.1',
  ],
  neighbours: ['192.0.2.9 dev eth0 lladdr 02:00:00:00:00:99 PERMANENT'],
  fdb: [],
  nexthops: ['id 77 via 192.0.2.9 dev eth0 scope link proto boot onlink'],
  addresses: ['eth0 192.0.2.1/24'],
}

class World {
  readonly machine = new FakeMachine()
  readonly op = new Operator(this.machine.open())
  readonly directRouting: boolean
  readonly leases = new Map<number, Peer>()
  modifiedIndex = 1
  node: TestNode

  constructor(directRouting: boolean) {
    const { op } = this
    this.directRouting = directRouting
    prepare(op)
    for (const request of [
      () => op.nexthop('add', 77, '192.0.2.9', 'eth0'),
      () => op.route('add', { to: '10.99.0.0/16', nhid: 77 }),
      () => op.route('add', { to: '10.244.1.0/24', via: '192.0.2.9', dev: 'eth0', metric: 9 }),
      () => op.route('add', { to: '10.244.2.0/24', via: '192.0.2.9', dev: 'eth0', table: 100 }),
      () => op.route('add', { to: '10.244.0.0/20', via: '192.0.2.9', dev: 'eth0' }),
      () => op.neighbour('add', 'eth0', '192.0.2.9'),
    ])
      op.do(request())
    this.node = new TestNode(this.machine, op, { directRouting }).start([])
  }

  /** Somebody interferes, if it can be done. */
  interfere(request: (op: Operator) => NetlinkRequest): void {
    if (this.op.hasLink(DEVICE)) this.op.try(request(this.op))
  }

  async restart(): Promise<void> {
    this.calm()
    // Under another name it would be somebody else's, and a start an error.
    if (this.op.hasLink('stolen0')) await this.node.settle(LONG)
    await this.node.stop()
    this.node = new TestNode(this.machine, this.op, { directRouting: this.directRouting })
    this.node.start([...this.leases.values()])
  }

  /** What was to fail fails no more. */
  calm(): void {
    for (const injection of this.machine.kernel.injections) injection.times = 0
    this.machine.kernel.interruptions = 0
    this.machine.kernel.lostAnswers = 0
    this.node.deaf = false
  }

  /** The leases that win their MAC, and how their subnets are reached. */
  wanted(): Peer[] {
    const all = [...this.leases.values()]
    const winners = all.filter((p) => {
      const sharing = all.filter((other) => other.mac === p.mac)
      const newest = sharing.reduce((a, b) => (b.modifiedIndex > a.modifiedIndex ? b : a))
      return newest.ip === p.ip
    })
    const direct = (p: Peer) => this.directRouting && subnetOf(ip(p.ip), 24).address === ip('192.0.2.0')
    return winners.map((p) => ({ ...p, kind: direct(p) ? 'direct' : 'tunnel' }))
  }

  /** Without what is no business of ours: a route by somebody else to a subnet that nobody has. */
  state(): KernelState {
    const wanted = new Set(this.wanted().map((p) => p.subnet))
    const tunnelled = new Set(
      this.wanted().flatMap((p) => (p.kind === 'tunnel' ? [p.subnet.replace('/24', '')] : [])),
    )
    const state = sorted(this.machine.state())
    const foreign = (line: string) =>
      line.endsWith('via 192.0.2.9 dev eth0') && !wanted.has(line.split(' ')[0] ?? '')
    const routes = state.routes.filter((line) => FOREIGN.routes.includes(line) || !foreign(line))
    // What is not permanent goes by itself, and so is left alone where nobody has the address.
    const fading = (line: string) => line.endsWith('STALE') && !tunnelled.has(line.split(' ')[0] ?? '')
    return { ...state, routes, neighbours: state.neighbours.filter((line) => !fading(line)) }
  }

  expectForeign(): void {
    const state = this.machine.state()
    for (const table of ['routes', 'neighbours', 'nexthops', 'addresses'] as const)
      expect(state[table]).toEqual(expect.arrayContaining([...FOREIGN[table]]))
  }
}

interface Step {
  toString(): string
  do(world: World): void | Promise<void>
}

function step(name: string, action: Step['do']): Step {
  return { toString: () => name, do: action }
}

const number = fc.integer({ min: 1, max: PEERS })
const verb = fc.constantFrom<Verb>('add', 'replace', 'append', 'prepend', 'delete')
const mac = fc.constantFrom(...MACS)
const address = fc.constantFrom(...ADDRESSES)

const lease = fc.tuple(number, mac, address).map(([n, m, a]) =>
  step(`put ${n} ${m} ${a}`, (world) => {
    const changed = peer(n, { mac: m, ip: a, modifiedIndex: ++world.modifiedIndex })
    world.leases.set(n, changed)
    world.node.put(changed)
  }),
)
const leave = number.map((n) =>
  step(`remove ${n}`, (world) => {
    world.leases.delete(n)
    world.node.remove(peer(n))
  }),
)
const snapshot = fc.subarray([1, 2, 3, 4, 5]).map((left) =>
  step(`snapshot ${left}`, (world) => {
    for (const n of [...world.leases.keys()]) if (!left.includes(n)) world.leases.delete(n)
    world.node.snapshot([...world.leases.values()])
  }),
)
const byTunnel = fc
  .tuple(verb, fc.integer({ min: 1, max: PEERS + 1 }), number, fc.constantFrom(0, 5))
  .map(([v, n, via, metric]) =>
    step(`route ${v} ${n} via ${via} metric ${metric}`, (world) =>
      world.interfere((op) =>
        op.route(v, { to: `10.244.${n}.0/24`, via: `10.244.${via}.0`, dev: DEVICE, onlink: true, metric }),
      ),
    ),
  )
/** Not deleted: that would take the foreign route at another metric, which has to survive. */
const byUnderlay = fc
  .tuple(fc.constantFrom<Verb>('add', 'replace', 'append', 'prepend'), number)
  .map(([v, n]) =>
    step(`route ${v} ${n} via eth0`, (world) =>
      world.interfere((op) => op.route(v, { to: `10.244.${n}.0/24`, via: '192.0.2.9', dev: 'eth0' })),
    ),
  )
const onNeighbour = fc
  .tuple(verb, fc.integer({ min: 1, max: PEERS + 1 }), mac, fc.constantFrom(0x80, 0x04))
  .map(([v, n, m, state]) =>
    step(`neighbour ${v} ${n} ${m} ${state}`, (world) =>
      world.interfere((op) => op.neighbour(v, DEVICE, `10.244.${n}.0`, m, state)),
    ),
  )
const onFdb = fc
  .tuple(verb, fc.constantFrom(...MACS, '00:00:00:00:00:00', '01:00:5e:00:00:01'), address)
  .map(([v, m, a]) => step(`fdb ${v} ${m} ${a}`, (world) => world.interfere((op) => op.fdb(v, DEVICE, m, a))))
const onNexthop = fc
  .tuple(verb, fc.integer({ min: 0xf1000000, max: 0xf1000003 }))
  .map(([v, id]) =>
    step(`nexthop ${v} ${id}`, (world) => world.interfere((op) => op.nexthop(v, id, '10.244.1.0', DEVICE))),
  )
const onDevice = fc
  .constantFrom<[string, (op: Operator) => NetlinkRequest]>(
    ['delete', (op) => op.unlink(DEVICE)],
    ['down', (op) => op.set(DEVICE, { up: false })],
    ['up', (op) => op.set(DEVICE, { up: true })],
    ['rename', (op) => op.set(DEVICE, { rename: 'stolen0' })],
    ['mtu', (op) => op.set(DEVICE, { mtu: 1300 })],
    ['mac', (op) => op.set(DEVICE, { mac: '02:00:00:00:77:77' })],
    ['learning', (op) => op.setVxlan(DEVICE, { learning: true })],
    ['address', (op) => op.address('delete', DEVICE, '10.244.0.0/32')],
    ['stray', (op) => op.address('add', DEVICE, '10.244.0.9/32')],
  )
  .map(([name, request]) => step(`device ${name}`, (world) => world.interfere(request)))
const failure = fc
  .tuple(fc.constantFrom(...CALLS), fc.constantFrom(...CODES), fc.integer({ min: 1, max: 4 }))
  .map(([type, code, times]) =>
    step(`message ${type} fails ${times} times: ${code}`, ({ machine, node }) => {
      machine.kernel.injections.push({ type, code, times, from: node.portId })
    }),
  )
const trouble = fc.oneof(
  fc.boolean().map((deaf) =>
    step(deaf ? 'deaf' : 'hearing', ({ node }) => {
      node.deaf = deaf
    }),
  ),
  fc.constant(step('overrun', ({ machine }) => machine.overrun())),
  fc.integer({ min: 1, max: 12 }).map((n) =>
    step(`${n} interrupted`, ({ machine }) => {
      machine.kernel.interruptions = n
    }),
  ),
)
const time = fc
  .constantFrom(0, 1, 5, 1000, 70_000)
  .map((ms) => step(`${ms} ms`, ({ node }) => node.settle(ms)))
const restart = fc.constant(step('restart', (world) => world.restart()))

const steps = fc.array(
  fc.oneof(
    { weight: 6, arbitrary: lease },
    { weight: 2, arbitrary: leave },
    { weight: 1, arbitrary: snapshot },
    { weight: 3, arbitrary: byTunnel },
    { weight: 2, arbitrary: byUnderlay },
    { weight: 3, arbitrary: onNeighbour },
    { weight: 3, arbitrary: onFdb },
    { weight: 1, arbitrary: onNexthop },
    { weight: 2, arbitrary: onDevice },
    { weight: 3, arbitrary: failure },
    { weight: 1, arbitrary: trouble },
    { weight: 6, arbitrary: time },
    { weight: 1, arbitrary: restart },
  ),
  { maxLength: 40 },
)

describe('any history', () => {
  it.each([false, true])(
    'ends with what is wanted and nothing else (DirectRouting %s)',
    async (directRouting) => {
      await fc.assert(
        fc.asyncProperty(steps, async (history) => {
          const world = new World(directRouting)
          try {
            for (const happening of history) {
              await happening.do(world)
              world.expectForeign()
            }
            world.calm()
            await world.node.settle(LONG)
            expect(world.state()).toEqual(
              expected(world.wanted(), { addresses: [`${DEVICE} 10.244.0.0/32`] }, FOREIGN),
            )
            world.node.forget()
            await world.node.settle(LONG)
            expect(world.node.writes).toEqual([])
            const { tables } = world.node.network.status
            expect(Object.values(tables).map(({ failed }) => failed)).toEqual([0, 0, 0, 0])
          } finally {
            await world.node.stop()
          }
        }),
        { numRuns: Number(process.env.FC_RUNS ?? 150), endOnFailure: false },
      )
    },
  )
})
