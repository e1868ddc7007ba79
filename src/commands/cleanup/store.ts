/** What cleanup needs of etcd: the network when no file tells it, and the leases to give back. */
import { posix } from 'node:path'
import { openEtcd } from '../../etcd.ts'
import { formatIpv4, formatSubnet, type Ipv4 } from '../../ip.ts'
import type { Logger } from '../../log.ts'
import type { Options } from '../../options.ts'
import { type NetworkConfig, parseNetworkConfig } from '../../subnet/config.ts'
import type { EtcdClient } from '../../subnet/etcd/client.ts'
import { parseEndpoints } from '../../subnet/etcd/endpoints.ts'
import { EtcdRegistry } from '../../subnet/etcd/registry.ts'
import { leaseKey } from '../../subnet/leasecodec.ts'
import { type Findings, quoted, type Step } from './step.ts'

/** Milliseconds for one question, all endpoints together. */
const PATIENCE = 15_000

export class Store {
  readonly #etcd: Options['etcd']
  readonly #client: EtcdClient
  readonly #registry: EtcdRegistry

  /** Throws TlsFilesError, EndpointError or PasswordFileError. */
  constructor({ etcd }: Options, env: Readonly<Record<string, string | undefined>>, log: Logger) {
    this.#etcd = etcd
    this.#client = openEtcd({ etcd }, env, log)
    this.#registry = new EtcdRegistry(this.#client, etcd.prefix)
  }

  close(): void {
    this.#client.close()
  }

  /** Rejects with EtcdError or ConfigError. */
  async config(): Promise<NetworkConfig> {
    return parseNetworkConfig((await inTime((signal) => this.#registry.getConfig(signal))).text)
  }

  /** The leases under this node's public IP; a reservation was an operator's doing and stays. Rejects with EtcdError. */
  async leaseFindings(publicIP: Ipv4): Promise<Findings> {
    const { leases } = await inTime((signal) => this.#registry.listLeases(signal))
    const own = leases.filter(({ attributes }) => attributes.publicIP === publicIP)
    const steps = own
      .filter(({ ttl }) => ttl !== undefined)
      .map(({ subnet, modifiedIndex }): Step => {
        const key = posix.join('/', this.#etcd.prefix, 'subnets', leaseKey(subnet))
        return {
          removes: [`lease of ${formatSubnet(subnet)} by ${formatIpv4(publicIP)}`],
          commands: [this.#curl(`${key}?prevIndex=${modifiedIndex}`)],
          run: () => inTime((signal) => this.#registry.deleteLease(subnet, modifiedIndex, signal)),
        }
      })
    const strangers = own
      .filter(({ ttl }) => ttl === undefined)
      .map(({ subnet }) => `lease of ${formatSubnet(subnet)}: a reservation, which flanneld did not make`)
    return { steps, strangers }
  }

  /** curl asks for the password itself. */
  #curl(target: string): string {
    const { endpoints, caFile, certFile, keyFile, username } = this.#etcd
    const { base = '' } = parseEndpoints(endpoints)[0] ?? {}
    const files = { '--cacert': caFile, '--cert': certFile, '--key': keyFile, '-u': username }
    const flags = Object.entries(files).flatMap(([flag, value]) =>
      value === '' ? [] : [flag, quoted(value)],
    )
    return ['curl', '-fsS', ...flags, '-X', 'DELETE', quoted(`${base}/v2/keys${target}`)].join(' ')
  }
}

async function inTime<T>(ask: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const signal = AbortSignal.timeout(PATIENCE)
  try {
    return await ask(signal)
  } catch (error) {
    throw signal.aborted ? new Error(`etcd gave no answer within ${PATIENCE / 1000} s`) : error
  }
}
