/**
 * What a soak works on: three nodes with a pod each, an etcd behind a proxy that misbehaves on demand, and leases of peers
 * that exist in etcd only. Node 3's daemon is never restarted, so that it shows what grows.
 */
import { differences } from '../netns/checker.ts'
import { type Daemon, Lab, monotonic, type PeerLease, PREFIX, peerLeases, waitFor } from '../netns/lab.ts'
import { lines } from '../netns/namespace.ts'
import type { ProxyControl } from '../netns/proxy.ts'
import { startProxy } from '../netns/proxy.ts'
import { type Cut, Pings } from './pings.ts'
import type { Random } from './random.ts'

const CONFIG = {
  Network: '172.30.0.0/16',
  SubnetLen: 24,
  SubnetMin: '172.30.200.0',
  Backend: { Type: 'vxlan' },
}
/** Subnets below SubnetMin are for peers that exist in etcd only. */
const MOST_PEERS = 150
const FIRST_PEERS = 40
/** Milliseconds. */
const PATIENCE = 120_000

/** How long nodes took to come right, and what was the last to. */
export interface Settled {
  /** Milliseconds from the end of the faults to the beginning of the look that found nothing wrong. */
  readonly after: number
  /** What the look before had found, empty when there was none. */
  readonly last: readonly string[]
}

/** One node: its daemon of the moment, and what is expected of it. */
export interface Place {
  readonly number: number
  daemon: Daemon
  address: string
  mtu: number
  restarts: number
}

export class World {
  readonly lab: Lab
  readonly proxy: ProxyControl
  readonly places: readonly Place[]
  readonly peers = new Map<string, PeerLease>()
  readonly cuts: Cut[] = []
  #pings: readonly Pings[] = []
  #serial = 0

  private constructor(lab: Lab, proxy: ProxyControl, places: readonly Place[]) {
    this.lab = lab
    this.proxy = proxy
    this.places = places
  }

  static async create(random: Random): Promise<World> {
    const lab = await Lab.create({ nodes: 3 })
    try {
      const etcd = await lab.startEtcd()
      await etcd.config(CONFIG)
      const proxy = await startProxy(
        lab.switch,
        { host: lab.outside, port: 4001 },
        { host: lab.outside, port: 2379 },
      )
      lab.onClose(() => proxy.close())
      const places: Place[] = []
      for (const number of [1, 2, 3]) {
        const daemon = await startDaemon(lab, number)
        places.push({ number, daemon, address: lab.address(number), mtu: 1450, restarts: 0 })
      }
      const world = new World(lab, proxy, places)
      for (let i = 0; i < FIRST_PEERS; i++) await world.join(random)
      for (const { daemon } of places) await daemon.waitReady(PATIENCE)
      const pods = []
      for (const { daemon } of places) pods.push(await lab.pod(daemon))
      await world.settle()
      const pings: Pings[] = []
      for (const [i, pod] of pods.entries()) {
        const to = pods[(i + 1) % pods.length]
        if (to)
          pings.push(await Pings.start(`node ${i + 1} to ${((i + 1) % 3) + 1}`, pod.namespace, to.address))
      }
      world.#pings = pings
      return world
    } catch (error) {
      await lab.close()
      throw error
    }
  }

  async close(): Promise<void> {
    for (const pings of this.#pings) await pings.stop()
    await this.lab.close()
  }

  /** A peer that was not there, or nothing when there are enough. */
  async join(random: Random): Promise<void> {
    const number = random.between(1, MOST_PEERS)
    const [peer] = peerLeases(1, { network: '172.30.0.0', first: number })
    if (peer === undefined || this.peers.has(peer.key)) return
    await this.put(peer)
  }

  async leave(random: Random): Promise<void> {
    const peer = this.#anyPeer(random)
    if (peer === undefined) return
    this.peers.delete(peer.key)
    await this.#store(() => this.lab.etcd.delete(`${PREFIX}/subnets/${peer.key}`))
  }

  /** A new MAC, a new public address, or both. */
  async rekey(random: Random): Promise<void> {
    const peer = this.#anyPeer(random)
    if (peer === undefined) return
    const n = ++this.#serial
    const mac = `02:01:00:00:${hex(n >> 8)}:${hex(n)}`
    const publicIP = `10.201.${(n >> 8) & 255}.${n & 255}`
    const what = random.between(1, 3)
    await this.put({ ...peer, ...(what & 1 ? { mac } : {}), ...(what & 2 ? { publicIP } : {}) })
  }

  async put(peer: PeerLease): Promise<void> {
    this.peers.set(peer.key, peer)
    await this.#store(() => this.lab.etcd.putLease(peer))
  }

  #anyPeer(random: Random): PeerLease | undefined {
    return this.peers.size === 0 ? undefined : random.pick([...this.peers.values()])
  }

  /** The wire is cut from now on, until the next settling. */
  cut(): void {
    this.cuts.push({ from: monotonic(), to: Number.POSITIVE_INFINITY })
  }

  /** Ends a daemon in one way or another, lets `meanwhile` happen, and starts it again. */
  async restart(place: Place, signal: NodeJS.Signals, meanwhile: () => Promise<void>): Promise<void> {
    await place.daemon.stop(signal)
    await meanwhile()
    place.daemon = await startDaemon(this.lab, place.number)
    place.restarts++
    await place.daemon.waitReady(PATIENCE)
  }

  /**
   * Waits until every node is what the leases in etcd call for, firewall included, and ends the cuts. Rejects with what
   * differs, and when a daemon has ended or says what only a mistake in it can be the cause of.
   */
  async settle(): Promise<Settled> {
    const begin = monotonic()
    let looked = begin
    let found: readonly string[] = []
    let last: readonly string[] = []
    const right = async (): Promise<boolean> => {
      looked = monotonic()
      last = found
      const leases = await this.lab.etcd.leases()
      const all = await Promise.all(this.places.map((place) => this.#wrong(place, leases)))
      found = all.flat()
      return found.length === 0
    }
    const what = (): string => `all nodes right: ${found.slice(0, 20).join('; ')}`
    await waitFor(right, { what, timeout: PATIENCE, interval: 50 })
    const before = this.#pings.map(({ answered }) => answered)
    await waitFor(() => this.#pings.every(({ answered }, i) => answered > (before[i] ?? 0) + 1), {
      what: 'pods to answer again',
      timeout: PATIENCE,
    })
    for (const cut of this.cuts) cut.to = Math.min(cut.to, monotonic())
    for (const { daemon } of this.places) {
      const trace = /^.*(?:TypeError|RangeError|Unhandled|\n\s+at .*:\d+:\d+).*$/m.exec(daemon.log())
      if (trace) throw new Error(`${daemon.namespace.name} logs a mistake: ${trace[0]}`)
    }
    return { after: looked - begin, last }
  }

  /** Pings lost although nothing cut the wire, since it was asked last. */
  lost(): readonly string[] {
    // The last answer before a cut may be one interval old; under load, more.
    return this.#pings.flatMap((pings) =>
      pings
        .lostOutside(this.cuts, 250)
        .map(
          ({ sequence, after, before }) =>
            `${pings.name}: echo ${sequence}, sent between ${after.toFixed(0)} and ${before.toFixed(0)} ms`,
        ),
    )
  }

  get pinged(): number {
    return this.#pings.reduce((sum, { answered }) => sum + answered, 0)
  }

  async #wrong(
    place: Place,
    leases: Parameters<typeof differences>[1]['leases'],
  ): Promise<readonly string[]> {
    const { number, daemon, address, mtu } = place
    if (!daemon.running)
      throw new Error(`the daemon of node ${number} has ended: ${daemon.log().slice(-2000)}`)
    const expected = { leases, own: daemon.leaseKey(), local: address, mtu }
    const wrong = [...(await differences(daemon.namespace, expected))]
    const rules = lines(await daemon.namespace.run('iptables-save')).filter((line) => line.startsWith('-A'))
    const own = daemon.leaseKey().replace('-', '/')
    const wanted = [
      '-A POSTROUTING -s 172.30.0.0/16 -d 172.30.0.0/16 -j RETURN',
      '-A POSTROUTING -s 172.30.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully',
      `-A POSTROUTING ! -s 172.30.0.0/16 -d ${own} -j RETURN`,
      '-A POSTROUTING ! -s 172.30.0.0/16 -d 172.30.0.0/16 -j MASQUERADE --random-fully',
      '-A FORWARD -s 172.30.0.0/16 -j ACCEPT',
      '-A FORWARD -d 172.30.0.0/16 -j ACCEPT',
    ]
    const found = [...rules].sort().join('\n')
    if (found !== [...wanted].sort().join('\n')) wrong.push(`rules: ${found}`)
    return wrong.map((line) => `node ${number}: ${line}`)
  }

  /** etcd may be down at the moment. */
  async #store(write: () => Promise<unknown>): Promise<void> {
    const done = (): Promise<boolean> => write().then(() => true)
    await waitFor(done, { what: 'etcd to take a write', timeout: PATIENCE, interval: 100 })
  }
}

function startDaemon(lab: Lab, number: number): Promise<Daemon> {
  const args = ['-ip-masq', '-etcd-endpoints', `http://${lab.outside}:4001`]
  return lab.daemon(number, { args })
}

function hex(octet: number): string {
  return (octet & 255).toString(16).padStart(2, '0')
}
