/**
 * A little data centre on one machine, for tests that need the real kernel and the real etcd.
 *
 *     etcd (.0.1, .0.2, .0.3)
 *     switch ---- br0 10.77.0.1/16 -+- p1 === eth0 node 1 10.77.1.2
 *                                   +- p2 === eth0 node 2 10.77.1.3 -- docker0 -- pod
 *                                   +- ...
 *
 * The switch and every node are network namespaces with unique names, so that any number of labs can run at the same
 * time. Whatever a lab makes is registered when it is made, and removed by `close()`, or when the process ends without
 * it (see guard.ts). Needs root, iproute2, util-linux, iputils-ping, etcd-server, python3 and openssl (TLS only).
 */
import { randomBytes } from 'node:crypto'
import { existsSync, mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Daemon, type DaemonOptions } from './daemon.ts'
import { Etcd, type EtcdOptions } from './etcd.ts'
import { Guard } from './guard.ts'
import { Namespace } from './namespace.ts'
import { Observer } from './observer.ts'
import { connectPod, type Pod } from './pod.ts'

export { Daemon, EndedEarly, isOurs, OURS, REPOSITORY } from './daemon.ts'
export { type EtcdNode, leaseValue, type PeerLease, PREFIX, peerLeases } from './etcd.ts'
export { Namespace } from './namespace.ts'
export { monotonic } from './observer.ts'
export { waitFor } from './wait.ts'
export { startMonitor, startPinger } from './watchers.ts'

export class Lab {
  /** Begins every name that this lab makes; unique on the machine. */
  readonly name: string
  /** A fresh folder, removed with the lab. */
  readonly dir: string
  readonly observer: Observer
  readonly #cleanups: (() => Promise<unknown> | unknown)[] = []
  readonly #guard = new Guard()
  readonly #nodes: Namespace[] = []
  readonly #prefix: string
  #switch: Namespace | undefined
  #etcd: Etcd | undefined
  #pods = 0

  private constructor(prefix: string) {
    this.name = `fl${process.pid}-${randomBytes(3).toString('hex')}`
    this.#prefix = prefix
    this.dir = mkdtempSync(join(tmpdir(), 'flannel-lab-'))
    this.#guard.add('folder', this.dir)
    this.observer = new Observer()
    this.onClose(() => this.observer.close())
  }

  /** A switch with `nodes` nodes; `prefix` is the first half of the underlay network, a /16. */
  static async create({ nodes = 1, prefix = '10.77' } = {}): Promise<Lab> {
    const lab = new Lab(prefix)
    try {
      lab.#switch = await lab.namespace('sw')
      await lab.switch.ipBatch([
        'link add br0 type bridge',
        ...[1, 2, 3].map((host) => `address add ${prefix}.0.${host}/16 dev br0`),
        'link set br0 up',
      ])
      for (let i = 0; i < nodes; i++) await lab.addNode()
      return lab
    } catch (error) {
      await lab.close()
      throw error
    }
  }

  get switch(): Namespace {
    if (!this.#switch) throw new Error('the lab has no switch')
    return this.#switch
  }

  /** The switch's own address: a host outside of the flannel network. */
  get outside(): string {
    return `${this.#prefix}.0.1`
  }

  get etcd(): Etcd {
    if (!this.#etcd) throw new Error('startEtcd() first')
    return this.#etcd
  }

  get nodes(): readonly Namespace[] {
    return this.#nodes
  }

  /** Node `i`, counted from 1. */
  node(i: number): Namespace {
    const node = this.#nodes[i - 1]
    if (!node) throw new Error(`the lab has no node ${i}`)
    return node
  }

  /** The underlay address of node `i`. */
  address(i: number): string {
    return `${this.#prefix}.${1 + Math.floor(i / 250)}.${(i % 250) + 1}`
  }

  /** Adds one node to the switch. Its port there is `p<i>`: set that down to pull the cable. */
  async addNode(): Promise<Namespace> {
    const i = this.#nodes.length + 1
    const node = await this.namespace(`n${i}`)
    await node.ipBatch([
      `link add eth0 type veth peer name p${i} netns ${this.switch.name}`,
      `address add ${this.address(i)}/16 dev eth0`,
      'link set eth0 up',
      `route add default via ${this.outside}`,
    ])
    await this.switch.ip(`link set p${i} master br0 up`)
    this.#nodes.push(node)
    return node
  }

  /** A further namespace, connected to nothing, removed with the lab. */
  async namespace(suffix: string): Promise<Namespace> {
    const name = `${this.name}${suffix}`
    this.#guard.add('namespace', name)
    return Namespace.create(name)
  }

  /**
   * A folder to be made, in memory where there is such a place, as `/run` is on a node. It goes with the lab, and so does what lies
   * beside it.
   */
  memoryFolder(): string {
    const folder = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'flannel-lab-'))
    this.#guard.add('folder', folder)
    return join(folder, 'run')
  }

  /** Starts etcd in the switch. */
  async startEtcd(options: EtcdOptions = {}): Promise<Etcd> {
    const hosts = options.members === 3 ? [1, 2, 3] : [1]
    const addresses = hosts.map((host) => `${this.#prefix}.0.${host}`)
    this.#etcd = await Etcd.start(this.switch, addresses, join(this.dir, 'etcd'), options)
    this.onClose(() => this.etcd.close())
    return this.#etcd
  }

  /** Starts a flanneld on node `i` and does not wait for it; see `Daemon.waitReady`. */
  async daemon(i: number, options: DaemonOptions = {}): Promise<Daemon> {
    const daemon = await Daemon.start(
      {
        namespace: this.node(i),
        observer: this.observer,
        etcdFlags: this.#etcd?.flags ?? [],
        runDir: options.runDir ?? join(this.dir, `node${i}`),
      },
      options,
    )
    this.onClose(() => daemon.stop('SIGKILL'))
    return daemon
  }

  /** A pod behind docker0 on the daemon's node, with address `number` (2 or more) of its lease. */
  async pod(daemon: Daemon, number = 2): Promise<Pod> {
    const pod = await this.namespace(`pod${++this.#pods}`)
    return connectPod({ node: daemon.namespace, pod, subnetEnv: daemon.subnetEnv(), number })
  }

  /** Registers something to undo; `close` runs these in reverse order. */
  onClose(cleanup: () => Promise<unknown> | unknown): void {
    this.#cleanups.push(cleanup)
  }

  /** Stops and removes all. Safe to call twice. A clean-up that fails does not keep the others from running. */
  async close(): Promise<void> {
    const failures: unknown[] = []
    for (const cleanup of this.#cleanups.splice(0).reverse()) {
      try {
        await cleanup()
      } catch (error) {
        failures.push(error)
      }
    }
    await this.#guard.close()
    if (failures.length > 0) throw new AggregateError(failures, `clean-up of ${this.name} failed`)
  }
}
