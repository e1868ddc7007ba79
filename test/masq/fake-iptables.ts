/**
 * The iptables programs over chains in memory: as much as `src/masq` uses, and as strict as the real ones. The
 * cases of `chains.ts` run against this and against both real variants, so that it cannot drift.
 */
import { CommandError, type CommandOptions, type CommandOutput, type Runner } from '../../src/masq/exec.ts'

export interface FakeCall {
  readonly command: string
  readonly args: readonly string[]
  readonly input: string | undefined
}

export class FakeIptables {
  version = 'iptables v1.8.9 (nf_tables)\n'
  readonly chains = new Map<string, string[]>([
    ['nat POSTROUTING', []],
    ['filter FORWARD', []],
  ])
  readonly calls: FakeCall[] = []
  /** Taken from the front, one for each call: an error to fail with, or undefined to go on. */
  readonly faults: (CommandError | undefined)[] = []
  /** What each call waits for before it answers. */
  delay: (() => Promise<void>) | undefined
  /** Lines put before the dump, as from `iptables-save`. */
  preamble = ''
  /** Tables that cannot be listed. */
  readonly hidden = new Set<string>()

  readonly run: Runner = async (command, args, options) => {
    this.calls.push({ command, args, input: options?.input })
    await this.delay?.()
    const fault = this.faults.shift()
    if (fault) throw fault
    return { stdout: this.#answer(command, args, options), stderr: '' } satisfies CommandOutput
  }

  chain(key: string): string[] {
    const rules = this.chains.get(key)
    if (!rules) throw new Error(`no chain ${key}`)
    return rules
  }

  get writes(): string[] {
    return this.calls.flatMap((c) => (c.command === 'iptables-restore' ? [c.input ?? ''] : []))
  }

  #answer(command: string, args: readonly string[], options: CommandOptions | undefined): string {
    if (command === 'iptables-save') return this.#save()
    if (command === 'iptables-restore') return this.#restore(options?.input ?? '')
    if (args[0] === '--version') return this.version
    const [, , , table = '', action, chain = '', ...spec] = args
    const rules = this.chain(`${table} ${chain}`)
    if (action === '-S') {
      if (this.hidden.has(table)) {
        throw new CommandError(
          command,
          'failed',
          `chain \`${chain}' in table \`${table}' is incompatible, use 'nft' tool.`,
          1,
        )
      }
      return [`-P ${chain} ACCEPT`, ...rules.map((r) => `-A ${chain} ${r}`), ''].join('\n')
    }
    if (action !== '-C') throw new Error(`unexpected ${command} ${args.join(' ')}`)
    if (!rules.includes(spec.join(' '))) throw new CommandError(command, 'failed', 'Bad rule', 1)
    return ''
  }

  #save(): string {
    const out = [this.preamble]
    for (const [key, rules] of this.chains) {
      const [table = '', chain] = key.split(' ')
      if (this.hidden.has(table)) out.push(`# Table \`${table}' is incompatible, use 'nft' tool.`)
      else out.push(`*${table}`, `:${chain} ACCEPT [0:0]`, ...rules.map((r) => `-A ${chain} ${r}`), 'COMMIT')
    }
    return `${out.join('\n')}\n`
  }

  /** All of a table or nothing of it, and nothing after the first that fails. */
  #restore(input: string): string {
    for (const section of input.trimEnd().split(/(?<=\nCOMMIT)\n/)) this.#commit(section.split('\n'))
    return ''
  }

  #commit(lines: string[]): void {
    const table = lines.shift()?.slice(1) ?? ''
    if (lines.pop() !== 'COMMIT') throw new CommandError('iptables-restore', 'failed', 'COMMIT expected', 1)
    const work = new Map<string, string[]>()
    for (const line of lines) {
      const found = /^-([ADI]) (\S+) (?:(\d+) )?(.*)$/.exec(line)
      const [, action, chain = '', number, spec = ''] = found ?? []
      const key = `${table} ${chain}`
      const rules = work.get(key) ?? [...this.chain(key)]
      work.set(key, rules)
      const at = action === 'D' ? rules.indexOf(spec) : Number(number) - 1
      if (action === 'A') rules.push(spec)
      else if (action === 'D' && at >= 0) rules.splice(at, 1)
      else if (action === 'I' && at >= 0 && at <= rules.length) rules.splice(at, 0, spec)
      else throw new CommandError('iptables-restore', 'failed', `cannot do: ${line}`, 1)
    }
    for (const [key, rules] of work) this.chains.set(key, rules)
  }
}
