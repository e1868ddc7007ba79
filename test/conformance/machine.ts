/** A machine whose kernel the suites work on: one in memory, and a real one in a network namespace of its own. */
import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import {
  RTNLGRP_IPV4_IFADDR,
  RTNLGRP_IPV4_ROUTE,
  RTNLGRP_LINK,
  RTNLGRP_NEIGH,
  RTNLGRP_NEXTHOP,
} from '../../src/netlink/constants.ts'
import {
  type NetlinkSocket,
  openGenericNetlink,
  openRtnetlink,
  openRtnetlinkMonitor,
} from '../../src/netlink/socket.ts'
import { FakeKernel, type KernelState } from '../fakes/kernel.ts'
import { ensureAddon, enterNewNamespace } from '../native/addons.ts'

type MonitorOptions = NonNullable<Parameters<typeof openRtnetlinkMonitor>[1]>

export interface Machine {
  open(): NetlinkSocket
  /**
   * All that the daemon listens to, without what the socket with port id `ignore` causes. `receiveBuffer` is bytes, on a
   * real kernel only.
   */
  monitor(options?: MonitorOptions): NetlinkSocket
  /** A socket to generic netlink. */
  generic(): NetlinkSocket
  state(): KernelState
  /** WireGuard's, a line each: device, key, preshared key, endpoint, allowed IPs, keepalive. */
  peers(): readonly string[]
  /** Makes monitors lose what is queued: the fake by order, the real one by a flood that `flood` makes. */
  overrun(flood: () => void): void
  close(): void
}

export class FakeMachine implements Machine {
  readonly kernel = new FakeKernel()

  open(): NetlinkSocket {
    return this.kernel.open()
  }

  monitor({ ignore }: MonitorOptions = {}): NetlinkSocket {
    return this.kernel.monitor(ignore)
  }

  generic(): NetlinkSocket {
    return this.kernel.openGeneric()
  }

  state(): KernelState {
    return this.kernel.state()
  }

  peers(): readonly string[] {
    return this.kernel.peers()
  }

  overrun(): void {
    this.kernel.overrun()
  }

  close(): void {}
}

/** Takes root. The calling thread is in the machine's namespace until it is closed. */
export class RealMachine implements Machine {
  readonly #leave: () => void
  readonly #sockets: NetlinkSocket[] = []

  constructor() {
    ensureAddon()
    this.#leave = enterNewNamespace()
    // Its link-local addresses come and go on their own time, and nothing here is about them.
    for (const which of ['all', 'default'])
      writeFileSync(`/proc/sys/net/ipv6/conf/${which}/disable_ipv6`, '1')
  }

  open(): NetlinkSocket {
    return this.#kept(openRtnetlink())
  }

  monitor(options: MonitorOptions = {}): NetlinkSocket {
    const groups = [RTNLGRP_LINK, RTNLGRP_NEIGH, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE, RTNLGRP_NEXTHOP]
    return this.#kept(openRtnetlinkMonitor(groups, options))
  }

  generic(): NetlinkSocket {
    return this.#kept(openGenericNetlink())
  }

  /** `wg show all dump` has a line of five for a device, and of nine for a peer. */
  peers(): readonly string[] {
    return run('wg', 'show', 'all', 'dump')
      .map((line) => line.split('\t'))
      .filter((words) => words.length === 9)
      .map(([device, key, psk, endpoint, ips = '', , , , keepalive]) =>
        [device, key, psk, endpoint, ips.split(',').sort().join(','), keepalive].join(' '),
      )
  }

  state(): KernelState {
    const [all = [], neighbours = [], fdb = [], nexthops = [], addresses = []] = runAll(
      'ip -4 route show table all',
      'ip -4 neigh show nud all',
      'bridge fdb show',
      'ip nexthop show',
      'ip -4 -o addr show',
    )
    const routes = all.filter((line) => !line.includes(' table local '))
    const other = (line: string) => line.includes(' table ')
    return {
      routes: [...routes.filter((line) => !other(line)), ...routes.filter(other)],
      neighbours: neighbours.sort(),
      fdb: fdb.filter((line) => line.includes(' dst ')).sort(),
      nexthops,
      addresses: addresses
        .map((line) => /^\d+: (\S+)\s+inet (\S+)/.exec(line)?.slice(1).join(' ') ?? line)
        .map((line) => (line.includes('/') ? line : `${line}/32`)),
    }
  }

  overrun(flood: () => void): void {
    flood()
  }

  close(): void {
    for (const socket of this.#sockets) socket.close()
    this.#leave()
  }

  #kept(socket: NetlinkSocket): NetlinkSocket {
    this.#sockets.push(socket)
    return socket
  }
}

/** The output of each; one shell for all, since to fork this process takes longer than what is started. */
function runAll(...commands: string[]): string[][] {
  const outputs: string[][] = [[]]
  for (const line of run('sh', '-ec', commands.join('\necho +\n')))
    if (line === '+') outputs.push([])
    else outputs.at(-1)?.push(line)
  return outputs
}

/** Output lines, without trailing space. */
function run(program: string, ...args: string[]): string[] {
  return execFileSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] })
    .split('\n')
    .map((line) => line.trimEnd())
    .filter((line) => line !== '')
}
