/** Two nodes whose pods ping each other, the first of which reaches etcd through a proxy. */
import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'vitest'
import type { EtcdOptions } from './etcd.ts'
import {
  type Daemon,
  Lab,
  leaseValue,
  monotonic,
  type PeerLease,
  PREFIX,
  peerLeases,
  startPinger,
  waitFor,
} from './lab.ts'
import { lines } from './namespace.ts'
import type { Pod } from './pod.ts'
import { stalled } from './pressure.ts'
import { type ProxyControl, startProxy } from './proxy.ts'
import { settled } from './settled.ts'

export const CONFIG = { Network: '100.64.0.0/10', SubnetLen: 24, Backend: { Type: 'vxlan' } }
/** From etcd's return to the last route: a question a second, and a quarter, and then the list. */
const RECOVERY_MS = 2_000
/** Milliseconds for which questions are counted. */
export const WINDOW_MS = 3_000

/** Peers that exist in etcd only, each once. */
let peers = 0
export const newPeer = (): PeerLease => peerLeases(1, { first: 15_000 + ++peers })[0] as PeerLease

export interface Outcome {
  readonly log: readonly string[]
  readonly complaints: readonly string[]
  /** Connections, or requests where one connection may hold many, per second. */
  readonly asked: number
  /** Milliseconds, and how many of them a machine with more to do than it can may have added. */
  readonly recovery: number
  readonly late: number
}

/** The milliseconds that something takes from now on. */
export async function timed(happens: () => Promise<unknown>): Promise<Pick<Outcome, 'recovery' | 'late'>> {
  const from = monotonic()
  const before = stalled()
  await happens()
  const after = stalled()
  return {
    recovery: monotonic() - from,
    late: before === undefined || after === undefined ? RECOVERY_MS : after - before,
  }
}

export function expectSoon({ recovery, late }: Pick<Outcome, 'recovery' | 'late'>): void {
  expect(recovery, `of them ${late} ms for other processes`).toBeLessThan(RECOVERY_MS + late)
}

export class Scene {
  readonly lab: Lab
  readonly proxies: readonly ProxyControl[]
  readonly daemons: readonly Daemon[]
  readonly #pods: readonly Pod[]

  private constructor(
    lab: Lab,
    proxies: readonly ProxyControl[],
    daemons: readonly Daemon[],
    pods: readonly Pod[],
  ) {
    this.lab = lab
    this.proxies = proxies
    this.daemons = daemons
    this.#pods = pods
  }

  /** A proxy stands before each member of etcd; `args` are those of both daemons. */
  static async create(etcdOptions: EtcdOptions = {}, args: readonly string[] = []): Promise<Scene> {
    const lab = await Lab.create({ nodes: 2 })
    try {
      const etcd = await lab.startEtcd(etcdOptions)
      await etcd.config(CONFIG)
      const proxies: ProxyControl[] = []
      for (const { address } of etcd.members) {
        const proxy = await startProxy(
          lab.switch,
          { host: address, port: 4001 },
          { host: address, port: 2379 },
        )
        lab.onClose(() => proxy.close())
        proxies.push(proxy)
      }
      const through = ['-etcd-endpoints', etcd.endpoints.replaceAll(':2379', ':4001'), ...args]
      const daemons = [await lab.daemon(1, { args: through }), await lab.daemon(2, { args })]
      for (const daemon of daemons) await daemon.waitReady()
      const pods: Pod[] = []
      for (const daemon of daemons) pods.push(await lab.pod(daemon))
      for (const [i, daemon] of daemons.entries()) await settled(lab, daemon, i + 1)
      return new Scene(lab, proxies, daemons, pods)
    } catch (error) {
      await lab.close()
      throw error
    }
  }

  get daemon(): Daemon {
    return this.daemons[0] as Daemon
  }

  get proxy(): ProxyControl {
    return this.proxies[0] as ProxyControl
  }

  /** Has it happen, and rejects if a packet between the pods is lost, or a daemon, meanwhile. */
  async unharmed(happens: () => Promise<unknown>): Promise<void> {
    const [here, there] = this.#pods as [Pod, Pod]
    const pinger = await startPinger(here.namespace, there.address)
    try {
      await happens()
    } finally {
      const { lost, received } = await pinger.stop()
      expect(lost, 'echoes lost between the pods').toEqual([])
      expect(received).toBeGreaterThan(0)
    }
    expect(this.daemons.every(({ running }) => running)).toBe(true)
  }

  async hasRoute({ key }: PeerLease): Promise<boolean> {
    const routes = await this.lab.node(1).routes('flannel.1')
    return routes.some((route) => route.startsWith(key.replace('-', '/')))
  }

  /** Has a peer join, by a member of etcd that runs, and waits until the daemon knows. */
  async learns({ timeout = 10_000, peer = newPeer() } = {}): Promise<void> {
    const path = `/v2/keys${PREFIX}/subnets/${peer.key}`
    await waitFor(
      async () => {
        const member = this.lab.etcd.members.find(({ running }) => running)
        const answer = await member?.request('PUT', path, { value: leaseValue(peer), ttl: 86_400 })
        return answer !== undefined && answer.status < 300
      },
      { what: 'etcd to take a lease', timeout: 20_000 },
    )
    const what = (): string => `the route to ${peer.key}: ${this.daemon.log().slice(-3000)}`
    await waitFor(() => this.hasRoute(peer), { what, timeout, interval: 20 })
  }

  async asked(): Promise<number> {
    const stats = await Promise.all(this.proxies.map((proxy) => proxy.stats()))
    return stats.reduce((sum, { accepted, answered }) => sum + Math.max(accepted, answered), 0)
  }

  /** Has etcd misbehave for a while and ends that. */
  async endure(
    begin: () => Promise<unknown>,
    end: () => Promise<unknown>,
    window = WINDOW_MS,
  ): Promise<Outcome> {
    const { lab, daemon } = this
    const before = daemon.log().length
    let asked = 0
    let took = { recovery: 0, late: 0 }
    await this.unharmed(async () => {
      await begin()
      // What is in the air is done when the counting begins.
      await sleep(window / 3)
      const count = await this.asked()
      const from = monotonic()
      // What is measured here is a rate.
      await sleep(window)
      asked = ((await this.asked()) - count) / ((monotonic() - from) / 1000)
      await end()
      took = await timed(() => this.learns())
      await settled(lab, daemon, 1)
    })
    const log = lines(daemon.log().slice(before))
    return { log, complaints: log.filter((line) => / (warn|error) /.test(line)), asked, ...took }
  }
}
