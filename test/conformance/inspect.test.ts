/** What the running network tells of itself: how each peer's entries stand, and what it has done. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { FakeMachine } from './machine.ts'
import { DEVICE, leaseOf, type NodeOptions, type Peer, peer, prepare, TestNode } from './node.ts'
import { Operator } from './operator.ts'

const ALICE = peer(1)
const BOB = peer(2)

let machine: FakeMachine
let op: Operator
let node: TestNode

beforeEach(() => {
  machine = new FakeMachine()
  op = new Operator(machine.open())
  prepare(op)
})
afterEach(async () => {
  await node.stop()
  machine.close()
})

function start(peers: readonly Peer[], options: NodeOptions = {}): void {
  node = new TestNode(machine, op, options)
  node.start(peers)
}

function states(): Record<string, unknown> {
  return Object.fromEntries(
    [...node.network.peers()].map(({ subnet, route, entries }) => [
      `${(subnet.address >>> 8) & 255} ${route}`,
      entries,
    ]),
  )
}

const OK = { neighbour: 'ok', fdb: 'ok', route: 'ok' }
const tunnel = ({ subnet }: Peer) => ({
  ...{ to: subnet, via: subnet.replace(/\/.*/, ''), dev: DEVICE, onlink: true },
})

describe('peers', () => {
  it('are listed with what their lease says', () => {
    start([ALICE])
    const [only] = node.network.peers()
    const { publicIP } = leaseOf(ALICE).attributes
    expect(only).toEqual({
      subnet: leaseOf(ALICE).subnet,
      publicIP,
      mac: ALICE.mac,
      route: 'plain',
      entries: OK,
    })
  })

  it.each([
    ['neighbour', (words: string) => words.includes('10.244.2.0') && words.includes(BOB.mac)],
    ['fdb', (words: string) => words.includes(BOB.ip)],
  ])('whose %s the kernel refuses lack it, and the route that waits for it', (table, marks) => {
    start([ALICE, BOB], { refuse: marks })
    expect(states()).toEqual({
      '1 plain': OK,
      '2 plain': { ...OK, [table]: 'missing', route: 'missing' },
    })
    expect([...(node.network.history.refusals ?? [])]).toHaveLength(1)
  })

  it.each([
    ['neighbour', () => op.neighbour('replace', DEVICE, '10.244.1.0', BOB.mac)],
    ['fdb', () => op.fdb('replace', DEVICE, ALICE.mac, BOB.ip)],
    ['route', () => op.route('replace', { ...tunnel(ALICE), via: '10.244.99.0' })],
  ])('whose %s somebody replaced differ until that is repaired', async (table, change) => {
    start([ALICE])
    op.do(change())
    await node.settle(0)
    expect(states()).toEqual({ '1 plain': { ...OK, [table]: 'differs' } })
    await node.settle()
    expect(states()).toEqual({ '1 plain': OK })
  })

  it('that share a MAC with a newer one have no place', () => {
    start([{ ...ALICE, mac: BOB.mac }, BOB])
    expect(states()).toEqual({ '1 none': {}, '2 plain': OK })
  })

  it('reached directly need their route alone', () => {
    start([{ ...ALICE, ip: '192.0.2.9' }], { directRouting: true })
    expect(states()).toEqual({ '1 direct': { route: 'ok' } })
  })
})

describe('history', () => {
  it('tells of the last apply and the last compare, and counts all of them', async () => {
    start([ALICE, BOB])
    const { lastApply, lastCompare, applies, compares } = node.network.history
    expect(lastApply).toMatchObject({ at: node.clock.now(), entries: 6 })
    expect(lastCompare).toMatchObject({ entries: 0 })
    await node.settle()
    const before = { applies: applies.count, compares: compares.count }
    await node.settle(60_000)
    expect(compares.count).toBe(before.compares + 1)
    expect(applies.count).toBeGreaterThan(before.applies)
    expect(node.network.history.lastApply).toMatchObject({ entries: 0 })
    expect(node.network.history.lastCompare).toMatchObject({ entries: 0 })
  })

  it('tells by what a repair became due', async () => {
    start([ALICE])
    op.do(op.neighbour('delete', DEVICE, '10.244.1.0', ALICE.mac))
    await node.settle()
    node.deaf = true
    op.do(op.route('delete', tunnel(ALICE)))
    await node.settle()
    node.deaf = false
    await node.settle(60_000)
    op.do(op.unlink(DEVICE))
    await node.settle()
    node.expectState([ALICE])
    const { repairs } = node.network.history
    expect(repairs).toMatchObject({
      neighbour: { notification: 1, compare: 0, device: 1 },
      route: { notification: 0, compare: 1, device: 1 },
      fdb: { notification: 0, compare: 0, device: 1 },
      device: { notification: 1, compare: 0, device: 0 },
    })
    expect(node.network.status.repairs).toMatchObject({ neighbour: 2, route: 2, fdb: 1, device: 1 })
  })

  it('names what keeps the device from being made', async () => {
    let refusing = false
    start([ALICE], { refuse: (words) => refusing && words.includes('RTM_NEWLINK') })
    expect(node.network.history.trouble).toBeUndefined()
    refusing = true
    op.do(op.unlink(DEVICE))
    await node.settle()
    expect(node.network.history.trouble).toMatch(/^this kernel has no VXLAN devices/)
    refusing = false
    await node.settle(2_000)
    expect(node.network.history.trouble).toBeUndefined()
  })
})
