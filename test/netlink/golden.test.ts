/**
 * What iproute2 6.1 sends, seen with `strace -e trace=sendmsg -e write=all <command>` on a little-endian host,
 * its 16-byte nlmsghdr taken apart into type and flags (less NLM_F_REQUEST and NLM_F_ACK).
 */
import { describe, expect, it } from 'vitest'
import { parseIpv4 } from '../../src/ip.ts'
import { addAddress, decodeAddress, deleteAddress } from '../../src/netlink/address.ts'
import { RT_SCOPE_UNIVERSE, RT_TABLE_MAIN, RTN_UNICAST, RTPROT_BOOT } from '../../src/netlink/constants.ts'
import { decodeFdbEntry, deleteFdbEntry, dumpFdb, replaceFdbEntry } from '../../src/netlink/fdb.ts'
import { changeLink, changeVxlan, createVxlan, decodeLink, deleteLink } from '../../src/netlink/link.ts'
import {
  decodeNeighbour,
  deleteNeighbour,
  dumpNeighbours,
  replaceNeighbour,
} from '../../src/netlink/neighbour.ts'
import { decodeNexthop, deleteNexthop, dumpNexthops, replaceNexthop } from '../../src/netlink/nexthop.ts'
import type { NetlinkRequest } from '../../src/netlink/request.ts'
import {
  decodeRoute,
  deleteRoute,
  dumpRoutes,
  getRoute,
  type RouteSpec,
  replaceRoute,
} from '../../src/netlink/route.ts'
import { hex } from './hex.ts'
import { payloadOf } from './payload.ts'

interface Golden {
  readonly command: string
  readonly type: number
  readonly flags: number
  readonly wire: string
  readonly request: NetlinkRequest
  readonly operation: string
  /** What decoding the same bytes gives. */
  readonly decoded?: object | undefined
}

const device = 'flannel.1'
const index = 4

const plain: RouteSpec = {
  destination: { address: ip('100.64.1.0'), length: 24 },
  table: RT_TABLE_MAIN,
  protocol: RTPROT_BOOT,
  scope: RT_SCOPE_UNIVERSE,
  type: RTN_UNICAST,
  tos: 0,
  metric: 0,
  gateway: ip('100.64.1.0'),
  nexthopId: undefined,
  oif: index,
  source: undefined,
  onlink: true,
}
const throughNexthop: RouteSpec = {
  ...plain,
  destination: { address: ip('100.64.2.0'), length: 24 },
  nexthopId: 7,
  // What the kernel tells of a route through a nexthop; not to be sent back.
  gateway: ip('100.64.2.0'),
}

const goldens: Golden[] = [
  {
    command:
      'ip link add flannel.1 address 02:00:00:00:00:01 txqueuelen 0 mtu 1450 type vxlan id 1 dev u0 ' +
      'local 192.0.2.1 ttl 0 tos 0 dstport 8472 nolearning noproxy norsc nol2miss nol3miss gbp',
    type: 16,
    flags: 0x600,
    wire: `
      00 00 00 00  00 00 00 00  00 00 00 00  00 00 00 00  // ifinfomsg
      0a 00 01 00  02 00 00 00  00 01 00 00               // IFLA_ADDRESS
      08 00 0d 00  00 00 00 00                            // IFLA_TXQLEN
      08 00 04 00  aa 05 00 00                            // IFLA_MTU 1450
      0e 00 03 00  66 6c 61 6e  6e 65 6c 2e  31 00 00 00  // IFLA_IFNAME
      70 00 12 00                                         // IFLA_LINKINFO
      09 00 01 00  76 78 6c 61  6e 00 00 00               //   IFLA_INFO_KIND vxlan
      60 00 02 00                                         //   IFLA_INFO_DATA
      08 00 03 00  03 00 00 00                            //     IFLA_VXLAN_LINK 3
      05 00 05 00  00 00 00 00   05 00 06 00  00 00 00 00 //     IFLA_VXLAN_TTL, IFLA_VXLAN_TOS
      05 00 0b 00  00 00 00 00   05 00 0c 00  00 00 00 00 //     IFLA_VXLAN_PROXY, IFLA_VXLAN_RSC
      05 00 0d 00  00 00 00 00   05 00 0e 00  00 00 00 00 //     IFLA_VXLAN_L2MISS, IFLA_VXLAN_L3MISS
      04 00 17 00                                         //     IFLA_VXLAN_GBP
      08 00 01 00  01 00 00 00                            //     IFLA_VXLAN_ID
      08 00 04 00  c0 00 02 01                            //     IFLA_VXLAN_LOCAL 192.0.2.1
      05 00 07 00  00 00 00 00                            //     IFLA_VXLAN_LEARNING
      06 00 0f 00  21 18 00 00                            //     IFLA_VXLAN_PORT 8472`,
    request: createVxlan({
      ...{ name: device, vni: 1, parent: 3, local: ip('192.0.2.1'), port: 8472, gbp: true },
      ...{ mac: '02:00:00:00:00:01', mtu: 1450, txQueueLength: 0 },
    }),
    operation: 'create VXLAN device flannel.1 (VNI 1)',
    decoded: {
      ...{
        index: 0,
        name: device,
        kind: 'vxlan',
        up: false,
        mtu: 1450,
        mac: '02:00:00:00:00:01',
        txQueueLength: 0,
      },
      vxlan: {
        ...{
          vni: 1,
          parent: 3,
          local: ip('192.0.2.1'),
          group: undefined,
          port: 8472,
          gbp: true,
          ttl: 0,
          tos: 0,
        },
        ...{ learning: false, proxy: false, rsc: false, l2miss: false, l3miss: false, ageing: 0 },
      },
    },
  },
  {
    command: 'ip link set flannel.1 up',
    type: 16,
    flags: 0,
    wire: '00 00 00 00  04 00 00 00  01 00 00 00  01 00 00 00',
    request: changeLink({ index, name: device, up: true }),
    operation: 'change flannel.1: set up',
    decoded: { index, up: true },
  },
  {
    command: 'ip link set flannel.1 down',
    type: 16,
    flags: 0,
    wire: '00 00 00 00  04 00 00 00  00 00 00 00  01 00 00 00',
    request: changeLink({ index, name: device, up: false }),
    operation: 'change flannel.1: set down',
    decoded: { index, up: false },
  },
  {
    command: 'ip link set flannel.1 address 02:00:00:00:00:07 mtu 1400 txqueuelen 0',
    type: 16,
    flags: 0,
    wire: `
      00 00 00 00  04 00 00 00  00 00 00 00  00 00 00 00
      0a 00 01 00  02 00 00 00  00 07 00 00
      08 00 04 00  78 05 00 00
      08 00 0d 00  00 00 00 00`,
    request: changeLink({ index, name: device, mac: '02:00:00:00:00:07', mtu: 1400, txQueueLength: 0 }),
    operation: 'change flannel.1: set MTU 1400, set MAC 02:00:00:00:00:07, set queue length 0',
    decoded: { index, mac: '02:00:00:00:00:07', mtu: 1400 },
  },
  {
    command: 'ip link set flannel.1 name flannel.9',
    type: 16,
    flags: 0,
    wire: `
      00 00 00 00  04 00 00 00  00 00 00 00  00 00 00 00
      0e 00 03 00  66 6c 61 6e  6e 65 6c 2e  39 00 00 00`,
    request: changeLink({ index, name: device, rename: 'flannel.9' }),
    operation: 'change flannel.1: rename to flannel.9',
    decoded: { index, name: 'flannel.9' },
  },
  {
    command: 'ip link set flannel.1 type vxlan learning',
    type: 16,
    flags: 0,
    wire: `
      00 00 00 00  04 00 00 00  00 00 00 00  00 00 00 00
      1c 00 12 00  09 00 01 00  76 78 6c 61  6e 00 00 00
      0c 00 02 00  05 00 07 00  01 00 00 00`,
    request: changeVxlan({ index, name: device, learning: true }),
    operation: 'change VXLAN attributes of flannel.1',
    decoded: { index, kind: 'vxlan', vxlan: expect.objectContaining({ learning: true }) },
  },
  {
    command: 'ip link set flannel.1 type vxlan local 192.0.2.9',
    type: 16,
    flags: 0,
    wire: `
      00 00 00 00  04 00 00 00  00 00 00 00  00 00 00 00
      1c 00 12 00  09 00 01 00  76 78 6c 61  6e 00 00 00
      0c 00 02 00  08 00 04 00  c0 00 02 09`,
    request: changeVxlan({ index, name: device, local: ip('192.0.2.9') }),
    operation: 'change VXLAN attributes of flannel.1',
    decoded: { index, vxlan: expect.objectContaining({ local: ip('192.0.2.9') }) },
  },
  {
    command: 'ip link del flannel.1',
    type: 17,
    flags: 0,
    wire: '00 00 00 00  04 00 00 00  00 00 00 00  00 00 00 00',
    request: deleteLink({ index, name: device }),
    operation: 'delete device flannel.1',
    decoded: { index },
  },
  {
    command: 'ip addr add 100.64.0.0/32 dev flannel.1',
    type: 20,
    flags: 0x600,
    wire: '02 20 00 00  04 00 00 00  08 00 02 00  64 40 00 00  08 00 01 00  64 40 00 00',
    request: addAddress({ index, name: device, address: ip('100.64.0.0'), length: 32 }),
    operation: 'add address 100.64.0.0/32 to flannel.1',
    decoded: { index, address: ip('100.64.0.0'), length: 32, scope: 0, label: undefined, flags: 0 },
  },
  {
    command: 'ip addr del 100.64.0.0/32 dev flannel.1',
    type: 21,
    flags: 0,
    wire: '02 20 00 00  04 00 00 00  08 00 02 00  64 40 00 00  08 00 01 00  64 40 00 00',
    request: deleteAddress({ index, name: device, address: ip('100.64.0.0'), length: 32 }),
    operation: 'delete address 100.64.0.0/32 from flannel.1',
    decoded: { index, address: ip('100.64.0.0'), length: 32 },
  },
  {
    command: 'ip route replace 100.64.1.0/24 via 100.64.1.0 dev flannel.1 onlink',
    type: 24,
    flags: 0x500,
    wire: `
      02 18 00 00  fe 03 00 01  04 00 00 00                                      // rtmsg, RTNH_F_ONLINK
      08 00 01 00  64 40 01 00  08 00 05 00  64 40 01 00  08 00 04 00  04 00 00 00 // RTA_DST, RTA_GATEWAY, RTA_OIF`,
    request: replaceRoute(plain, device),
    operation: 'write route 100.64.1.0/24 via 100.64.1.0 on flannel.1',
    decoded: { ...plain, multipath: undefined, cloned: false },
  },
  {
    command: 'ip route replace 100.64.2.0/24 nhid 7',
    type: 24,
    flags: 0x500,
    wire: '02 18 00 00  fe 03 00 01  00 00 00 00  08 00 01 00  64 40 02 00  08 00 1e 00  07 00 00 00',
    request: replaceRoute(throughNexthop, device),
    operation: 'write route 100.64.2.0/24 through nexthop 7 via 100.64.2.0 on flannel.1',
    decoded: { ...throughNexthop, gateway: undefined, oif: undefined, onlink: false },
  },
  {
    // iproute2 leaves protocol and type open and scope at RT_SCOPE_NOWHERE, its word for "any"; so do we here.
    command: 'ip route del 100.64.2.0/24 nhid 7',
    type: 25,
    flags: 0,
    wire: '02 18 00 00  fe 00 ff 00  00 00 00 00  08 00 01 00  64 40 02 00  08 00 1e 00  07 00 00 00',
    request: deleteRoute({ ...throughNexthop, gateway: undefined, protocol: 0, scope: 255, type: 0 }),
    operation: 'delete route 100.64.2.0/24 through nexthop 7',
  },
  {
    command: 'ip route show table main dev flannel.1',
    type: 26,
    flags: 0x300,
    wire: '02 00 00 00  00 00 00 00  00 00 00 00  08 00 0f 00  fe 00 00 00  08 00 04 00  04 00 00 00',
    request: dumpRoutes({ table: RT_TABLE_MAIN, oif: index }),
    operation: 'list routes',
  },
  {
    command: 'ip route get 100.64.1.5',
    type: 26,
    flags: 0,
    wire: '02 20 00 00  00 00 00 00  00 10 00 00  08 00 01 00  64 40 01 05',
    request: getRoute(ip('100.64.1.5')),
    operation: 'look up the route to 100.64.1.5',
  },
  {
    command: 'ip nexthop replace id 7 via 100.64.2.0 dev flannel.1 onlink',
    type: 104,
    flags: 0x500,
    wire: '02 00 00 00  04 00 00 00  08 00 01 00  07 00 00 00  08 00 06 00  64 40 02 00  08 00 05 00  04 00 00 00',
    request: replaceNexthop(
      { id: 7, gateway: ip('100.64.2.0'), oif: index, onlink: true, protocol: 0 },
      device,
    ),
    operation: 'write nexthop 7 via 100.64.2.0 on flannel.1',
    decoded: { id: 7, gateway: ip('100.64.2.0'), oif: index, onlink: true, protocol: 0 },
  },
  {
    command: 'ip nexthop del id 7',
    type: 105,
    flags: 0,
    wire: '00 00 00 00  00 00 00 00  08 00 01 00  07 00 00 00',
    request: deleteNexthop(7),
    operation: 'delete nexthop 7',
    decoded: { id: 7 },
  },
  {
    command: 'ip nexthop show dev flannel.1',
    type: 106,
    flags: 0x300,
    wire: '00 00 00 00  00 00 00 00  08 00 05 00  04 00 00 00',
    request: dumpNexthops({ oif: index }),
    operation: 'list nexthops',
  },
  {
    command: 'ip neigh replace 100.64.1.0 lladdr 02:00:00:00:00:02 dev flannel.1 nud permanent',
    type: 28,
    flags: 0x500,
    wire: `
      02 00 00 00  04 00 00 00  80 00 00 00               // ndmsg, NUD_PERMANENT
      08 00 01 00  64 40 01 00                            // NDA_DST
      0a 00 02 00  02 00 00 00  00 02 00 00               // NDA_LLADDR`,
    request: replaceNeighbour({ index, address: ip('100.64.1.0'), mac: '02:00:00:00:00:02' }, device),
    operation: 'write neighbour 100.64.1.0 -> 02:00:00:00:00:02 on flannel.1',
    decoded: { index, address: ip('100.64.1.0'), mac: '02:00:00:00:00:02', state: 0x80, flags: 0 },
  },
  {
    // iproute2 also sets the state, which the kernel does not look at when it deletes: 80 here, 00 from us.
    command: 'ip neigh del 100.64.1.0 dev flannel.1',
    type: 29,
    flags: 0,
    wire: '02 00 00 00  04 00 00 00  00 00 00 00  08 00 01 00  64 40 01 00',
    request: deleteNeighbour({ index, address: ip('100.64.1.0') }, device),
    operation: 'delete neighbour 100.64.1.0 on flannel.1',
    decoded: { index, address: ip('100.64.1.0'), mac: undefined },
  },
  {
    command: 'ip neigh show dev flannel.1',
    type: 30,
    flags: 0x300,
    // iproute2 asks for all families, we for one.
    wire: '02 00 00 00  00 00 00 00  00 00 00 00  08 00 08 00  04 00 00 00',
    request: dumpNeighbours({ family: 4, index }),
    operation: 'list IPv4 neighbours of device 4',
  },
  {
    command: 'bridge fdb replace 02:00:00:00:00:02 dev flannel.1 dst 192.0.2.2 self permanent',
    type: 28,
    flags: 0x500,
    wire: `
      07 00 00 00  04 00 00 00  c0 00 02 00               // ndmsg: AF_BRIDGE, permanent|noarp, self
      0a 00 02 00  02 00 00 00  00 02 00 00               // NDA_LLADDR
      08 00 01 00  c0 00 02 02                            // NDA_DST`,
    request: replaceFdbEntry(
      { index, mac: '02:00:00:00:00:02', destination: ip('192.0.2.2'), state: 0xc0 },
      device,
    ),
    operation: 'write FDB entry 02:00:00:00:00:02 -> 192.0.2.2 on flannel.1',
    decoded: {
      ...{ index, mac: '02:00:00:00:00:02', destination: ip('192.0.2.2'), state: 0xc0, flags: 2 },
      ...{ port: undefined, vni: undefined, via: undefined },
    },
  },
  {
    // The state again is 00 from us.
    command: 'bridge fdb del 02:00:00:00:00:02 dev flannel.1 dst 192.0.2.2 self',
    type: 29,
    flags: 0,
    wire: `
      07 00 00 00  04 00 00 00  00 00 02 00
      0a 00 02 00  02 00 00 00  00 02 00 00  08 00 01 00  c0 00 02 02`,
    request: deleteFdbEntry({ index, mac: '02:00:00:00:00:02', destination: ip('192.0.2.2') }, device),
    operation: 'delete FDB entry 02:00:00:00:00:02 -> 192.0.2.2 on flannel.1',
    decoded: { mac: '02:00:00:00:00:02', destination: ip('192.0.2.2') },
  },
  {
    command: 'bridge fdb show dev flannel.1',
    type: 30,
    flags: 0x300,
    // iproute2 sends a whole ifinfomsg (28 bytes) out of old habit; strict checking wants the ndmsg it stands for.
    wire: '07 00 00 00  04 00 00 00  00 00 00 00',
    request: dumpFdb({ index }),
    operation: 'list FDB entries of device 4',
  },
]

const decoders: Record<number, (payload: Uint8Array) => object | undefined> = {
  16: decodeLink,
  20: decodeAddress,
  24: decodeRoute,
  28: (payload) => (payload[0] === 7 ? decodeFdbEntry : decodeNeighbour)(payload),
  104: decodeNexthop,
}

describe('we send what iproute2 sends', () => {
  it.each(goldens)('$command', ({ type, flags, wire, request, operation }) => {
    expect(request).toMatchObject({ type, flags })
    expect(request.operation()).toBe(operation)
    expect(Buffer.from(payloadOf(request)).toString('hex')).toBe(Buffer.from(hex(wire)).toString('hex'))
  })
})

describe('we understand what iproute2 sends', () => {
  const understood = goldens.filter(({ decoded }) => decoded !== undefined)
  it.each(understood)('$command', ({ type, wire, decoded }) => {
    expect(decoders[type & ~3]?.(hex(wire))).toMatchObject(decoded as object)
  })
})

function ip(text: string): number {
  const address = parseIpv4(text)
  if (address === undefined) throw new Error(text)
  return address
}
