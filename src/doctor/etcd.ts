import { get as httpGet } from 'node:http'
import { get as httpsGet } from 'node:https'
import { openEtcd } from '../etcd.ts'
import type { Logger } from '../log.ts'
import type { Options } from '../options.ts'
import { parseNetworkConfig } from '../subnet/config.ts'
import { EtcdRegistry } from '../subnet/etcd/registry.ts'
import type { EtcdFacts } from './facts.ts'
import { read } from './programs.ts'
import { tunnelOf } from './tunnel.ts'

/** Milliseconds for all that is asked of etcd. */
const PATIENCE = 15_000

/** The checks speak for themselves. */
export const quiet: Logger = { error() {}, warn() {}, info() {}, debug() {}, trace() {} }

/** Config, leases and clock of etcd; nothing that goes wrong there keeps the other checks from their work. */
export async function readEtcd(
  { etcd }: Pick<Options, 'etcd'>,
  env: Readonly<Record<string, string | undefined>>,
): Promise<EtcdFacts> {
  const nothing: EtcdFacts = {
    endpoint: etcd.endpoints.split(',')[0] ?? '',
    prefix: etcd.prefix,
    error: undefined,
    config: undefined,
    configError: undefined,
    leases: undefined,
    skipped: new Set(),
    bad: [],
    skewSeconds: undefined,
    secure: false,
  }
  const signal = AbortSignal.timeout(PATIENCE)
  const clockOf = async (endpoint: string): Promise<Pick<EtcdFacts, 'skewSeconds' | 'secure'>> => ({
    skewSeconds: await skewAgainst(endpoint, etcd),
    secure: endpoint.startsWith('https:'),
  })
  try {
    const client = openEtcd({ etcd }, env, quiet)
    const registry = new EtcdRegistry(client, etcd.prefix)
    const { leases, bad } = await registry.listLeases(signal)
    const endpoint = client.tally.endpoints[client.tally.current]?.url ?? nothing.endpoint
    return {
      ...nothing,
      endpoint,
      leases,
      bad,
      ...(await readConfig(registry, signal)),
      ...(await clockOf(endpoint)),
    }
  } catch (error) {
    return {
      ...nothing,
      // A wrong clock may be what it fails for.
      ...(await clockOf(nothing.endpoint)),
      error: signal.aborted ? `no answer from etcd within ${PATIENCE / 1000} s` : reason(error),
    }
  }
}

async function readConfig(
  registry: EtcdRegistry,
  signal: AbortSignal,
): Promise<Pick<EtcdFacts, 'config' | 'configError'>> {
  try {
    const config = parseNetworkConfig((await registry.getConfig(signal)).text)
    // Its options are read here only for what is wrong with them.
    tunnelOf(config)
    return { config, configError: undefined }
  } catch (error) {
    return { config: undefined, configError: reason(error) }
  }
}

/**
 * By the Date header (RFC 9110, 6.6.1), which has whole seconds; undefined when there is none. Whatever certificate the server has:
 * with a wrong clock here, none is valid.
 */
function skewAgainst(base: string, files: Options['etcd']): Promise<number | undefined> {
  const begun = Date.now()
  return new Promise((resolve) => {
    // The client has said what is wrong with it.
    if (!URL.canParse(base)) return resolve(undefined)
    const tls = { ca: read(files.caFile), cert: read(files.certFile), key: read(files.keyFile) }
    const asked = base.startsWith('https:')
      ? httpsGet(`${base}/version`, { ...tls, agent: false, timeout: 3_000, rejectUnauthorized: false })
      : httpGet(`${base}/version`, { agent: false, timeout: 3_000 })
    asked.on('response', (response) => {
      response.resume()
      const theirs = Date.parse(response.headers.date ?? '') + 500
      resolve(Number.isNaN(theirs) ? undefined : ((begun + Date.now()) / 2 - theirs) / 1000)
    })
    asked.on('timeout', () => asked.destroy())
    asked.on('error', () => resolve(undefined))
  })
}

function reason(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
