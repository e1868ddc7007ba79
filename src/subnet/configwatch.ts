/**
 * The network config after the start. A running node cannot change its network or its backend under the pods that use
 * them, so what is written to the config key is compared with the config in use and said, once, field by field: what
 * counts from the next lease on, and what waits for a restart. Nothing that is written there stops a node.
 */
import type { Clock } from '../clock.ts'
import { formatSubnet, type Subnet } from '../ip.ts'
import type { Logger } from '../log.ts'
import { type NetworkConfig, parseNetworkConfig } from './config.ts'
import { EcodeKeyNotFound, EcodeNotFile, isEtcdCode } from './etcd/error.ts'
import { sameJson } from './gojson.ts'
import { reasonOf } from './outage.ts'
import type { ConfigText, Registry } from './registry.ts'

export interface ConfigWatchOptions {
  readonly registry: Registry
  /** The config in use, and as what it was read. */
  readonly config: NetworkConfig
  readonly source: ConfigText
  /** This node's lease. */
  readonly subnet: Subnet
  readonly clock: Clock
  readonly log: Logger
}

/** The pace of what is in no hurry; the watch over the leases tells of an etcd that fails. */
const PAUSE_MS = 5_000

export class ConfigWatch {
  readonly #options: ConfigWatchOptions
  /** What stands in etcd; undefined when nothing does. */
  #text: string | undefined
  #index: number
  /** '' until an answer has told. */
  #clusterId: string
  #unsound = false
  #pending: readonly string[] = []
  /** The range that was told of last. */
  #range: Pick<NetworkConfig, 'subnetMin' | 'subnetMax'>

  constructor(options: ConfigWatchOptions) {
    this.#options = options
    this.#range = options.config
    this.#text = options.source.text
    this.#index = options.source.index
    this.#clusterId = options.source.clusterId
  }

  /** The fields that etcd has other values of, which a restart would put to use; such as `Backend.VNI`. */
  get pending(): readonly string[] {
    return this.#pending
  }

  /** Whether what stands in etcd now could not be used by a node that starts. */
  get unsound(): boolean {
    return this.#unsound
  }

  /** Watches until the signal fires. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, log } = this.#options
    while (!signal.aborted) {
      try {
        if (await this.#changes(signal)) await this.#read(signal)
      } catch (error) {
        if (signal.aborted) return
        log.debug(`Watch network config: ${reasonOf(error)}`)
        await clock.sleep(PAUSE_MS, signal)
        // What happened meanwhile is seen in what stands there.
        this.#index = 0
      }
    }
  }

  /** Waits; resolves to whether the key may have another value. */
  async #changes(signal: AbortSignal): Promise<boolean> {
    if (this.#index === 0) return true
    const { clock, registry } = this.#options
    const asked = clock.now()
    const step = await registry.watchConfig(
      { waitIndex: this.#index + 1, clusterId: this.#clusterId },
      signal,
    )
    if (step.kind !== 'idle') return true
    this.#index = step.index
    this.#clusterId ||= step.clusterId
    if (step.waited) return false
    if (clock.now() - asked < PAUSE_MS) await clock.sleep(PAUSE_MS, signal)
    return true
  }

  async #read(signal: AbortSignal): Promise<void> {
    try {
      const { text, index, clusterId } = await this.#options.registry.getConfig(signal)
      this.#index = index
      this.#clusterId = clusterId
      this.#take(text)
    } catch (error) {
      if (!isEtcdCode(error, EcodeKeyNotFound) && !isEtcdCode(error, EcodeNotFile)) throw error
      this.#index = error.index ?? 0
      // It does not say whose it is, and if that is another cluster than before, each wait for a change would end at once.
      this.#clusterId = ''
      this.#lack(
        isEtcdCode(error, EcodeNotFile)
          ? error.reason
          : 'it was removed; nodes that start wait until it is there again',
      )
    }
  }

  #lack(reason: string): void {
    if (this.#text === undefined) return
    this.#text = undefined
    this.#reject(reason)
  }

  #take(text: string): void {
    if (text === this.#text) return
    this.#text = text
    const { log } = this.#options
    let config: NetworkConfig
    try {
      config = parseNetworkConfig(text)
    } catch (error) {
      this.#reject(reasonOf(error))
      return
    }
    const wasUnsound = this.#unsound
    const before = this.#pending.join()
    this.#unsound = false
    this.#pending = this.#differences(config)
    if (this.#pending.length === 0) {
      if (wasUnsound || before !== '') log.info('The network config in etcd is the one in use again')
      this.#tellRange(config)
    } else if (wasUnsound || before !== this.#pending.join()) {
      log.warn(
        `The network config in etcd has changed: ${this.#pending.join(', ')}: restart flanneld on every node to use it; ` +
          'going on with the one from the start',
      )
    }
  }

  #reject(reason: string): void {
    this.#unsound = true
    this.#options.log.error(
      `The network config in etcd cannot be used any more, going on with the one from the start: ${reason}`,
    )
  }

  /** The bounds of what may be leased matter to the next lease alone. */
  #tellRange(config: NetworkConfig): void {
    const { log, subnet } = this.#options
    const used = this.#range
    this.#range = config
    const fields = (['subnetMin', 'subnetMax'] as const).filter((field) => used[field] !== config[field])
    if (fields.length === 0) return
    const outside = subnet.address < config.subnetMin || subnet.address > config.subnetMax
    const names = fields.map((field) => `S${field.slice(1)}`).join(', ')
    log.info(
      `The network config in etcd has changed: ${names}: it counts for the next lease` +
        (outside ? `; this node keeps ${formatSubnet(subnet)} until it is restarted` : ''),
    )
  }

  /** Names of the fields that a running node cannot follow. */
  #differences(config: NetworkConfig): string[] {
    const { config: used } = this.#options
    const names: string[] = []
    if (formatSubnet(used.network) !== formatSubnet(config.network)) names.push('Network')
    if (used.subnetLen !== config.subnetLen) names.push('SubnetLen')
    if (used.backendType !== config.backendType) names.push('Backend.Type')
    const [before, after] = [used, config].map(({ backend }) => fieldsOf(backend))
    for (const [key, name] of new Map([...(before?.names ?? []), ...(after?.names ?? [])])) {
      if (!sameJson(before?.values.get(key), after?.values.get(key))) names.push(`Backend.${name}`)
    }
    return names
  }
}

/** The options of a backend, whose names are the same in any case. */
function fieldsOf(backend: Readonly<Record<string, unknown>>): {
  readonly names: ReadonlyMap<string, string>
  readonly values: ReadonlyMap<string, unknown>
} {
  const fields = Object.entries(backend).filter(([name]) => name.toLowerCase() !== 'type')
  return {
    names: new Map(fields.map(([name]) => [name.toLowerCase(), name])),
    values: new Map(fields.map(([name, value]) => [name.toLowerCase(), value])),
  }
}
