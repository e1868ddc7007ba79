/**
 * The fake kernel beside the real one, step by step: both are given the same random requests, have to answer the same,
 * say the same to a monitor, and end in the same state. What a case does not think of, this may.
 */
import fc from 'fast-check'
import { expect, it } from 'vitest'
import { formatIpv4, formatSubnet } from '../../src/ip.ts'
import { decodeNotification } from '../../src/netlink/monitor.ts'
import type { NetlinkRequest } from '../../src/netlink/request.ts'
import type { NetlinkSocket } from '../../src/netlink/socket.ts'
import { readMessages } from '../../src/netlink/wire.ts'
import { FakeMachine, type Machine, RealMachine } from './machine.ts'
import { prepare } from './node.ts'
import { Operator, type RouteWords, type Verb } from './operator.ts'

const LOCAL_TABLE = 255

class Side {
  readonly machine: Machine
  readonly op: Operator
  readonly #portId: number
  readonly #monitor: NetlinkSocket

  constructor(machine: Machine) {
    this.machine = machine
    const socket = machine.open()
    this.#portId = socket.portId
    this.op = new Operator(socket)
    prepare(this.op)
    this.#monitor = machine.monitor()
  }

  /** How it went, 'no device' when it could not even be asked for. */
  try(request: (op: Operator) => NetlinkRequest, dev: string): string {
    return this.op.hasLink(dev) ? this.op.try(request(this.op)) : 'no device'
  }

  /** What was said; of devices, which say more than once what they are, nothing. */
  said(): string[] {
    const lines: string[] = []
    for (let datagram = this.#monitor.receive(); datagram !== undefined; datagram = this.#monitor.receive()) {
      for (const message of readMessages(datagram)) {
        const line = this.#describe(decodeNotification(message))
        if (line !== undefined) lines.push(line)
      }
    }
    return lines
  }

  #describe(change: ReturnType<typeof decodeNotification>): string | undefined {
    if (change === undefined || change.kind === 'link') return undefined
    const { kind, deleted, replaced, portId } = change
    const who = portId === 0 ? 'kernel' : portId === this.#portId ? 'us' : 'others'
    const head = `${deleted ? '-' : '+'}${replaced && kind === 'route' ? '!' : ''} ${who} ${kind}`
    switch (kind) {
      case 'address':
        return `${head} ${formatIpv4(Number(change.value.address))}/${change.value.length}`
      case 'route': {
        const { destination, table, metric, tos, protocol, gateway, oif, nexthopId, onlink } = change.value
        if (table === LOCAL_TABLE) return undefined
        const to = gateway === undefined ? '' : formatIpv4(gateway)
        return `${head} ${formatSubnet(destination)} ${table} ${metric} ${tos} ${protocol} ${to} ${oif} ${nexthopId} ${onlink}`
      }
      case 'neighbour':
        return `${head} ${formatIpv4(Number(change.value.address))} ${change.value.index} ${change.value.mac} ${change.value.state}`
      case 'fdb':
        return `${head} ${change.value.mac} ${formatIpv4(change.value.destination ?? 0)} ${change.value.index} ${change.value.state}`
      case 'nexthop':
        return `${head} ${change.value.id} ${formatIpv4(change.value.gateway ?? 0)} ${change.value.oif} ${change.value.onlink}`
    }
  }

  devices(): unknown[] {
    return ['flannel.1', 'flannel.2', 'eth0'].map((name) => {
      if (!this.op.hasLink(name)) return name
      const { index, kind, up, mtu, txQueueLength, vxlan } = this.op.link(name)
      return { name, index, kind, up, mtu, txQueueLength, vxlan }
    })
  }
}

interface Step {
  toString(): string
  do(side: Side): string
}

function step(name: string, dev: string, request: (op: Operator) => NetlinkRequest): Step {
  return { toString: () => name, do: (side) => side.try(request, dev) }
}

const verb = fc.constantFrom<Verb>('add', 'replace', 'change', 'append', 'prepend', 'delete')
const device = fc.constantFrom('flannel.1', 'flannel.2', 'eth0')
const vxlan = fc.constantFrom('flannel.1', 'flannel.2')
const mac = fc.constantFrom(
  '02:00:00:00:00:0a',
  '02:00:00:00:00:0b',
  '00:00:00:00:00:00',
  '01:00:5e:00:00:01',
)
const unicast = fc.constantFrom('02:00:00:00:00:0a', '02:00:00:00:00:0b')
const underlay = fc.constantFrom('192.0.2.2', '192.0.2.3')
const overlay = fc.constantFrom('10.244.1.0', '10.244.2.0')
const id = fc.integer({ min: 1, max: 2 })

const route = fc
  .tuple(
    verb,
    fc.record<RouteWords>(
      {
        to: fc.constantFrom('10.244.1.0/24', '10.244.2.0/24', '10.244.0.0/16', '192.0.2.0/24'),
        dev: device,
        via: fc.constantFrom('10.244.1.0', '192.0.2.9', '10.244.9.9'),
        onlink: fc.boolean(),
        metric: fc.constantFrom(0, 5),
        tos: fc.constantFrom(0, 0x10),
        table: fc.constantFrom(254, 100),
        proto: fc.constantFrom(3, 4),
      },
      { requiredKeys: ['to', 'dev', 'via'] },
    ),
  )
  .map(([v, words]) =>
    step(`route ${v} ${JSON.stringify(words)}`, words.dev ?? '', (op) => op.route(v, words)),
  )
const viaObject = fc
  .tuple(verb, overlay, id, fc.constantFrom(0, 5))
  .map(([v, to, nhid, metric]) =>
    step(`route ${v} ${to} nhid ${nhid} metric ${metric}`, 'eth0', (op) =>
      op.route(v, { to: `${to}/24`, nhid, metric }),
    ),
  )
const byPrefix = overlay.map((to) =>
  step(`route delete ${to}`, 'eth0', (op) => op.route('delete', { to: `${to}/24` })),
)
const neighbour = fc
  .tuple(verb, device, overlay, unicast)
  .map(([v, dev, a, m]) => step(`neighbour ${v} ${dev} ${a} ${m}`, dev, (op) => op.neighbour(v, dev, a, m)))
const fdb = fc
  .tuple(verb, vxlan, mac, underlay)
  .map(([v, dev, m, a]) => step(`fdb ${v} ${dev} ${m} ${a}`, dev, (op) => op.fdb(v, dev, m, a)))
const nexthop = fc
  .tuple(verb, id, overlay, device)
  .map(([v, n, via, dev]) => step(`nexthop ${v} ${n} ${via} ${dev}`, dev, (op) => op.nexthop(v, n, via, dev)))
const address = fc
  .tuple(
    fc.constantFrom<'add' | 'delete'>('add', 'delete'),
    device,
    fc.constantFrom('10.244.0.0/32', '10.244.0.1/32', '10.244.0.1/24', '192.0.2.1/24'),
  )
  .map(([v, dev, cidr]) => step(`address ${v} ${dev} ${cidr}`, dev, (op) => op.address(v, dev, cidr)))
const create = fc
  .record({
    name: vxlan,
    vni: id,
    port: fc.constantFrom(8472, 4789),
    onEth0: fc.boolean(),
    mtu: fc.constantFrom(undefined, 1300, 9000),
  })
  .map(({ name, vni, port, onEth0, mtu }) =>
    step(`create ${name} vni ${vni} port ${port} ${onEth0} ${mtu}`, 'eth0', (op) =>
      op.vxlan(name, { vni, port, parent: onEth0 ? op.link('eth0').index : 0, local: 0xc0000201, mtu }),
    ),
  )
const change = fc
  .tuple(
    device,
    fc.constantFrom(
      { up: true },
      { up: false },
      { mtu: 1300 },
      { mtu: 1500 },
      { mtu: 60 },
      { mac: '02:00:00:00:00:77' },
      { txQueueLength: 9 },
    ),
  )
  .map(([dev, to]) => step(`set ${dev} ${JSON.stringify(to)}`, dev, (op) => op.set(dev, to)))
const rename = vxlan.map((dev) => step(`rename ${dev}`, dev, (op) => op.set(dev, { rename: 'flannel.2' })))
const remove = vxlan.map((dev) => step(`delete ${dev}`, dev, (op) => op.unlink(dev)))

const steps = fc.array(
  fc.oneof(
    { weight: 6, arbitrary: route },
    { weight: 2, arbitrary: viaObject },
    { weight: 1, arbitrary: byPrefix },
    { weight: 3, arbitrary: neighbour },
    { weight: 4, arbitrary: fdb },
    { weight: 2, arbitrary: nexthop },
    { weight: 3, arbitrary: address },
    { weight: 2, arbitrary: create },
    { weight: 3, arbitrary: change },
    { weight: 1, arbitrary: rename },
    { weight: 1, arbitrary: remove },
  ),
  { minLength: 10, maxLength: 30 },
)

it('the fake answers, tells and ends as the real one', () => {
  const setUp = [
    step('create flannel.1', 'eth0', (op) =>
      op.vxlan('flannel.1', { parent: op.link('eth0').index, local: 0xc0000201 }),
    ),
    step('up', 'flannel.1', (op) => op.set('flannel.1', { up: true })),
  ]
  fc.assert(
    fc.property(steps, (history) => {
      const real = new Side(new RealMachine())
      const fake = new Side(new FakeMachine())
      const done: string[] = []
      try {
        for (const happening of [...setUp, ...history]) {
          done.push(String(happening))
          expect(happening.do(fake), done.join('\n')).toEqual(happening.do(real))
          // Entries that go with a device go in the order of a hash table.
          expect(fake.said().sort(), done.join('\n')).toEqual(real.said().sort())
        }
        expect(fake.machine.state(), done.join('\n')).toEqual(real.machine.state())
        expect(fake.devices(), done.join('\n')).toEqual(real.devices())
      } finally {
        real.machine.close()
      }
    }),
    // A shorter history is not worth the time: the steps that led there are told.
    { numRuns: Number(process.env.FC_RUNS ?? 40), endOnFailure: true },
  )
})
