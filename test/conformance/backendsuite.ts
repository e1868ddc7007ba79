/** What holds for backends, over a fake and a real kernel alike; `suites.ts` says for which. */
import { expect, it } from 'vitest'
import type { Row } from './backendnode.ts'
import type { Machine } from './machine.ts'
import { ip } from './operator.ts'
import { ALICE, BOB, CAROL, useSite } from './site.ts'

/** What holds for every backend, even for one that does nothing. */
export function everyBackendSuite(row: Row, make: () => Machine): void {
  const site = useSite(row, make)

  it('makes of an empty machine what flannel makes of it', async () => {
    const node = await site.start([ALICE, BOB])
    await node.reach([ALICE, BOB])
    expect(node.network.mtu).toBe(row.mtu)
    if (row.device !== undefined) expect(site.op.link(row.device)).toMatchObject({ mtu: row.mtu, up: true })
    expect(node.complaints()).toEqual([])
  })

  it('writes nothing over a right state', async () => {
    const node = await site.start([ALICE, BOB])
    await node.reach([ALICE, BOB])
    node.forget()
    await node.settle(200_000)
    expect(node.writes).toEqual([])
    node.expectState([ALICE, BOB])
    expect(node.logged).toEqual([])
  })

  it('follows peers that come, move and go, by event and by snapshot', async () => {
    const node = await site.start([ALICE])
    const moved = { ...ALICE, ip: '192.0.2.77' }
    node.put(BOB)
    node.put(moved)
    await node.reach([moved, BOB])
    node.remove(BOB)
    await node.reach([moved])
    node.snapshot([ALICE, CAROL])
    await node.reach([ALICE, CAROL])
    node.snapshot([])
    await node.reach([])
    expect(node.complaints()).toEqual([])
  })

  it('leaves alone what is not its own', async () => {
    const { op } = site
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
    const node = await site.start([ALICE, CAROL])
    await node.reach([ALICE, CAROL], foreign)
    node.snapshot([ALICE])
    await node.reach([ALICE], foreign)
    await node.settle(61_000)
    node.expectState([ALICE], foreign)
    expect(node.complaints()).toEqual([])
  })
}

/** What holds for those to which it matters what a peer is. */
export function peerTypeSuite(row: Row, make: () => Machine): void {
  const site = useSite(row, make)

  it('skips peers of another type, and says so once', async () => {
    const node = await site.start([ALICE, BOB])
    await node.reach([ALICE, BOB])
    expect(node.network.status).toMatchObject({ peers: 2, skipped: 0 })
    const attributes = { publicIP: ip(BOB.ip), backendType: 'other', backendData: undefined }
    const foreign = { ...node.leaseOf(BOB), attributes }
    for (let i = 0; i < 3; i++) node.network.replaceLeases([node.leaseOf(ALICE), foreign])
    node.network.apply()
    await node.reach([ALICE])
    expect(node.complaints()).toEqual([expect.stringMatching(/type=other|non-vxlan/)])
    expect(node.complaints()[0]).toContain(BOB.subnet)
    expect(node.network.status).toMatchObject({ peers: 1, skipped: 1 })
    node.put(BOB)
    await node.reach([ALICE, BOB])
  })
}

/** What holds for those that know what the kernel has to hold. */
export function healingBackendSuite(row: Row, make: () => Machine): void {
  const site = useSite(row, make)

  it('comes back after eth0 was down, or its address was gone', async () => {
    const { op } = site
    const node = await site.start([ALICE, BOB])
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
    const { op } = site
    const node = await site.start([ALICE, BOB])
    const lost = site.machine.state().routes.filter((line) => /^10\.24/.test(line))
    expect(lost).not.toEqual([])
    for (const line of lost) op.do(op.route('delete', { to: line.replace(/ .*/, '') }))
    node.network.observeOverrun()
    await node.settle()
    node.expectState([ALICE, BOB])
  })

  it('tells of each peer what the kernel holds of it', async () => {
    const { op } = site
    const node = await site.start([ALICE, BOB])
    const routes = () => [...(node.network.peers?.() ?? [])].map(({ entries }) => entries.route)
    const [sound, ...rest] = new Set(
      [...(node.network.peers?.() ?? [])].flatMap((p) => Object.values(p.entries)),
    )
    expect([sound, rest]).toEqual(['ok', []])
    expect(routes()).toEqual(['ok', 'ok'])
    const line = site.machine.state().routes.find((each) => /^10\.24[04]/.test(each)) ?? ''
    op.do(op.route('delete', { to: line.replace(/ .*/, '') }))
    // Heard of, and not repaired yet.
    await node.settle(0)
    expect(routes()).toContain('missing')
    await node.settle()
    expect(routes()).toEqual(['ok', 'ok'])
    // That one in the place of the route to the whole network is there, only the next look at the table tells.
    if (row.lines(ALICE).routes === undefined) return
    op.do(op.route('replace', { to: line.replace(/ .*/, ''), via: '192.0.2.9', dev: 'eth0' }))
    await node.settle(0)
    expect(routes()).toContain('differs')
    await node.settle()
    expect(routes()).toEqual(['ok', 'ok'])
  })
}

/** What holds for those whose state stays in the kernel when the daemon stops. */
export function restartSuite(row: Row, make: () => Machine): void {
  const site = useSite(row, make)

  it('writes nothing over a right state when it starts', async () => {
    const node = await site.restart(await site.start([ALICE, BOB]), [ALICE, BOB])
    expect(node.writes).toEqual([])
    node.expectState([ALICE, BOB])
  })

  it('withdraws at its start what peers of an earlier run left', async () => {
    const node = await site.restart(await site.start([ALICE, BOB]), [BOB])
    node.expectState([BOB])
  })
}
