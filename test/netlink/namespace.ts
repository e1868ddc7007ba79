/** A network namespace for each test, with a VXLAN device on a veth pair, and iproute2 as the second opinion. */
import { execFileSync } from 'node:child_process'
import { afterEach, beforeEach } from 'vitest'
import { Rtnl } from '../../src/netlink/conn.ts'
import { RT_SCOPE_UNIVERSE, RT_TABLE_MAIN, RTN_UNICAST, RTPROT_BOOT } from '../../src/netlink/constants.ts'
import { NetlinkError } from '../../src/netlink/errors.ts'
import { changeLink, createVxlan, getLink, type Link } from '../../src/netlink/link.ts'
import type { NetlinkRequest } from '../../src/netlink/request.ts'
import type { RouteSpec } from '../../src/netlink/route.ts'
import { openRtnetlink } from '../../src/netlink/socket.ts'
import { ensureAddon, enterNewNamespace } from '../native/addons.ts'

ensureAddon()

export const device = 'flannel.1'
export const mac2 = '02:00:00:00:00:02'
export const mac3 = '02:00:00:00:00:03'

export let rtnl: Rtnl
let leave: () => void
export let underlay: Link
export let index: number

/** What a command of iproute2 prints, a line per entry, trailing spaces removed. */
export function run(command: string): string[] {
  const [program = '', ...words] = command.split(' ')
  const output = execFileSync(program, words, { encoding: 'utf8' })
  return output.split('\n').flatMap((line) => line.trimEnd() || [])
}

beforeEach(() => {
  leave = enterNewNamespace()
  run('ip link add u0 type veth peer name u1')
  run('ip addr add 192.0.2.1/24 dev u0')
  run('ip link set u0 up')
  run('ip link set u1 up')
  rtnl = new Rtnl(openRtnetlink())
  underlay = rtnl.get(getLink({ name: 'u0' }))
  rtnl.execute(create())
  index = rtnl.get(getLink({ name: device })).index
  rtnl.execute(changeLink({ index, name: device, up: true }))
})

afterEach(() => {
  rtnl.close()
  leave()
})

export function create(change: Partial<Parameters<typeof createVxlan>[0]> = {}): NetlinkRequest {
  return createVxlan({
    ...{
      name: device,
      vni: 1,
      parent: underlay.index,
      local: 0xc0000201,
      port: 8472,
      gbp: false,
      txQueueLength: 0,
    },
    ...change,
  })
}

export function route(i: number, change: Partial<RouteSpec> = {}): RouteSpec {
  const address = 0x64400000 + (i << 8)
  return {
    ...{
      destination: { address, length: 24 },
      table: RT_TABLE_MAIN,
      protocol: RTPROT_BOOT,
      tos: 0,
      metric: 0,
    },
    ...{ scope: RT_SCOPE_UNIVERSE, type: RTN_UNICAST, gateway: address, nexthopId: undefined, oif: index },
    ...{ source: undefined, onlink: true },
    ...change,
  }
}

/** The error that `action` throws; fails when it throws none, or another kind. */
export function refused(action: () => void): NetlinkError {
  try {
    action()
  } catch (error) {
    if (error instanceof NetlinkError) return error
    throw error
  }
  throw new Error('nothing was refused')
}
