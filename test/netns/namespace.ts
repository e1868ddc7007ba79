import type { ChildProcess, SpawnOptions } from 'node:child_process'
import { run, start } from './process.ts'

/** A named network namespace (`ip netns`), with short ways to run programs in it. */
export class Namespace {
  readonly name: string

  private constructor(name: string) {
    this.name = name
  }

  static async create(name: string): Promise<Namespace> {
    await run(['ip', 'netns', 'add', name])
    await run(['ip', '-n', name, 'link', 'set', 'lo', 'up'])
    return new Namespace(name)
  }

  /** Runs a program in the namespace and resolves to its standard output. */
  run(...argv: string[]): Promise<string> {
    return run(['nsenter', `--net=/run/netns/${this.name}`, ...argv])
  }

  /** Starts a program in the namespace that dies with this process. The caller stops it. */
  start(argv: readonly string[], options: SpawnOptions = {}): ChildProcess {
    return start(argv, options, this.name)
  }

  /** `ip` with these words, e.g. `ip('link set eth0 down')`; no quoting, so no word may hold a space. */
  ip(words: string): Promise<string> {
    return run(['ip', '-n', this.name, ...words.split(' ')])
  }

  /** Many `ip` commands, one a line, in one process. Stops at the first that fails. */
  ipBatch(lines: readonly string[]): Promise<string> {
    return run(['ip', '-n', this.name, '-batch', '-'], `${lines.join('\n')}\n`)
  }

  /** `ip -j` with these words, parsed. */
  async ipJson<T>(words: string): Promise<readonly T[]> {
    return JSON.parse((await this.ip(`-d -j ${words}`)) || '[]')
  }

  bridge(words: string): Promise<string> {
    return run(['bridge', '-n', this.name, ...words.split(' ')])
  }

  async bridgeJson<T>(words: string): Promise<readonly T[]> {
    return JSON.parse((await this.bridge(`-j ${words}`)) || '[]')
  }

  /** `ip -4 route show` in the main table, optionally of one device, one line each. */
  async routes(device?: string): Promise<readonly string[]> {
    return lines(await this.ip(`-4 route show${device === undefined ? '' : ` dev ${device}`}`))
  }

  /** Permanent ARP entries of one device, one line each. */
  async neighbours(device: string): Promise<readonly string[]> {
    return lines(await this.ip(`-4 neigh show dev ${device} nud permanent`))
  }

  /** FDB entries of one device, one line each. */
  async fdb(device: string): Promise<readonly string[]> {
    return lines(await this.bridge(`fdb show dev ${device}`))
  }

  /** Whether one ICMP echo to `address` is answered within `seconds`. */
  async ping(address: string, seconds = 1): Promise<boolean> {
    const answered = this.run('ping', '-n', '-q', '-c', '1', '-W', String(seconds), address)
    return answered.then(
      () => true,
      () => false,
    )
  }

  async remove(): Promise<void> {
    await run(['ip', 'netns', 'del', this.name])
  }
}

/** The non-empty lines of a tool's output, trimmed. */
export function lines(text: string): readonly string[] {
  return text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '')
}
