/**
 * How long a resync takes in the kernel's hands and in ours: `node test/bench/netlink.ts [--json] [size...]`, as root.
 * Works in a network namespace of its own. Every number is the best of seven rounds: what is
 * left of it when nobody else uses the machine.
 */
import { execFileSync } from 'node:child_process'
import type { Ipv4, MacAddress } from '../../src/ip.ts'
import { Rtnl } from '../../src/netlink/conn.ts'
import { RT_TABLE_MAIN, RTN_UNICAST, RTPROT_BOOT } from '../../src/netlink/constants.ts'
import { deleteFdbEntry, dumpFdb, replaceFdbEntry } from '../../src/netlink/fdb.ts'
import { changeLink, createVxlan, getLink } from '../../src/netlink/link.ts'
import { deleteNeighbour, dumpNeighbours, replaceNeighbour } from '../../src/netlink/neighbour.ts'
import { deleteNexthop, dumpNexthops, replaceNexthop } from '../../src/netlink/nexthop.ts'
import type { NetlinkRequest } from '../../src/netlink/request.ts'
import { deleteRoute, dumpRoutes, type RouteSpec, replaceRoute } from '../../src/netlink/route.ts'
import { type NetlinkSocket, openRtnetlink } from '../../src/netlink/socket.ts'
import { ensureAddon, enterNewNamespace } from '../native/addons.ts'
import { encodeMessage } from '../netlink/payload.ts'

const ROUNDS = 7
const device = 'flannel.1'

/** Milliseconds for one size and kind of entry. */
export interface NetlinkTimes {
  readonly size: number
  readonly what: string
  readonly ours: number
  readonly kernel: number
  readonly back: number
}

interface Peer {
  readonly subnet: Ipv4
  readonly publicIP: Ipv4
  readonly mac: MacAddress
}

function peers(count: number): Peer[] {
  return Array.from({ length: count }, (_, i) => {
    const digits = i.toString(16).padStart(8, '0').match(/../g)
    return { subnet: 0x64400000 + (i << 8), publicIP: 0xc6120000 + i, mac: `02:00:${digits?.join(':')}` }
  })
}

function route(index: number, { subnet }: Peer, nexthopId?: number): RouteSpec {
  return {
    ...{
      destination: { address: subnet, length: 24 },
      table: RT_TABLE_MAIN,
      protocol: RTPROT_BOOT,
      scope: 0,
    },
    ...{
      type: RTN_UNICAST,
      tos: 0,
      metric: 0,
      gateway: subnet,
      nexthopId,
      oif: index,
      source: undefined,
      onlink: true,
    },
  }
}

/** Takes everything and acknowledges it: what is left is our own work. */
function acceptingSocket(): NetlinkSocket {
  let answer: Uint8Array | undefined
  return {
    portId: 1,
    send(bytes) {
      // The last message begins `length` before the end; all messages of one batch are alike in length here.
      const last = bytes.subarray(
        bytes.length - ((new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true) + 3) & ~3),
      )
      const sequence = new DataView(last.buffer, last.byteOffset).getUint32(8, true)
      answer = encodeMessage({ type: 2, flags: 0x100, sequence, portId: 1, payload: new Uint8Array(20) })
    },
    receive() {
      const taken = answer
      answer = undefined
      return taken
    },
    onReadable() {},
    close() {},
  }
}

function column(time: number): string {
  return time.toFixed(1).padStart(8)
}

ensureAddon()
enterNewNamespace()
const ip = (...words: string[]) => execFileSync('ip', words)
ip('link', 'set', 'lo', 'up')
ip('link', 'add', 'u0', 'type', 'veth', 'peer', 'name', 'u1')
ip('addr', 'add', '192.0.2.1/24', 'dev', 'u0')
ip('link', 'set', 'u0', 'up')
ip('link', 'set', 'u1', 'up')
// Permanent entries do not count against gc_thresh, but a small machine may say otherwise.
const rtnl = new Rtnl(openRtnetlink())
const fake = new Rtnl(acceptingSocket())
const parent = rtnl.get(getLink({ name: 'u0' })).index
rtnl.execute(
  createVxlan({ name: device, vni: 1, parent, local: 0xc0000201, port: 8472, gbp: false, txQueueLength: 0 }),
)
const { index } = rtnl.get(getLink({ name: device }))
rtnl.execute(changeLink({ index, name: device, up: true }))

function run(on: Rtnl, make: () => NetlinkRequest[]): number {
  const start = performance.now()
  const failed = on.batch(make()).filter((error) => error !== undefined)
  const time = performance.now() - start
  if (failed.length > 0) throw new Error(`${failed.length} failed: ${failed[0]?.message}`)
  return time
}

function read(size: number, dump: () => readonly unknown[]): number {
  const start = performance.now()
  const entries = dump()
  const time = performance.now() - start
  if (entries.length !== size) throw new Error(`${entries.length} entries instead of ${size}`)
  return time
}

const words = process.argv.slice(2).filter((word) => word !== '--json')
const measured: NetlinkTimes[] = []
for (const size of words.length > 0 ? words.map(Number) : [1000, 5000, 15000]) {
  const all = peers(size)
  const entries = () =>
    all.flatMap(({ subnet, mac, publicIP }) => [
      replaceNeighbour({ index, address: subnet, mac }, device),
      replaceFdbEntry({ index, mac, destination: publicIP }, device),
    ])
  const nexthops = () =>
    all.map(({ subnet }, i) =>
      replaceNexthop({ id: i + 1, gateway: subnet, oif: index, onlink: true, protocol: RTPROT_BOOT }, device),
    )
  const cases = [
    {
      what: 'ARP and FDB entries',
      write: [entries],
      dump: () => [...rtnl.dump(dumpNeighbours({ family: 4, index })), ...rtnl.dump(dumpFdb({ index }))],
      count: 2 * size,
      remove: () =>
        all.flatMap(({ subnet, mac, publicIP }) => [
          deleteNeighbour({ index, address: subnet }, device),
          deleteFdbEntry({ index, mac, destination: publicIP }, device),
        ]),
    },
    {
      what: 'plain routes',
      write: [() => all.map((peer) => replaceRoute(route(index, peer), device))],
      dump: () => rtnl.dump(dumpRoutes({ table: RT_TABLE_MAIN, oif: index })),
      count: size,
      remove: () => all.map((peer) => deleteRoute(route(index, peer), device)),
    },
    {
      what: 'nexthops and their routes',
      write: [nexthops, () => all.map((peer, i) => replaceRoute(route(index, peer, i + 1), device))],
      dump: () => [
        ...rtnl.dump(dumpNexthops({ oif: index })),
        ...rtnl.dump(dumpRoutes({ table: RT_TABLE_MAIN, oif: index })),
      ],
      count: 2 * size,
      // Routes first: for each nexthop that has one, the kernel walks through all routes.
      remove: () => [
        ...all.map((peer, i) => deleteRoute(route(index, peer, i + 1), device)),
        ...all.map((_, i) => deleteNexthop(i + 1)),
      ],
    },
  ]
  for (const { what, write, dump, count, remove } of cases) {
    const ours: number[] = []
    const kernel: number[] = []
    const back: number[] = []
    // Plain routes take the kernel seconds each round.
    const rounds = what === 'plain routes' && size > 5000 ? 1 : ROUNDS
    for (let round = 0; round < rounds; round++) {
      const times = [
        write.reduce((sum, make) => sum + run(fake, make), 0),
        write.reduce((sum, make) => sum + run(rtnl, make), 0),
        read(count, dump),
      ]
      run(rtnl, remove)
      for (const [i, list] of [ours, kernel, back].entries()) list.push(times[i] as number)
    }
    const [best = 0, kernelBest = 0, backBest = 0] = [ours, kernel, back].map((times) => Math.min(...times))
    measured.push({ size, what, ours: best, kernel: kernelBest, back: backBest })
  }
}
rtnl.close()
if (process.argv.includes('--json')) process.stdout.write(JSON.stringify(measured))
else {
  process.stdout.write('milliseconds                       ours only   with kernel   read back\n')
  for (const { size, what, ours, kernel, back } of measured) {
    const times = `${column(ours)}      ${column(kernel)}    ${column(back)}`
    process.stdout.write(`${String(size).padStart(6)} ${what.padEnd(26)} ${times}\n`)
  }
}
