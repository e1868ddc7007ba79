import { beforeEach, expect, it } from 'vitest'
import type { BackendNode, Row } from './backendnode.ts'
import type { Machine } from './machine.ts'
import { underlayOf } from './node.ts'
import { ip } from './operator.ts'
import { ALICE, BOB, useSite } from './site.ts'

/** What is particular to host-gw. */
export function hostGwSuite(row: Row, make: () => Machine): void {
  const site = useSite(row, make)
  let node: BackendNode

  beforeEach(() => {
    site.op.do(site.op.route('add', { to: '0.0.0.0/0', via: '192.0.2.254' }))
    node = site.newNode()
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
    site.op.do(site.op.route('add', { to: '203.0.113.0/24', dev: 'eth0' }))
    await node.settle(61_000)
    node.expectState([ALICE, far], { routes: [...out.routes, '203.0.113.0/24 dev eth0 scope link'] })
    expect(node.complaints()).toHaveLength(1)
  })

  it('refuses to start behind a NAT', async () => {
    const underlay = { ...underlayOf(site.op), publicIP: ip('198.51.100.1') }
    await expect(node.open({ underlay })).rejects.toMatchObject({
      name: 'BackendError',
      message: expect.stringContaining(
        'your PublicIP 198.51.100.1 differs from interface IP 192.0.2.1 of eth0',
      ),
    })
  })
}
