import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import type { CommandContext } from '../../src/commands/command.ts'
import { runCommand } from '../../src/commands/commands.ts'
import { COMMANDS } from '../../src/commands/names.ts'
import { optionTable } from '../../src/options.ts'

async function run(...args: string[]): Promise<{ status: number; out: string; err: string }> {
  let [out, err] = ['', '']
  const context: CommandContext = {
    env: {},
    version: 'v1',
    out: { write: (text) => (out += text) },
    err: { write: (text) => (err += text) },
  }
  return { status: await runCommand('completion', args, context), out, err }
}

/** What bash offers for the last word. */
async function offers(...line: string[]): Promise<string[]> {
  const { out } = await run('bash')
  const words = line.map((word) => `'${word}'`).join(' ')
  const script = `${out}\nCOMP_WORDS=(${words}); COMP_CWORD=${line.length - 1}; _flanneld; printf '%s\\n' "\${COMPREPLY[@]}"`
  return execFileSync('bash', ['-c', script], { encoding: 'utf8' }).trim().split('\n')
}

describe('bash', () => {
  it.each<[string[], string[]]>([
    [['flanneld', 'st'], ['status']],
    [
      ['flanneld', '-etcd-c'],
      ['-etcd-cafile', '-etcd-certfile'],
    ],
    [['flanneld', '-ip-masq', '-log-f'], ['-log-format']],
    [
      ['flanneld', '-log-format', ''],
      ['text', 'json'],
    ],
    [['flanneld', '-iface', 'l'], ['lo']],
    [['flanneld', '-etcd-cafile', '/etc/pass'], ['/etc/passwd']],
    [['flanneld', 'log-level', 'd'], ['debug']],
    [
      ['flanneld', 'completion', ''],
      ['bash', 'zsh', 'fish'],
    ],
    [['flanneld', 'status', '-j'], ['-json']],
    [['flanneld', 'status', 'st'], ['']],
  ])('%j', async (line, expected) => {
    expect(await offers(...line)).toEqual(expect.arrayContaining(expected))
  })
})

describe.each(['bash', 'zsh', 'fish'])('%s', (shell) => {
  it('knows every flag and command', async () => {
    const { status, out } = await run(shell)
    expect(status).toBe(0)
    for (const name of Object.keys(optionTable)) expect(out).toMatch(new RegExp(`(-|-o )${name}\\b`))
    for (const name of Object.keys(COMMANDS)) expect(out).toContain(name)
  })

  it('parses, where the shell is there', async ({ skip }) => {
    if (spawnSync(shell, ['-c', 'true']).error !== undefined) skip(`there is no ${shell} here`)
    const { out } = await run(shell)
    const dir = mkdtempSync(join(tmpdir(), 'flannel-completion-'))
    onTestFinished(() => rmSync(dir, { recursive: true }))
    writeFileSync(join(dir, 'script'), out)
    execFileSync(shell, ['-n', join(dir, 'script')])
  })
})

it.each([[], ['csh'], ['bash', 'zsh'], ['toString']])('%j is a usage error', async (...args) => {
  expect(await run(...args)).toMatchObject({
    status: 2,
    out: '',
    err: expect.stringContaining('name one shell: bash, zsh, fish'),
  })
})

it('-help goes to standard error', async () => {
  const { status, out, err } = await run('-help')
  expect([status, out]).toEqual([0, ''])
  expect(err).toMatch(/^Usage: flanneld completion \[OPTION\]\.\.\. bash\|zsh\|fish\n/)
})
