/**
 * The real iptables programs of one variant, run inside a network namespace, with a lock file of their own so that
 * nobody else on the machine waits for us or we for them.
 */
import { access, mkdtemp, realpath, rm, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Runner, systemRunner } from '../../src/masq/exec.ts'
import type { Namespace } from '../netns/namespace.ts'

export type VariantName = 'nft' | 'legacy'

export class Variant {
  readonly name: VariantName
  readonly namespace: Namespace
  readonly lockFile: string
  /** Command lines that were run through `run`. */
  readonly commands: string[] = []
  readonly #folder: string

  private constructor(name: VariantName, namespace: Namespace, folder: string) {
    this.name = name
    this.namespace = namespace
    this.lockFile = join(folder, 'xtables.lock')
    this.#folder = folder
  }

  /** Puts `iptables`, `iptables-save` and `iptables-restore` of the variant first in PATH. */
  static async create(name: VariantName, namespace: Namespace): Promise<Variant> {
    const folder = await mkdtemp(join(tmpdir(), 'flanneld-iptables-'))
    for (const suffix of ['', '-save', '-restore']) {
      await symlink(await find(`iptables-${name}${suffix}`), join(folder, `iptables${suffix}`))
    }
    return new Variant(name, namespace, folder)
  }

  readonly run: Runner = (command, args, options) => {
    this.commands.push([command, ...args].join(' '))
    const environment = [`PATH=${this.#folder}:${process.env.PATH}`, `XTABLES_LOCKFILE=${this.lockFile}`]
    const enter = [`--net=/run/netns/${this.namespace.name}`, 'env', ...environment]
    return systemRunner('nsenter', [...enter, command, ...args], options)
  }

  iptables(...args: string[]): Promise<string> {
    return this.run('iptables', ['-w', ...args]).then((out) => out.stdout)
  }

  /** The rules of a chain, without `-A CHAIN`. */
  async rules(table: string, chain: string): Promise<string[]> {
    const prefix = `-A ${chain} `
    const lines = (await this.iptables('-t', table, '-S', chain)).split('\n')
    return lines.filter((l) => l.startsWith(prefix)).map((l) => l.slice(prefix.length))
  }

  /** Makes a chain hold exactly these rules. */
  async fill(table: string, chain: string, rules: readonly string[]): Promise<void> {
    const lines = [`*${table}`, `-F ${chain}`, ...rules.map((r) => `-A ${chain} ${r}`), 'COMMIT', '']
    await this.run('iptables-restore', ['--noflush', '-w'], { input: lines.join('\n') })
  }

  async remove(): Promise<void> {
    await rm(this.#folder, { recursive: true })
  }
}

async function find(program: string): Promise<string> {
  for (const folder of (process.env.PATH ?? '').split(':').concat('/usr/sbin', '/sbin')) {
    const path = join(folder, program)
    const there = await access(path).then(
      () => true,
      () => false,
    )
    if (there) return realpath(path)
  }
  throw new Error(`${program} is not installed`)
}
