import { expect, it } from 'vitest'
import { createIpip } from '../../src/netlink/link.ts'
import type { Row } from './backendnode.ts'
import type { Machine } from './machine.ts'
import { ip } from './operator.ts'
import { ALICE, BOB, useSite } from './site.ts'

/** What is particular to ipip. */
export function ipipSuite(row: Row, make: () => Machine): void {
  const site = useSite(row, make)

  const made = (name: string, local: string) =>
    site.op.do(createIpip({ name, local: ip(local), mtu: 1400, txQueueLength: 0 }))

  it("makes flannel's device", async () => {
    await site.newNode().start([ALICE])
    expect(site.op.link('flannel.ipip')).toMatchObject({
      ...{ kind: 'ipip', mtu: 1480, txQueueLength: 0, up: true },
      ipip: { local: ip('192.0.2.1'), remote: 0, ttl: 0, tos: 0, pathMtuDiscovery: false },
    })
  })

  it('adopts a device that is right, and corrects its MTU', async () => {
    made('flannel.ipip', '192.0.2.1')
    const { index } = site.op.link('flannel.ipip')
    const node = await site.newNode().start([ALICE])
    expect(site.op.link('flannel.ipip')).toMatchObject({ index, mtu: 1480 })
    node.expectState([ALICE])
  })

  it('makes a device with another local address anew', async () => {
    made('flannel.ipip', '192.0.2.99')
    const node = await site.newNode().start([ALICE])
    expect(site.op.link('flannel.ipip').ipip?.local).toBe(ip('192.0.2.1'))
    node.expectState([ALICE])
    expect(node.complaints()).toEqual([
      expect.stringContaining(
        '"flannel.ipip" already exists with incompatable configuration: local IP: 192.0.2.1',
      ),
    ])
  })

  it('names the device that is in the way', async () => {
    made('tun9', '192.0.2.1')
    await expect(site.newNode().start([])).rejects.toMatchObject({
      name: 'DeviceError',
      message: expect.stringContaining('another IPIP device, tun9, takes what comes for 192.0.2.1'),
    })
  })

  it('does not take an interface of that name that is none of its own', async () => {
    site.op.do(site.op.bridge('flannel.ipip'))
    await expect(site.newNode().start([])).rejects.toThrow('flannel.ipip of kind bridge exists already')
  })

  it('comes back from a device that was deleted, set down or renamed', async () => {
    const node = await site.newNode().start([ALICE, BOB])
    site.op.do(site.op.unlink('flannel.ipip'))
    await node.settle()
    node.expectState([ALICE, BOB])
    site.op.do(site.op.set('flannel.ipip', { up: false }))
    await node.settle()
    node.expectState([ALICE, BOB])
    // Before Linux 6.2 only what is down can be renamed.
    site.op.do(site.op.set('flannel.ipip', { up: false }))
    site.op.do(site.op.set('flannel.ipip', { rename: 'other' }))
    await node.settle()
    expect(site.op.hasLink('other')).toBe(false)
    node.expectState([ALICE, BOB])
  })

  it('with DirectRouting, takes the tunnel only where there is a router between', async () => {
    site.op.do(site.op.route('add', { to: '0.0.0.0/0', via: '192.0.2.254' }))
    const far = { ...BOB, ip: '203.0.113.2' }
    const node = await site.newNode({ ...row, options: { DirectRouting: true } }).start([ALICE, far])
    const routes = () => site.machine.state().routes.filter((line) => line.startsWith('10.244'))
    expect(routes()).toEqual([
      `${ALICE.subnet} via ${ALICE.ip} dev eth0 onlink`,
      `${far.subnet} via ${far.ip} dev flannel.ipip onlink`,
    ])
    site.op.do(site.op.route('add', { to: `${ALICE.ip}/32`, via: '192.0.2.254' }))
    await node.settle(61_000)
    expect(routes()[0]).toBe(`${ALICE.subnet} via ${ALICE.ip} dev flannel.ipip onlink`)
    site.op.do(site.op.route('delete', { to: `${ALICE.ip}/32` }))
    await node.settle(61_000)
    expect(routes()[0]).toBe(`${ALICE.subnet} via ${ALICE.ip} dev eth0 onlink`)
  })
}
