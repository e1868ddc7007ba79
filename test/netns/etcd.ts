/**
 * A real etcd with the v2 API, of one or three members, in a namespace.
 *
 * The test process is outside of that namespace, and reaches each member through a unix socket in the member's data
 * folder: etcd serves its whole client API there too, without TLS. So a test can look into the store even while the
 * network between daemon and etcd is cut.
 */
import type { ChildProcess } from 'node:child_process'
import { mkdirSync, openSync, readFileSync, rmSync } from 'node:fs'
import { Agent, request } from 'node:http'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Namespace } from './namespace.ts'
import { isRunning, start, stop } from './process.ts'
import { makeTls, type TlsFiles } from './tls.ts'
import { waitFor } from './wait.ts'

const CLIENT_PORT = 2379
const PEER_PORT = 2380
/** etcd wants a port after the name of a unix socket, and makes it part of the file name. */
const SOCKET = 'client:1'
export const PREFIX = '/coreos.com/network'

/** etcd's answer: HTTP status, parsed body, and the store's index from `X-Etcd-Index`. */
export interface EtcdAnswer {
  readonly status: number
  readonly body: EtcdBody
  readonly index: number
}

export interface EtcdBody {
  readonly action?: string
  readonly node?: EtcdNode
  readonly errorCode?: number
  readonly message?: string
}

export interface EtcdNode {
  readonly key: string
  readonly value?: string
  readonly ttl?: number
  readonly dir?: boolean
  readonly nodes?: readonly EtcdNode[]
  readonly modifiedIndex: number
  readonly createdIndex: number
}

/** A lease as a node writes it, for `seed` and for tests that play a peer. */
export interface PeerLease {
  /** `a.b.c.d-len` */
  readonly key: string
  readonly publicIP: string
  readonly mac: string
}

export interface EtcdOptions {
  readonly members?: 1 | 3
  /** Serve clients over TLS and demand client certificates. */
  readonly tls?: boolean
  readonly args?: readonly string[]
  /** The in-memory etcd instead of the real one: one member, no TLS, no data kept. */
  readonly inMemory?: boolean
}

class Member {
  readonly address: string
  readonly dir: string
  readonly agent = new Agent({ keepAlive: true, maxSockets: 64 })
  readonly #namespace: Namespace
  readonly #argv: readonly string[]
  #child: ChildProcess | undefined

  constructor(namespace: Namespace, address: string, dir: string, argv: readonly string[]) {
    this.#namespace = namespace
    this.address = address
    this.dir = dir
    this.#argv = argv
    mkdirSync(dir, { recursive: true })
  }

  get socketPath(): string {
    return join(this.dir, SOCKET)
  }

  get pid(): number | undefined {
    return this.#child?.pid
  }

  start(): void {
    if (this.#child && isRunning(this.#child)) throw new Error(`etcd ${this.address} runs already`)
    rmSync(this.socketPath, { force: true })
    const log = openSync(join(this.dir, 'log'), 'a')
    const options = { cwd: this.dir, stdio: ['ignore', log, log] as const }
    this.#child = start(this.#argv, { ...options, stdio: [...options.stdio] }, this.#namespace.name)
  }

  async stop(signal: NodeJS.Signals): Promise<void> {
    if (this.#child) await stop(this.#child, signal)
  }

  /** Stops it in its tracks (SIGSTOP), connections open, or lets it go on. */
  freeze(frozen: boolean): void {
    this.#child?.kill(frozen ? 'SIGSTOP' : 'SIGCONT')
  }

  get running(): boolean {
    return this.#child !== undefined && isRunning(this.#child)
  }

  log(): string {
    return readFileSync(join(this.dir, 'log'), 'utf8')
  }

  async healthy(): Promise<boolean> {
    const { status, body } = await this.request('GET', '/health')
    return status === 200 && 'health' in body && body.health === 'true'
  }

  request(
    method: string,
    path: string,
    form?: Readonly<Record<string, string | number>>,
  ): Promise<EtcdAnswer> {
    const text = form === undefined ? undefined : new URLSearchParams(mapValues(form, String)).toString()
    const headers = text === undefined ? {} : { 'Content-Type': 'application/x-www-form-urlencoded' }
    return new Promise((resolve, reject) => {
      const { socketPath, agent } = this
      const sent = request({ socketPath, agent, method, path, headers, timeout: 20_000 }, (answer) => {
        let body = ''
        answer.setEncoding('utf8')
        answer.on('data', (chunk) => {
          body += chunk
        })
        answer.on('error', reject)
        answer.on('end', () => {
          const index = Number(answer.headers['x-etcd-index'] ?? 0)
          try {
            resolve({ status: answer.statusCode ?? 0, body: body === '' ? {} : JSON.parse(body), index })
          } catch {
            reject(new Error(`etcd ${this.address}: ${method} ${path}: no JSON: ${body.slice(0, 200)}`))
          }
        })
      })
      sent.on('timeout', () => sent.destroy(new Error(`etcd ${this.address}: ${method} ${path}: no answer`)))
      sent.on('error', reject)
      sent.end(text)
    })
  }
}

/** The cluster, with the calls of the v2 API that tests need. Keys are whole paths such as `/coreos.com/network/config`. */
export class Etcd {
  readonly members: readonly Member[]
  readonly tls: TlsFiles | undefined

  private constructor(members: readonly Member[], tls: TlsFiles | undefined) {
    this.members = members
    this.tls = tls
  }

  /** Starts it on `addresses` (one per member, which `namespace` must hold) and waits until it is healthy. */
  static async start(
    namespace: Namespace,
    addresses: readonly string[],
    dir: string,
    options: EtcdOptions = {},
  ): Promise<Etcd> {
    mkdirSync(dir, { recursive: true })
    const tls = options.tls ? await makeTls(dir, addresses) : undefined
    const peers = addresses.map((address, i) => `m${i}=http://${address}:${PEER_PORT}`).join(',')
    const members = addresses.map((address, i) => {
      const client = `${tls ? 'https' : 'http'}://${address}:${CLIENT_PORT}`
      const peer = `http://${address}:${PEER_PORT}`
      if (options.inMemory) {
        const program = fileURLToPath(new URL('memory-etcd.ts', import.meta.url))
        const argv = [process.execPath, program, address, String(CLIENT_PORT), SOCKET]
        return new Member(namespace, address, join(dir, `m${i}`), argv)
      }
      const argv = [
        'etcd',
        ...['--enable-v2', '--name', `m${i}`, '--data-dir', 'data', '--quota-backend-bytes=4294967296'],
        ...['--listen-client-urls', `${client},unix://${SOCKET}`, '--advertise-client-urls', client],
        ...['--listen-peer-urls', peer, '--initial-advertise-peer-urls', peer, '--initial-cluster', peers],
        ...(addresses.length === 1 ? ['--heartbeat-interval', '20', '--election-timeout', '100'] : []),
        ...(tls ? ['--cert-file', tls.serverCertFile, '--key-file', tls.serverKeyFile] : []),
        ...(tls ? ['--client-cert-auth', '--trusted-ca-file', tls.caFile] : []),
        ...(options.args ?? []),
      ]
      return new Member(namespace, address, join(dir, `m${i}`), argv)
    })
    const etcd = new Etcd(members, tls)
    for (const member of members) member.start()
    try {
      await etcd.ready()
    } catch (error) {
      await etcd.close()
      throw error
    }
    return etcd
  }

  /** What `-etcd-endpoints` wants. */
  get endpoints(): string {
    const scheme = this.tls ? 'https' : 'http'
    return this.members.map(({ address }) => `${scheme}://${address}:${CLIENT_PORT}`).join(',')
  }

  /** Every flag that a flanneld needs to reach this etcd. */
  get flags(): readonly string[] {
    const { tls } = this
    return [
      ...['-etcd-endpoints', this.endpoints],
      ...(tls ? ['-etcd-cafile', tls.caFile] : []),
      ...(tls ? ['-etcd-certfile', tls.clientCertFile, '-etcd-keyfile', tls.clientKeyFile] : []),
    ]
  }

  async ready(): Promise<void> {
    for (const member of this.members) {
      const what = (): string => `etcd ${member.address} healthy; its log: ${member.log().slice(-1500)}`
      await waitFor(async () => !member.running || (await member.healthy()), { what, timeout: 20_000 })
      if (!member.running) throw new Error(`etcd ended: ${member.log().slice(-1500)}`)
    }
  }

  /** Stops every member; `SIGKILL` for a crash. The data stay. */
  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    await Promise.all(this.members.map((member) => member.stop(signal)))
  }

  /** Starts the stopped members again, over the same data, and waits until they are healthy. */
  async restart(): Promise<void> {
    for (const member of this.members) member.start()
    await this.ready()
  }

  /** Stops, forgets all data and starts again: another cluster at the same address, with its index back at the start. */
  async replace(): Promise<void> {
    await this.stop('SIGKILL')
    for (const member of this.members) rmSync(join(member.dir, 'data'), { recursive: true, force: true })
    await this.restart()
  }

  /** One request to the first member, whatever its answer; `path` begins with `/v2/`. */
  request(
    method: string,
    path: string,
    form?: Readonly<Record<string, string | number>>,
  ): Promise<EtcdAnswer> {
    const [first] = this.members
    if (!first) throw new Error('etcd without members')
    return first.request(method, path, form)
  }

  /** Writes a key, with a TTL in seconds when given. */
  async put(key: string, value: string, ttl?: number): Promise<EtcdAnswer> {
    const answer = await this.request('PUT', `/v2/keys${key}`, ttl === undefined ? { value } : { ttl, value })
    if (answer.status !== 200 && answer.status !== 201) {
      throw new Error(`etcd: put ${key}: ${answer.status} ${answer.body.message}`)
    }
    return answer
  }

  async delete(key: string, recursive = false): Promise<EtcdAnswer> {
    return this.request('DELETE', `/v2/keys${key}${recursive ? '?recursive=true&dir=true' : ''}`)
  }

  /** The node at a key with all below it, undefined when there is none. */
  async get(key: string): Promise<EtcdNode | undefined> {
    const { status, body } = await this.request('GET', `/v2/keys${key}?recursive=true&quorum=true`)
    if (status !== 200 && status !== 404) throw new Error(`etcd: get ${key}: ${status} ${body.message}`)
    return status === 200 ? body.node : undefined
  }

  async config(config: object | string, prefix = PREFIX): Promise<void> {
    await this.put(`${prefix}/config`, typeof config === 'string' ? config : JSON.stringify(config))
  }

  /** The lease nodes under `<prefix>/subnets`. */
  async leases(prefix = PREFIX): Promise<readonly EtcdNode[]> {
    return (await this.get(`${prefix}/subnets`))?.nodes ?? []
  }

  async putLease(lease: PeerLease, { prefix = PREFIX, ttl = 86_400 } = {}): Promise<EtcdAnswer> {
    return this.put(`${prefix}/subnets/${lease.key}`, leaseValue(lease), ttl)
  }

  /** Writes the leases with 64 requests in flight, as fast as etcd takes them. */
  async seed(leases: readonly PeerLease[], options: { prefix?: string; ttl?: number } = {}): Promise<void> {
    const queue = leases.values()
    const worker = async (): Promise<void> => {
      for (const lease of queue) await this.putLease(lease, options)
    }
    await Promise.all(Array.from({ length: 64 }, worker))
  }

  /** How often a key was to be created since etcd started, in vain or not; a daemon that asks for a subnet does that. */
  async creations(): Promise<number> {
    const { body } = await this.request('GET', '/v2/stats/store')
    // The statistics are an object of their own: etcd's `Stats` in store/stats.go.
    const { createSuccess, createFail } = body as unknown as Record<string, number>
    return (createSuccess ?? 0) + (createFail ?? 0)
  }

  async close(): Promise<void> {
    for (const { agent } of this.members) agent.destroy()
    await this.stop('SIGKILL')
  }
}

/** The bytes that flannel's vxlan backend writes. */
export function leaseValue({ publicIP, mac }: PeerLease): string {
  return JSON.stringify({ PublicIP: publicIP, BackendType: 'vxlan', BackendData: { VtepMAC: mac } })
}

/**
 * `count` leases of made-up peers: consecutive subnets of `length` from `network` + `first` subnets on, public
 * addresses from `publicNetwork` on, and MACs that carry the number.
 */
export function peerLeases(
  count: number,
  { network = '100.64.0.0', length = 24, first = 1, publicNetwork = '10.200.0.0' } = {},
): PeerLease[] {
  const base = ipv4(network)
  return Array.from({ length: count }, (_, i) => {
    const n = first + i
    const mac = [2, 0, n >>> 24, n >>> 16, n >>> 8, n].map((octet) =>
      (octet & 255).toString(16).padStart(2, '0'),
    )
    return {
      key: `${dotted(base + n * 2 ** (32 - length))}-${length}`,
      publicIP: dotted(ipv4(publicNetwork) + n),
      mac: mac.join(':'),
    }
  })
}

export function ipv4(text: string): number {
  return text.split('.').reduce((value, octet) => value * 256 + Number(octet), 0)
}

export function dotted(address: number): string {
  return [24, 16, 8, 0].map((shift) => (address >>> shift) & 255).join('.')
}

function mapValues<T, U>(record: Readonly<Record<string, T>>, f: (value: T) => U): Record<string, U> {
  return Object.fromEntries(Object.entries(record).map(([key, value]) => [key, f(value)]))
}
