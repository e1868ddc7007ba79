import { describe, expect, it } from 'vitest'
import { type DeviceSpec, difference } from '../../../src/backend/vxlan/device.ts'
import type { Link, VxlanAttributes } from '../../../src/netlink/link.ts'

const spec: DeviceSpec = {
  ...{ name: 'flannel.1', vni: 1, port: 8472, gbp: false, parent: { index: 3, name: 'eth0' } },
  ...{ local: 0xc0000201, mtu: 1450, mac: '02:00:00:00:00:01', address: 0x0af40000 },
}
const vxlan: VxlanAttributes = {
  ...{ vni: 1, parent: 3, local: 0xc0000201, group: undefined, port: 8472, learning: false, proxy: false },
  ...{ rsc: false, l2miss: false, l3miss: false, gbp: false, ttl: 0, tos: 0, ageing: 300 },
}
const link: Link = {
  ...{ index: 4, name: 'flannel.1', kind: 'vxlan', up: true, flags: 1, mtu: 1450, mac: spec.mac },
  ...{ txQueueLength: 0, parent: undefined, master: undefined, protoDown: false, vxlan, ipip: undefined },
}

describe('a device that is there', () => {
  it.each<{
    what: string
    found: Partial<VxlanAttributes>
    wanted: Partial<DeviceSpec>
    why: string | undefined
  }>([
    { what: 'equal', found: {}, wanted: {}, why: undefined },
    { what: 'VNI', found: { vni: 2 }, wanted: {}, why: 'vni: 1 vs 2' },
    { what: 'parent', found: { parent: 9 }, wanted: {}, why: 'vtep (external) interface: 3 vs 9' },
    { what: 'no parent', found: { parent: 0 }, wanted: {}, why: 'vtep (external) interface: 3 vs 0' },
    {
      what: 'local',
      found: { local: 0xc0000209 },
      wanted: {},
      why: 'vtep (external) IP: 192.0.2.1 vs 192.0.2.9',
    },
    {
      what: 'no local',
      found: { local: undefined },
      wanted: {},
      why: 'vtep (external) IP: 192.0.2.1 vs none',
    },
    { what: 'group', found: { group: 0xef000001 }, wanted: {}, why: 'group address: none vs 4009754625' },
    { what: 'port', found: { port: 4789 }, wanted: {}, why: 'port: 8472 vs 4789' },
    { what: 'GBP off', found: {}, wanted: { gbp: true }, why: 'gbp: true vs false' },
    { what: 'learning', found: { learning: true }, wanted: {}, why: 'learning: false vs true' },
    { what: 'l2miss', found: { l2miss: true }, wanted: {}, why: 'l2miss: false vs true' },
    { what: 'l3miss', found: { l3miss: true }, wanted: {}, why: 'l3miss: false vs true' },
    { what: 'proxy', found: { proxy: true }, wanted: {}, why: 'proxy: false vs true' },
    { what: 'rsc', found: { rsc: true }, wanted: {}, why: 'rsc: false vs true' },
    // What can be changed in place, or does not matter, is no reason to make it anew.
    {
      what: 'TTL, TOS, ageing',
      found: { ttl: 9, tos: 4, ageing: 1 },
      wanted: { mtu: 1300, mac: '02:00:00:00:00:09' },
      why: undefined,
    },
  ])('with $what: $why', ({ found, wanted, why }) => {
    expect(difference({ ...link, vxlan: { ...vxlan, ...found } }, { ...spec, ...wanted })).toBe(why)
  })

  it('of another kind is different', () => {
    expect(difference({ ...link, kind: 'bridge', vxlan: undefined }, spec)).toBe('link type: vxlan vs bridge')
    expect(difference({ ...link, kind: undefined, vxlan: undefined }, spec)).toBe('link type: vxlan vs none')
  })
})
