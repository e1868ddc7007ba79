/** What holds for every backend that routes to its peers, over a fake and a real kernel alike. */
import { afterEach, beforeEach, expect, it } from 'vitest'
import { PLAIN_ROUTES } from '../../src/backend/routes.ts'
import { BackendNode, type RemoteNode, type Row, remote } from './backendnode.ts'
import type { Machine } from './machine.ts'
import { prepare, underlayOf } from './node.ts'
import { ip, Operator } from './operator.ts'

const ALICE = remote(1)
const BOB = remote(2)
const CAROL = remote(3)

export function backendSuite(row: Row, make: () => Machine): void {
  let machine: Machine
  let op: Operator
  const nodes: BackendNode[] = []

  beforeEach(() => {
    machine = make()
    op = new Operator(machine.open())
    prepare(op)
    op.do(op.address('add', 'eth0', '10.9.255.254/16'))
  })
  afterEach(async () => {
    for (const node of nodes.splice(0)) await node.stop()
    machine.close()
  })

  function newNode(of = row): BackendNode {
    const node = new BackendNode(machine, op, of)
    nodes.push(node)
    return node
  }
  const start = (peers: readonly RemoteNode[]) => newNode().start(peers)
  async function restart(node: BackendNode, peers: readonly RemoteNode[]): Promise<BackendNode> {
    nodes.splice(nodes.indexOf(node), 1)
    await node.stop()
    return start(peers)
  }

  it('makes of an empty machine what flannel makes of it', async () => {
    const node = await start([ALICE, BOB])
    node.expectState([ALICE, BOB])
    expect(node.network.mtu).toBe(row.mtu)
    if (row.device !== undefined) expect(op.link(row.device)).toMatchObject({ mtu: row.mtu, up: true })
    expect(node.complaints()).toEqual([])
    expect(node.network.status.peers).toBe(2)
  })

  it('writes nothing over a right state, at a start or later', async () => {
    const node = await restart(await start([ALICE, BOB]), [ALICE, BOB])
    await node.settle(200_000)
    expect(node.writes).toEqual([])
    node.expectState([ALICE, BOB])
  })

  it('follows peers that come, move and go, by event and by snapshot', async () => {
    const node = await start([ALICE])
    const moved = { ...ALICE, ip: '192.0.2.77' }
    node.put(BOB)
    node.put(moved)
    node.expectState([moved, BOB])
    node.remove(BOB)
    node.expectState([moved])
    node.snapshot([ALICE, CAROL])
    node.expectState([ALICE, CAROL])
    node.snapshot([])
    node.expectState([])
    expect(node.complaints()).toEqual([])
  })

  it('withdraws at its start what peers of an earlier run left', async () => {
    const node = await restart(await start([ALICE, BOB]), [BOB])
    node.expectState([BOB])
  })

  it('skips peers of another type, and says so once', async () => {
    const node = await start([ALICE, BOB])
    const attributes = { publicIP: ip(BOB.ip), backendType: 'other', backendData: undefined }
    const foreign = { ...node.leaseOf(BOB), attributes }
    for (let i = 0; i < 3; i++) node.network.replaceLeases([node.leaseOf(ALICE), foreign])
    node.network.apply()
    node.expectState([ALICE])
    expect(node.complaints()).toEqual([expect.stringContaining(`type=other`)])
    expect(node.complaints()[0]).toContain(BOB.subnet)
    expect(node.network.status).toMatchObject({ peers: 1, skipped: 1 })
    node.put(BOB)
    node.expectState([ALICE, BOB])
  })

  it('leaves alone what is not its own', async () => {
    for (const words of [
      // An operator's: of another length, another metric, another protocol, another table; in and out of the network.
      { to: '10.244.64.0/20', via: '192.0.2.9', dev: 'eth0' },
      { to: CAROL.subnet, via: '192.0.2.9', dev: 'eth0', metric: 9 },
      { to: '10.245.77.0/24', via: '192.0.2.9', dev: 'eth0', proto: 4 },
      { to: '10.245.78.0/24', via: '192.0.2.9', dev: 'eth0', table: 100 },
      { to: '10.8.78.0/24', via: '192.0.2.9', dev: 'eth0' },
    ])
      op.do(op.route('add', words))
    op.do(op.nexthop('add', 77, '192.0.2.9', 'eth0'))
    const foreign = {
      routes: [
        '10.244.64.0/20 via 192.0.2.9 dev eth0',
        `${CAROL.subnet} via 192.0.2.9 dev eth0 metric 9`,
        '10.245.77.0/24 via 192.0.2.9 dev eth0 proto static',
        '10.245.78.0/24 via 192.0.2.9 dev eth0 table 100',
        '10.8.78.0/24 via 192.0.2.9 dev eth0',
      ],
      nexthops: ['id 77 via 192.0.2.9 dev eth0 scope link proto boot onlink'],
    }
    const node = await start([ALICE, CAROL])
    node.expectState([ALICE, CAROL], foreign)
    node.snapshot([ALICE])
    await node.settle(61_000)
    node.expectState([ALICE], foreign)
    expect(node.complaints()).toEqual([])
  })

  it('comes back after eth0 was down, or its address was gone', async () => {
    const node = await start([ALICE, BOB])
    op.do(op.set('eth0', { up: false }))
    await node.settle(5_000)
    op.do(op.set('eth0', { up: true }))
    await node.settle()
    node.expectState([ALICE, BOB])
    op.do(op.address('delete', 'eth0', '10.9.255.254/16'))
    op.do(op.address('delete', 'eth0', '192.0.2.1/24'))
    await node.settle(5_000)
    op.do(op.address('add', 'eth0', '192.0.2.1/24'))
    op.do(op.address('add', 'eth0', '10.9.255.254/16'))
    await node.settle()
    node.expectState([ALICE, BOB])
  })

  it('knows what was lost when notifications were', async () => {
    const node = await start([ALICE, BOB])
    const state = machine.state().routes.filter((line) => line.startsWith(ALICE.subnet))
    for (const _ of state) op.do(op.route('delete', { to: ALICE.subnet }))
    node.network.observeOverrun()
    await node.settle()
    node.expectState([ALICE, BOB])
  })
}

/** What holds for those that have one route for each peer. */
export function peerRouteSuite(
  row: Row & { readonly through: (n: RemoteNode) => string },
  make: () => Machine,
): void {
  let machine: Machine
  let op: Operator
  let node: BackendNode

  beforeEach(() => {
    machine = make()
    op = new Operator(machine.open())
    prepare(op)
    op.do(op.address('add', 'eth0', '10.9.255.254/16'))
    node = new BackendNode(machine, op, row)
  })
  afterEach(async () => {
    await node.stop()
    machine.close()
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
    damage(op)
    await node.settle()
    node.expectState([ALICE, BOB])
    expect(node.logged.join('\n')).toMatch(/repaired|Route recovered/)
  })

  it('says of a peer what flannel says', async () => {
    await node.start([ALICE])
    node.remove(ALICE)
    node.put(BOB)
    op.do(op.route('delete', { to: BOB.subnet }))
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
    op.do(op.route('add', { to: ALICE.subnet, via: '192.0.2.9', dev: 'eth0', proto: 4 }))
    op.do(op.route('append', { to: ALICE.subnet, via: '192.0.2.10', dev: 'eth0' }))
    await node.start([ALICE])
    node.expectState([ALICE])
  })

  it("leaves a connected route in a peer's place, says so once, and takes the place when it is free", async () => {
    op.do(op.bridge('docker0'))
    op.do(op.set('docker0', { up: true }))
    op.do(op.address('add', 'docker0', '10.244.1.1/24'))
    const docker = {
      routes: ['10.244.1.0/24 dev docker0 proto kernel scope link src 10.244.1.1'],
      addresses: ['docker0 10.244.1.1/24'],
    }
    // A bridge without a port has no carrier, of which the kernel tells and the one in memory knows nothing.
    const state = () => machine.state().routes.map((line) => line.replace(' linkdown', ''))
    await node.start([ALICE, BOB])
    await node.settle(61_000)
    expect(state()).toContain(docker.routes[0])
    expect(state().filter((line) => line.startsWith(ALICE.subnet))).toHaveLength(1)
    expect(state().filter((line) => line.startsWith(BOB.subnet))).toHaveLength(1)
    expect(node.complaints()).toEqual([expect.stringContaining(`${ALICE.subnet} is leased by another node`)])
    op.do(op.address('delete', 'docker0', '10.244.1.1/24'))
    await node.settle()
    node.expectState([ALICE, BOB])
  })

  it(`uses plain routes up to ${PLAIN_ROUTES}, nexthop objects beyond, and plain ones again when there are few`, async () => {
    const peers = Array.from({ length: PLAIN_ROUTES + 50 }, (_, i) => remote(i + 1))
    const lines = () => machine.state().routes.filter((line) => / via 10\.9\./.test(line))
    await node.start(peers)
    expect(lines().filter((line) => !line.includes('nhid'))).toHaveLength(PLAIN_ROUTES)
    expect(lines().filter((line) => line.includes('nhid'))).toHaveLength(50)
    expect(machine.state().nexthops).toHaveLength(50)
    node.forget()
    await node.settle(61_000)
    expect(node.writes).toEqual([])
    node.snapshot(peers.slice(-30))
    await node.settle()
    node.expectState(peers.slice(-30))
  })
}

/** What is particular to host-gw. */
export function hostGwSuite(row: Row, make: () => Machine): void {
  let machine: Machine
  let op: Operator
  let node: BackendNode

  beforeEach(() => {
    machine = make()
    op = new Operator(machine.open())
    prepare(op)
    op.do(op.address('add', 'eth0', '10.9.255.254/16'))
    op.do(op.route('add', { to: '0.0.0.0/0', via: '192.0.2.254' }))
    node = new BackendNode(machine, op, row)
  })
  afterEach(async () => {
    await node.stop()
    machine.close()
  })
  const out = { routes: ['default via 192.0.2.254 dev eth0'] }

  it('names once a peer that is not on the link, and routes to it as soon as it is', async () => {
    const far = { ...BOB, ip: '203.0.113.2' }
    await node.start([ALICE, far])
    await node.settle(200_000)
    node.expectState([ALICE], out)
    expect(node.complaints()).toEqual([
      expect.stringContaining(`Error adding route to ${far.subnet} via 203.0.113.2: network is unreachable`),
    ])
    op.do(op.route('add', { to: '203.0.113.0/24', dev: 'eth0' }))
    await node.settle(61_000)
    node.expectState([ALICE, far], { routes: [...out.routes, '203.0.113.0/24 dev eth0 scope link'] })
    expect(node.complaints()).toHaveLength(1)
  })

  it('refuses to start behind a NAT', async () => {
    const underlay = { ...underlayOf(op), publicIP: ip('198.51.100.1') }
    await expect(node.open({ underlay })).rejects.toMatchObject({
      name: 'BackendError',
      message: expect.stringContaining(
        'your PublicIP 198.51.100.1 differs from interface IP 192.0.2.1 of eth0',
      ),
    })
  })
}
