/**
 * Somebody else rewrites the firewall of a running node: our rules come back, each once and in order, foreign ones stay as
 * they are, and while nothing differs nothing is written. iptables-nft tells of changes; iptables-legacy does not, and is
 * looked at every -iptables-resync.
 */
import { mkdirSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { statusOf } from './control.ts'
import { type Daemon, Lab, monotonic, type Namespace, waitFor } from './lab.ts'
import { lines } from './namespace.ts'
import { run } from './process.ts'
import { settled } from './settled.ts'

vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 })

const NETWORK = '172.30.0.0/16'
const FOREIGN = '-A POSTROUTING -s 192.0.2.0/24 -o eth0 -j ACCEPT'

interface Firewall {
  /** `iptables` of the variant with these words. */
  iptables(words: string): Promise<string>
  /** Our rules and foreign ones, as iptables-save prints them. */
  rules(): Promise<readonly string[]>
  /** Replaces all rules by the foreign ones, as firewalld does when it is told to reload. */
  reload(): Promise<unknown>
}

interface Fault {
  readonly what: string
  readonly by: (firewall: Firewall) => Promise<unknown>
}

const FIRST = `-s ${NETWORK} -d ${NETWORK} -j RETURN`

const FAULTS: readonly Fault[] = [
  { what: 'the chain of nat is flushed', by: ({ iptables }) => iptables('-t nat -F POSTROUTING') },
  { what: 'the chain of filter is flushed', by: ({ iptables }) => iptables('-F FORWARD') },
  {
    what: 'both tables are flushed',
    by: async ({ iptables }) => {
      await iptables('-t nat -F')
      await iptables('-F')
    },
  },
  { what: 'a rule is deleted', by: ({ iptables }) => iptables(`-t nat -D POSTROUTING ${FIRST}`) },
  { what: 'a rule is there twice', by: ({ iptables }) => iptables(`-t nat -A POSTROUTING ${FIRST}`) },
  {
    what: 'a rule is moved behind a foreign one',
    by: async ({ iptables }) => {
      await iptables('-t nat -A POSTROUTING -s 198.51.100.0/24 -j RETURN')
      await iptables(`-t nat -D POSTROUTING ${FIRST}`)
      await iptables(`-t nat -A POSTROUTING ${FIRST}`)
    },
  },
  { what: 'the whole ruleset is replaced', by: ({ reload }) => reload() },
]

describe.each([
  // After a look that took long on a busy machine, the next one waits ten times as long, but no longer than a period.
  { variant: 'nft', resync: 3600, soon: 30_000 },
  { variant: 'legacy', resync: 1, soon: 5_000 },
])('with iptables-$variant', ({ variant, resync, soon }) => {
  let lab: Lab
  let node: Namespace
  let daemon: Daemon
  let firewall: Firewall
  let ours: readonly string[]
  const took: number[] = []

  const ofOurs = async (): Promise<readonly string[]> =>
    (await firewall.rules()).filter((rule) => rule.includes('172.30.'))
  const repairs = async (): Promise<number> => (await statusOf(daemon)).firewall.repairs

  beforeAll(async () => {
    lab = await Lab.create({ nodes: 1 })
    node = lab.node(1)
    const programs = join(lab.dir, 'bin')
    mkdirSync(programs)
    for (const suffix of ['', '-save', '-restore']) {
      const found = (await run(['sh', '-c', `command -v iptables-${variant}${suffix}`])).trim()
      symlinkSync(found, join(programs, `iptables${suffix}`))
    }
    const PATH = `${programs}:${process.env.PATH}`
    const env = { PATH, XTABLES_LOCKFILE: join(lab.dir, 'lock') }
    const set = Object.entries(env).map(([name, value]) => `${name}=${value}`)
    const inside = (words: string): Promise<string> => node.run('env', ...set, 'sh', '-c', words)
    firewall = {
      iptables: (words) => inside(`iptables -w ${words}`),
      rules: async () => lines(await inside('iptables-save')).filter((line) => line.startsWith('-A')),
      reload: () =>
        variant === 'nft'
          ? inside(
              `(echo flush ruleset; sed -n '/^table/,$p' ${lab.dir}/foreign) > ${lab.dir}/all && nft -f ${lab.dir}/all`,
            )
          : inside(`iptables-restore -w < ${lab.dir}/foreign`),
    }
    await firewall.iptables('-t nat -A POSTROUTING -s 192.0.2.0/24 -o eth0 -j ACCEPT')
    await firewall.iptables('-A FORWARD -d 192.0.2.0/24 -j ACCEPT')
    await inside(`${variant === 'nft' ? 'nft list ruleset' : 'iptables-save'} > ${lab.dir}/foreign`)
    await (await lab.startEtcd()).config(`{"Network":"${NETWORK}","Backend":{"Type":"vxlan"}}`)
    daemon = await lab.daemon(1, { args: ['-ip-masq', '-iptables-resync', String(resync)], env })
    await daemon.waitReady()
    await settled(lab, daemon, 1)
    await waitFor(async () => (await ofOurs()).length === 6, { what: 'our six rules' })
    ours = await ofOurs()
  })
  afterAll(() => lab?.close())

  test.each(FAULTS)('$what', async ({ by }) => {
    const since = daemon.log().length
    const before = await repairs()
    await by(firewall)
    const at = monotonic()
    let found: readonly string[] = []
    const back = async (): Promise<boolean> => {
      found = await ofOurs()
      return found.join('\n') === ours.join('\n') && (await repairs()) > before
    }
    await waitFor(back, {
      what: () => `our rules: ${found.join('; ')}\n${daemon.log().slice(since)}`,
      timeout: soon,
    })
    took.push(monotonic() - at)
    if (!(await firewall.rules()).includes(FOREIGN))
      await firewall.iptables('-t nat -A POSTROUTING -s 192.0.2.0/24 -o eth0 -j ACCEPT')
    expect(daemon.log().slice(since)).toMatch(/(Adding|Deleting) iptables rule: .*172\.30\./)
    await firewall.iptables('-t nat -D POSTROUTING -s 198.51.100.0/24 -j RETURN').catch(() => undefined)
  })

  test('nothing is written while nothing differs, however often it is looked at', async () => {
    await waitFor(async () => (await ofOurs()).join('\n') === ours.join('\n'), { what: 'calm' })
    const monitor = node.start(['nft', 'monitor'], { stdio: ['ignore', 'pipe', 'ignore'] })
    lab.onClose(() => void monitor.kill('SIGKILL'))
    let heard = ''
    monitor.stdout?.on('data', (part: Buffer) => {
      heard += part
    })
    // A table of somebody else tells that it listens; iptables-nft says nothing new then, and our daemon looks.
    await waitFor(
      async () => {
        await node.run('nft', 'add table ip marker; delete table ip marker')
        return heard.includes('marker')
      },
      { what: 'nft monitor to listen', interval: 100 },
    )
    const before = await repairs()
    const { checks } = (await statusOf(daemon)).firewall
    await waitFor(
      async () => {
        if (variant === 'nft') await node.run('nft', 'add table ip marker; delete table ip marker')
        return (await statusOf(daemon)).firewall.checks >= checks + 3
      },
      { what: 'three more looks', interval: 200, timeout: 20_000 },
    )
    expect(
      lines(heard).filter((line) => /^(add|delete|insert|replace)/.test(line) && !line.includes('marker')),
    ).toEqual([])
    expect(await repairs()).toBe(before)
    expect(await ofOurs()).toEqual(ours)
    const sorted = [...took].sort((a, b) => a - b)
    process.stdout.write(
      `iptables-${variant}: rules back after ${sorted[sorted.length >> 1]?.toFixed(0)} ms (median of ${sorted.length})\n`,
    )
  })
})
