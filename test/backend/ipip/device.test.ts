import { expect, it } from 'vitest'
import { difference, type IpipSpec } from '../../../src/backend/ipip/device.ts'
import type { Link } from '../../../src/netlink/link.ts'

const spec: IpipSpec = { name: 'flannel.ipip', local: 0xc0000201, mtu: 1480, address: 0x0af40000 }
const link: Link = {
  ...{ index: 4, name: 'flannel.ipip', kind: 'ipip', up: true, flags: 1, mtu: 1480, mac: undefined },
  ...{ txQueueLength: 0, parent: 0, master: undefined, protoDown: false, vxlan: undefined },
  ipip: { local: spec.local, remote: 0, ttl: 0, tos: 0, pathMtuDiscovery: false },
}

it.each<{ readonly what: string; readonly found: Partial<Link>; readonly why: string | undefined }>([
  { what: 'is right', found: {}, why: undefined },
  {
    what: 'is right, and the kernel says nothing of an interface',
    found: { parent: undefined },
    why: undefined,
  },
  { what: 'is bound to an interface', found: { parent: 3 }, why: 'interface: any vs 3' },
])('a device that $what', ({ found, why }) => {
  expect(difference({ ...link, ...found }, spec)).toBe(why)
})
