import { beforeEach, expect, it } from 'vitest'
import { PLAIN_ROUTES } from '../../src/backend/routes.ts'
import { type BackendNode, type Row, remote } from './backendnode.ts'
import type { Machine } from './machine.ts'
import type { Operator } from './operator.ts'
import { ALICE, BOB, useSite } from './site.ts'

/** What holds for those that have one route for each peer. */
export function peerRouteSuite(row: Row, make: () => Machine): void {
  const site = useSite(row, make)
  let node: BackendNode

  beforeEach(() => {
    node = site.newNode()
  })

  it.each<[string, (op: Operator) => void]>([
    ['deleted', (o) => o.do(o.route('delete', { to: ALICE.subnet }))],
    ['replaced', (o) => o.do(o.route('replace', { to: ALICE.subnet, via: '192.0.2.9', dev: 'eth0' }))],
    [
      'replaced by another program',
      (o) => o.do(o.route('replace', { to: ALICE.subnet, via: '192.0.2.9', proto: 4 })),
    ],
    ['shadowed', (o) => o.do(o.route('prepend', { to: ALICE.subnet, via: '192.0.2.9', dev: 'eth0' }))],
  ])('a route that was %s is back at once, and the log says so as flannel does', async (_, damage) => {
    await node.start([ALICE, BOB])
    node.forget()
    damage(site.op)
    await node.settle()
    node.expectState([ALICE, BOB])
    expect(node.logged.join('\n')).toMatch(/repaired|Route recovered/)
  })

  it('says of a peer what flannel says', async () => {
    await node.start([ALICE])
    node.remove(ALICE)
    node.put(BOB)
    site.op.do(site.op.route('delete', { to: BOB.subnet }))
    await node.settle()
    const lines = node.logged.filter((line) => /Subnet|Route/.test(line))
    expect(lines).toEqual([
      `I Subnet added: ${ALICE.subnet} via ${ALICE.ip}`,
      `I Subnet removed: ${ALICE.subnet}`,
      `I Subnet added: ${BOB.subnet} via ${BOB.ip}`,
      `I Route recovered ${BOB.subnet} : ${BOB.ip}`,
    ])
  })

  it("replaces another program's route to a peer's subnet, and stale ones of an earlier run", async () => {
    site.op.do(site.op.route('add', { to: ALICE.subnet, via: '192.0.2.9', dev: 'eth0', proto: 4 }))
    site.op.do(site.op.route('append', { to: ALICE.subnet, via: '192.0.2.10', dev: 'eth0' }))
    await node.start([ALICE])
    node.expectState([ALICE])
  })

  it("leaves a connected route in a peer's place, says so once, and takes the place when it is free", async () => {
    site.op.do(site.op.bridge('docker0'))
    site.op.do(site.op.set('docker0', { up: true }))
    site.op.do(site.op.address('add', 'docker0', '10.244.1.1/24'))
    const docker = {
      routes: ['10.244.1.0/24 dev docker0 proto kernel scope link src 10.244.1.1'],
      addresses: ['docker0 10.244.1.1/24'],
    }
    // A bridge without a port has no carrier, of which the kernel tells and the one in memory knows nothing.
    const state = () => site.machine.state().routes.map((line) => line.replace(' linkdown', ''))
    await node.start([ALICE, BOB])
    await node.settle(61_000)
    expect(state()).toContain(docker.routes[0])
    expect(state().filter((line) => line.startsWith(ALICE.subnet))).toHaveLength(1)
    expect(state().filter((line) => line.startsWith(BOB.subnet))).toHaveLength(1)
    expect(node.complaints()).toEqual([expect.stringContaining(`${ALICE.subnet} is leased by another node`)])
    site.op.do(site.op.address('delete', 'docker0', '10.244.1.1/24'))
    await node.settle()
    node.expectState([ALICE, BOB])
  })
}

/** What holds for them when there are many peers, and for vxlan. */
export function manyPeersSuite(row: Row, make: () => Machine): void {
  const site = useSite(row, make)

  it(`uses plain routes up to ${PLAIN_ROUTES}, nexthop objects beyond, and plain ones again when there are few`, async () => {
    const peers = Array.from({ length: PLAIN_ROUTES + 50 }, (_, i) => remote(i + 1))
    const lines = () => site.machine.state().routes.filter((line) => /^10\.24.* via /.test(line))
    const node = await site.start(peers)
    expect(lines().filter((line) => !line.includes('nhid'))).toHaveLength(PLAIN_ROUTES)
    expect(lines().filter((line) => line.includes('nhid'))).toHaveLength(50)
    expect(site.machine.state().nexthops).toHaveLength(50)
    node.forget()
    await node.settle(61_000)
    expect(node.writes).toEqual([])
    const again = await site.restart(node, peers)
    expect(again.writes).toEqual([])
    again.snapshot(peers.slice(-30))
    await again.settle()
    again.expectState(peers.slice(-30))
  })
}

/** What holds for those that reach peers on the link without the tunnel. */
export function directPeersSuite(row: Row, make: () => Machine): void {
  const site = useSite(row, make)

  it.each([1, PLAIN_ROUTES + 1])('one of %i peers moves behind a router and back', async (count) => {
    const { op } = site
    op.do(op.route('add', { to: '0.0.0.0/0', via: '192.0.2.254' }))
    const peers = Array.from({ length: count }, (_, i) => remote(i + 1))
    const mover = peers[count - 1] ?? ALICE
    const route = () => site.machine.state().routes.find((line) => line.startsWith(`${mover.subnet} `)) ?? ''
    const told = () => [...(node.network.peers?.() ?? [])].at(-1)
    const node = await site.start(peers)
    const direct = route()
    expect(direct).toMatch(new RegExp(` via ${mover.ip} dev eth0`))
    expect(direct.includes('nhid')).toBe(count > PLAIN_ROUTES)
    expect(told()).toMatchObject({ route: 'direct', entries: { route: 'ok' } })

    op.do(op.route('add', { to: `${mover.ip}/32`, via: '192.0.2.254' }))
    await node.settle(61_000)
    expect(route()).toMatch(/ dev flannel\S+ onlink/)
    expect(told()?.route).toBe(count > PLAIN_ROUTES ? 'nexthop' : 'plain')
    expect(Object.values(told()?.entries ?? {}).every((state) => state === 'ok')).toBe(true)
    op.do(op.route('delete', { to: `${mover.ip}/32` }))
    await node.settle(61_000)
    expect(route()).toBe(direct)
    expect(site.machine.state().nexthops).toHaveLength(Math.max(0, count - PLAIN_ROUTES))
    expect(node.complaints()).toEqual([])
  })
}
