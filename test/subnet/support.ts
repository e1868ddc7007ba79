import { setImmediate } from 'node:timers/promises'
import type { Clock } from '../../src/clock.ts'
import { type Ipv4, parseCidr, parseIpv4, type Subnet } from '../../src/ip.ts'
import type { Logger } from '../../src/log.ts'
import { EtcdClient, type EtcdClientOptions } from '../../src/subnet/etcd/client.ts'
import { parseEndpoints } from '../../src/subnet/etcd/endpoints.ts'
import { EtcdRegistry } from '../../src/subnet/etcd/registry.ts'
import type { Lease, LeaseAttributes } from '../../src/subnet/lease.ts'

export const PREFIX = '/coreos.com/network'
export const SUBNETS = `${PREFIX}/subnets`

export function ip(text: string): Ipv4 {
  const address = parseIpv4(text)
  if (address === undefined) throw new Error(`no address: ${text}`)
  return address
}

export function subnet(text: string): Subnet {
  const cidr = parseCidr(text)
  if (cidr === undefined) throw new Error(`no subnet: ${text}`)
  return cidr
}

export function attributes(publicIP: string, mac?: string): LeaseAttributes {
  return {
    publicIP: ip(publicIP),
    backendType: mac === undefined ? '' : 'vxlan',
    backendData: mac === undefined ? undefined : { VtepMAC: mac },
  }
}

export function lease(cidr: string, publicIP: string, more: Partial<Lease> = {}): Lease {
  return { subnet: subnet(cidr), attributes: attributes(publicIP), ttl: 86_400, modifiedIndex: 7, ...more }
}

/** Collects what is logged as `level message`. */
export class LogLines implements Logger {
  readonly lines: string[] = []
  readonly trace = (message: string): void => this.#add('trace', message)
  readonly debug = (message: string): void => this.#add('debug', message)
  readonly info = (message: string): void => this.#add('info', message)
  readonly warn = (message: string): void => this.#add('warn', message)
  readonly error = (message: string): void => this.#add('error', message)

  matching(pattern: RegExp): string[] {
    return this.lines.filter((line) => pattern.test(line))
  }

  #add(level: string, message: string): void {
    if (message.includes('\n')) throw new Error(`a log line of several lines: ${message}`)
    this.lines.push(`${level} ${message}`)
  }
}

/** A clock that stands still until it is turned. */
export class ManualClock implements Clock {
  #now = 1_000
  #wall = Date.UTC(2026, 10, 24)
  readonly #sleepers = new Set<{ readonly until: number; readonly wake: () => void }>()

  readonly now = (): number => this.#now
  readonly wall = (): number => this.#wall + this.#now

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      if (signal?.aborted === true) return resolve()
      const sleeper = { until: this.#now + ms, wake: () => done() }
      const done = (): void => {
        this.#sleepers.delete(sleeper)
        signal?.removeEventListener('abort', done)
        resolve()
      }
      this.#sleepers.add(sleeper)
      signal?.addEventListener('abort', done)
    })
  }

  /** Sets the wall clock, as a suspension does and people do. */
  jump(ms: number): void {
    this.#wall += ms
  }

  get sleeping(): number {
    return this.#sleepers.size
  }

  advance(ms: number): void {
    this.#now += ms
    for (const sleeper of [...this.#sleepers]) if (sleeper.until <= this.#now) sleeper.wake()
  }
}

/** Waits for a condition; the limit only ends a test that would hang. */
export async function until(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
  const end = performance.now() + 10_000
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`never came true: ${what}`)
    await setImmediate()
  }
}

export function openClient(urls: string, options: Partial<EtcdClientOptions> = {}): EtcdClient {
  return new EtcdClient({
    endpoints: parseEndpoints(urls),
    username: '',
    password: '',
    tls: { caFile: '', certFile: '', keyFile: '' },
    log: new LogLines(),
    random: () => 0,
    vigilMs: 0,
    doubtMs: 60_000,
    ...options,
  })
}

export function openRegistry(client: EtcdClient, watchIdleMs?: number): EtcdRegistry {
  return new EtcdRegistry(client, PREFIX, watchIdleMs)
}
