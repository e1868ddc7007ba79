import { posix } from 'node:path'
import type { Subnet } from '../../ip.ts'
import type { BadLease, Lease, LeaseAttributes, LeaseEvent } from '../lease.ts'
import { decodeLeaseValue, encodeLeaseValue, leaseKey, parseLeaseKey } from '../leasecodec.ts'
import {
  type ConfigStep,
  type ConfigText,
  LEASE_TTL_SECONDS,
  type LeaseList,
  type LeaseRecord,
  type LeaseUpdate,
  type Registry,
  type WatchStep,
  type WatchWait,
} from '../registry.ts'
import type { EtcdAnswer, EtcdClient, EtcdRequest } from './client.ts'
import { EcodeKeyNotFound, EcodeNotFile, EtcdError, isEtcdCode } from './error.ts'

/**
 * A long poll without news is given up and asked again after this long, a quarter more or less by chance: a dead
 * connection and a member that hangs look the same.
 */
const WATCH_IDLE_MS = 60_000
/** The config is in no hurry. */
const CONFIG_IDLE_FACTOR = 10

/** Config and leases below a key prefix of an etcd with the v2 API, in flannel's layout. */
export class EtcdRegistry implements Registry {
  readonly #client: EtcdClient
  readonly #configKey: string
  readonly #subnetsKey: string
  readonly #watchIdleMs: number

  /** `prefix` is cleaned like a path, as flannel does: `coreos.com//network/` is `/coreos.com/network`. */
  constructor(client: EtcdClient, prefix: string, watchIdleMs = WATCH_IDLE_MS) {
    this.#client = client
    const root = posix.join('/', prefix)
    this.#configKey = posix.join(root, 'config')
    this.#subnetsKey = posix.join(root, 'subnets')
    this.#watchIdleMs = watchIdleMs
  }

  async getConfig(signal: AbortSignal): Promise<ConfigText> {
    const request = { method: 'GET', key: this.#configKey, query: READ, signal } as const
    const answer = await this.#client.request(request)
    const node = nodeOf(request, answer)
    if (node.dir === true) {
      throw new EtcdError({
        kind: 'etcd',
        request: `${request.method} /v2/keys${request.key}`,
        reason: 'the config is a directory: remove it and put the JSON there',
        errorCode: EcodeNotFile,
        index: answer.index,
        transient: true,
      })
    }
    return { text: textOf(node), index: answer.index, clusterId: answer.clusterId }
  }

  async listLeases(signal: AbortSignal): Promise<LeaseList> {
    const request = {
      method: 'GET',
      key: this.#subnetsKey,
      query: { ...READ, recursive: 'true' },
      longInMaking: true,
      signal,
    } as const
    try {
      const answer = await this.#client.request(request)
      const node = nodeOf(request, answer)
      if (node.dir !== true) throw unexpected(request, 'is a value, not a directory: remove it')
      return { ...decodeAll(node.nodes), index: answer.index, clusterId: answer.clusterId }
    } catch (error) {
      if (!isEtcdCode(error, EcodeKeyNotFound)) throw error
      return { leases: [], bad: [], index: error.index ?? 0, clusterId: '' }
    }
  }

  async readLease(subnet: Subnet, signal: AbortSignal): Promise<LeaseRecord> {
    const request = { method: 'GET', key: this.#leasePath(subnet), query: READ, signal } as const
    try {
      const node = nodeOf(request, await this.#client.request(request))
      const read = decodeLease(node)
      return 'reason' in read
        ? { kind: 'bad', bad: read, modifiedIndex: indexOf(node) }
        : { kind: 'lease', lease: read }
    } catch (error) {
      if (isEtcdCode(error, EcodeKeyNotFound)) return { kind: 'absent' }
      throw error
    }
  }

  async createLease(subnet: Subnet, attributes: LeaseAttributes, signal: AbortSignal): Promise<Lease> {
    return await this.#put(subnet, {
      query: { prevExist: 'false' },
      form: { ttl: String(LEASE_TTL_SECONDS), value: encodeLeaseValue(attributes) },
      signal,
    })
  }

  async updateLease(update: LeaseUpdate, signal: AbortSignal): Promise<Lease> {
    const { subnet, attributes, prevIndex, ttl } = update
    const value = encodeLeaseValue(attributes)
    return await this.#put(subnet, {
      query: { prevIndex: String(prevIndex) },
      form: ttl === undefined ? { value } : { ttl: String(ttl), value },
      signal,
    })
  }

  async deleteLease(subnet: Subnet, prevIndex: number, signal: AbortSignal): Promise<void> {
    const query = { prevIndex: String(prevIndex) }
    try {
      await this.#client.request({
        method: 'DELETE',
        key: this.#leasePath(subnet),
        query,
        signal,
      })
    } catch (error) {
      if (!isEtcdCode(error, EcodeKeyNotFound)) throw error
    }
  }

  async watch(wait: WatchWait, signal: AbortSignal): Promise<WatchStep> {
    const query = { recursive: 'true' }
    const poll = await this.#poll({ key: this.#subnetsKey, query, idleMs: this.#watchIdleMs, wait, signal })
    return 'kind' in poll ? poll : this.#decodeEvent(poll.request, poll.answer, wait.waitIndex)
  }

  async watchConfig(wait: WatchWait, signal: AbortSignal): Promise<ConfigStep> {
    const idleMs = CONFIG_IDLE_FACTOR * this.#watchIdleMs
    const poll = await this.#poll({ key: this.#configKey, query: {}, idleMs, wait, signal })
    return 'kind' in poll && poll.kind === 'idle' ? poll : { kind: 'changed' }
  }

  /** One long poll; its answer, unless there was nothing, or the store is not the one that is waited for. */
  async #poll(options: {
    readonly key: string
    readonly query: Readonly<Record<string, string>>
    readonly idleMs: number
    readonly wait: WatchWait
    readonly signal: AbortSignal
  }): Promise<Poll> {
    const { key, query, idleMs, signal } = options
    const { waitIndex, clusterId } = options.wait
    let reason: string | undefined
    // etcd sends the headers when it begins to wait, not when it has an event.
    let started = waitIndex - 1
    const request: EtcdRequest = {
      method: 'GET',
      key,
      query: { ...query, wait: 'true', waitIndex: String(waitIndex) },
      longPoll: true,
      bodyTimeoutMs: idleMs * (0.75 + Math.random() / 2),
      signal,
      onHeaders: (state) => {
        if (clusterId !== '' && state.clusterId !== '' && state.clusterId !== clusterId) {
          reason = `the etcd cluster changed from ${clusterId} to ${state.clusterId}`
        } else if (state.index < waitIndex - 1) {
          reason = `etcd's index went back from ${waitIndex - 1} to ${state.index}`
        }
        started = Math.max(started, state.index)
        return reason !== undefined
      },
    }
    const answer = await this.#client.request(request)
    if (reason !== undefined) return { kind: 'resync', reason }
    if (answer.body !== undefined) return { request, answer }
    const { clusterId: cluster, waited = false } = answer
    // Of an answer that broke off, the event may have been lost on the way: then nothing is known that was not before.
    return { kind: 'idle', index: waited ? started : waitIndex - 1, clusterId: cluster, waited }
  }

  #decodeEvent(request: EtcdRequest, answer: EtcdAnswer, waitIndex: number): WatchStep {
    const node = nodeOf(request, answer)
    const index = indexOf(node)
    if (index < waitIndex) throw unexpected(request, `got event ${index}, not ${waitIndex} or later`)
    const action = answer.body?.action
    const removed = REMOVALS.has(String(action))
    const key = keyOf(node)
    const below = key.startsWith(`${this.#subnetsKey}/`) ? key.slice(this.#subnetsKey.length + 1) : ''
    if (below === '' && removed) return { kind: 'resync', reason: `${key} was removed` }
    return {
      kind: 'event',
      event:
        below === '' ? undefined : decodeChange(node, { key: below, removed, expired: action === 'expire' }),
      index,
      storeIndex: answer.index,
      clusterId: answer.clusterId,
    }
  }

  async #put(subnet: Subnet, options: Omit<EtcdRequest, 'method' | 'key'>): Promise<Lease> {
    const request = { method: 'PUT', key: this.#leasePath(subnet), ...options } as const
    const read = decodeLease(nodeOf(request, await this.#client.request(request)))
    if (!('reason' in read)) return read
    throw unexpected(request, `the answer does not hold what was written: ${read.reason}`)
  }

  #leasePath(subnet: Subnet): string {
    return `${this.#subnetsKey}/${leaseKey(subnet)}`
  }
}

type Poll =
  | { readonly request: EtcdRequest; readonly answer: EtcdAnswer }
  | Exclude<WatchStep, { kind: 'event' }>

const READ = { quorum: 'true', recursive: 'false', sorted: 'false' } as const
const REMOVALS: ReadonlySet<string> = new Set(['delete', 'expire', 'compareAndDelete'])

/**
 * A node of etcd's answer as it came, with fields left out that are empty for Go. Each is read where it is needed: a copy of
 * each of 65,000 nodes would cost more than all the rest.
 */
type EtcdNode = Readonly<
  Record<'key' | 'dir' | 'value' | 'nodes' | 'ttl' | 'expiration' | 'modifiedIndex', unknown>
>

function isNode(json: unknown): json is EtcdNode {
  return typeof json === 'object' && json !== null
}

function nodeOf(request: EtcdRequest, answer: EtcdAnswer): EtcdNode {
  const node = answer.body?.node
  if (!isNode(node)) throw unexpected(request, 'the answer has no node: is this etcd?')
  return node
}

function keyOf({ key }: EtcdNode): string {
  return typeof key === 'string' ? key : '/'
}

function textOf({ value }: EtcdNode): string {
  return typeof value === 'string' ? value : ''
}

function indexOf({ modifiedIndex }: EtcdNode): number {
  return typeof modifiedIndex === 'number' ? modifiedIndex : 0
}

function decodeAll(nodes: unknown): { leases: Lease[]; bad: BadLease[] } {
  const leases: Lease[] = []
  const bad: BadLease[] = []
  for (const node of Array.isArray(nodes) ? nodes : []) {
    if (!isNode(node)) continue
    const read = decodeLease(node)
    if ('reason' in read) bad.push(read)
    else leases.push(read)
  }
  return { leases, bad }
}

function decodeLease(node: EtcdNode): Lease | BadLease {
  const path = keyOf(node)
  const subnet = parseLeaseKey(path)
  if (typeof subnet === 'string') return badLease(path, subnet)
  if (node.dir === true) return badLease(path, 'it is a directory')
  const attributes = decodeLeaseValue(textOf(node))
  if (typeof attributes === 'string') return badLease(path, attributes)
  return { subnet, attributes, ttl: ttlOf(node), modifiedIndex: indexOf(node) }
}

/**
 * For up to half a second after its end etcd still shows a key. Its TTL is 0 then, which is left out, and only the expiration tells
 * it from a key that has none.
 */
function ttlOf({ ttl, expiration }: EtcdNode): number | undefined {
  if (typeof ttl === 'number') return Math.max(0, ttl)
  return typeof expiration === 'string' ? 0 : undefined
}

function badLease(path: string, reason: string): BadLease {
  return { key: path.slice(path.lastIndexOf('/') + 1), reason }
}

/** `key` is what stands below `subnets/`; only a direct child can be a lease. */
function decodeChange(
  node: EtcdNode,
  { key, removed, expired }: { readonly key: string; readonly removed: boolean; readonly expired: boolean },
): LeaseEvent {
  const nested = key.includes('/')
  if (removed) {
    const subnet = parseLeaseKey(key)
    return typeof subnet === 'string' || nested
      ? { kind: 'mended', key }
      : { kind: 'delete', subnet, expired }
  }
  if (nested) return { kind: 'bad', bad: { key, reason: 'the key lies in a directory of its own' } }
  const read = decodeLease(node)
  return 'reason' in read ? { kind: 'bad', bad: read } : { kind: 'put', lease: read }
}

function unexpected({ method, key }: EtcdRequest, reason: string): EtcdError {
  return new EtcdError({ kind: 'protocol', request: `${method} /v2/keys${key}`, reason, transient: true })
}
