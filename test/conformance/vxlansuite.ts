import { expect, it } from 'vitest'
import type { Row } from './backendnode.ts'
import type { Machine } from './machine.ts'
import { underlayOf } from './node.ts'
import { ALICE, BOB, useSite } from './site.ts'

/** What the options of vxlan do; its entries and their healing have suites of their own. */
export function vxlanSuite(row: Row, make: () => Machine): void {
  const site = useSite(row, make)

  it("MTU makes packets smaller, but never larger than the interface's", async () => {
    const { op } = site
    const node = await site.newNode({ ...row, options: { MTU: 1300 } }).start([])
    expect([op.link('flannel.1').mtu, node.network.mtu]).toEqual([1250, 1250])
    op.do(op.set('eth0', { mtu: 1200 }))
    node.network.setUnderlay(underlayOf(op))
    node.network.apply()
    expect([op.link('flannel.1').mtu, node.network.mtu]).toEqual([1150, 1150])
  })

  it('GBP is a trait of the device, which is made anew when it changes, and only then', async () => {
    const gbp = { ...row, options: { GBP: true } }
    const node = await site.newNode(gbp).start([ALICE, BOB])
    expect(site.op.link('flannel.1').vxlan?.gbp).toBe(true)
    const again = await site.restart(node, [ALICE, BOB])
    expect(again.writes).toEqual([])
    again.expectState([ALICE, BOB])
    const plain = await site.restart(again, [ALICE, BOB], row)
    expect(site.op.link('flannel.1').vxlan?.gbp).toBe(false)
    plain.expectState([ALICE, BOB])
    expect(plain.complaints()).toEqual([expect.stringMatching(/incompatable configuration: gbp/i)])
  })

  it('a VNI and a port that another device has are named, and nothing is taken from it', async () => {
    const { op } = site
    op.do(op.vxlan('other', { vni: 7, parent: op.link('eth0').index }))
    const { index } = op.link('other')
    await expect(site.newNode({ ...row, options: { VNI: 7 } }).start([])).rejects.toMatchObject({
      name: 'DeviceError',
      message: expect.stringContaining('VNI 7 on UDP port 8472 is in use by another device, other; '),
    })
    expect(op.link('other').index).toBe(index)
  })
}
