import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Command, MAX_OUTPUT, runCommand } from '../../../src/backend/extension/command.ts'
import { waitFor } from '../../netns/wait.ts'

const PATH = process.env.PATH ?? ''
let dir: string

beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'flannel-command-'))
})
afterAll(() => rmSync(dir, { recursive: true, force: true }))

function run(line: string, changes: Partial<Command> = {}, signal = new AbortController().signal) {
  return runCommand({ line, env: { PATH }, input: '\n', timeout: 20_000, ...changes }, signal)
}

/** Whether a process has ended; one that nobody has waited for yet has, too. */
function gone(pid: string): boolean {
  return !existsSync(`/proc/${pid}`) || /\) Z /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
}

describe('a command', () => {
  it.each<[string, string, string]>([
    ['says what it says, without space around it', 'echo; echo "  a  b "; echo', 'a  b'],
    ['says both its outputs in their order', 'echo 1; echo 2 >&2; echo 3', '1\n2\n3'],
    ['is a program of the shell', 'x=`echo $((6 * 7))`; [ -n "$x" ] && echo "$x" | tr 2 3', '43'],
    ['may hold quotes and line ends', "printf '%s|' 'a\"b' \"c'd\"\necho e", 'a"b|c\'d|e'],
    ['has its own words only, no parameters', 'echo "$#"', '0'],
    ['need not read its input', 'exec <&-; echo done', 'done'],
  ])('%s', async (_, line, output) => {
    expect(await run(line, { input: 'x'.repeat(100_000) })).toEqual({ kind: 'done', output })
  })

  it('sees the variables that it is given, and no others', async () => {
    const outcome = await run('env', { env: { PATH, SUBNET: '10.1.2.0/24', PUBLIC_IP: '192.0.2.1' } })
    const names = outcome.output.split('\n').map((line) => line.replace(/=.*/, ''))
    // The last two are the shell's.
    expect(names.filter((name) => name !== 'PWD' && name !== '_').sort()).toEqual([
      'PATH',
      'PUBLIC_IP',
      'SUBNET',
    ])
  })

  it.each([0, 1, 65_535, 65_536, 65_537, 1_000_000])(
    'gets %i bytes of data and says them again',
    async (size) => {
      const input = `${'d'.repeat(size)}\n`
      expect(await run('cat', { input })).toEqual({ kind: 'done', output: 'd'.repeat(size) })
    },
  )

  it('that says more than a lease can hold fails, and holds up nothing', async () => {
    const outcome = await run(`yes | head -c ${3 * MAX_OUTPUT}`)
    expect(outcome).toMatchObject({ kind: 'failed', reason: `said more than ${MAX_OUTPUT} bytes` })
    expect(outcome.output.length).toBeLessThanOrEqual(MAX_OUTPUT)
  })

  it.each<[string, string, string]>([
    ['exits with a status', 'echo sorry; exit 3', 'exit status 3'],
    ['is not there', '/no/such/program', 'exit status 127'],
    ['is no program', 'if', 'exit status 2'],
    ['is killed', 'kill -9 $$', 'ended by SIGKILL'],
  ])('that %s fails with a reason', async (_, line, reason) => {
    expect(await run(line)).toMatchObject({ kind: 'failed', reason })
  })

  it('that does not end is ended, with all that it started and whatever it ignores', async () => {
    const pids = join(dir, 'pids')
    const line = `trap '' TERM; (trap '' TERM; sleep 1000) & echo $$ $! > ${pids}; echo begun; wait; sleep 1000`
    const outcome = await run(line, { timeout: 300 })
    expect(outcome).toEqual({ kind: 'failed', reason: 'not finished after 0.3 s', output: 'begun' })
    for (const pid of readFileSync(pids, 'utf8').trim().split(' '))
      await waitFor(() => gone(pid), { what: `the end of ${pid}` })
  })

  it('is ended when the daemon stops', async () => {
    const stop = new AbortController()
    const running = run('echo begun; sleep 1000', {}, stop.signal)
    stop.abort()
    expect(await running).toMatchObject({ kind: 'failed', reason: 'flanneld is stopping' })
    expect(await run('true', {}, stop.signal)).toMatchObject({ kind: 'failed' })
  })

  it('may leave a program running in the background', async () => {
    const outcome = await run('sleep 1000 & echo $!')
    expect(outcome.kind).toBe('done')
    expect(gone(outcome.output)).toBe(false)
    process.kill(Number(outcome.output), 'SIGKILL')
  })
})
