import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { maskArguments, PasswordFileError, readPasswordFile } from '../src/secrets.ts'
import { Lab } from './netns/lab.ts'
import { LogLines } from './subnet/support.ts'

describe('the password for etcd', () => {
  const folder = mkdtempSync(join(tmpdir(), 'secrets-'))
  const file = join(folder, 'etcd-password')
  const log = new LogLines()
  afterAll(() => rmSync(folder, { recursive: true }))

  it.each([
    ['s3cret', 's3cret'],
    ['s3cret\n', 's3cret'],
    [' two words\r\n', ' two words'],
    ['', ''],
  ])('%j in a file is %j', (content, password) => {
    writeFileSync(file, content, { mode: 0o600 })
    expect(readPasswordFile(file, {}, log)).toBe(password)
    expect(readPasswordFile('', { CREDENTIALS_DIRECTORY: folder }, log)).toBe(password)
    expect(log.lines).toEqual([])
  })

  it('is none without a file and without a credential of that name', () => {
    expect(readPasswordFile('', {}, log)).toBe('')
    expect(readPasswordFile('', { CREDENTIALS_DIRECTORY: '/proc' }, log)).toBe('')
  })

  it('is asked for in vain in one line', () => {
    const read = (path: string) => () => readPasswordFile(path, {}, log)
    expect(read('/nowhere')).toThrow(/^-etcd-password-file: ENOENT.*'\/nowhere'$/)
    expect(read(folder)).toThrow(PasswordFileError)
  })

  it('in a file for everybody is warned of', () => {
    chmodSync(file, 0o644)
    readPasswordFile(file, {}, log)
    expect(log.lines).toEqual([
      expect.stringMatching(/^warn -etcd-password-file: every user .* chmod 600 it/),
    ])
  })
})

it.each([
  [
    ['-etcd-password=p', '-ip-masq'],
    ['-etcd-password=***', '-ip-masq'],
  ],
  [
    ['--etcd-password', 'p', '-v', '1'],
    ['--etcd-password', '***', '-v', '1'],
  ],
  [['-etcd-password=a\nb'], ['-etcd-password=***']],
  [
    ['-etcd-endpoints=http://u:p@a:1,https://v:q@b:2'],
    ['-etcd-endpoints=http://u:***@a:1,https://v:***@b:2'],
  ],
  [
    ['-etcd-endpoints=http://a:1,http://u:p@w@b:2,http://c/@'],
    ['-etcd-endpoints=http://a:1,http://u:***@b:2,http://c/@'],
  ],
  [['-etcd-endpoints=http://[::1]:2379', '-etcd-password-file', '/p', '-etcd-password='], undefined],
])('%j is shown as %j', (args, masked) => {
  expect(maskArguments(args)).toEqual(masked)
})

describe('a running daemon', () => {
  let lab: Lab
  beforeAll(async () => {
    lab = await Lab.create()
    await lab.startEtcd()
    await lab.etcd.config({ Network: '10.5.0.0/16', Backend: { Type: 'vxlan' } })
  })
  afterAll(() => lab.close())

  it('shows its password neither to ps nor in its log, and keeps its name', async () => {
    const daemon = await lab.daemon(1, { args: ['-etcd-username', 'u', '-etcd-password', 'hunter2', '-v=4'] })
    await daemon.waitReady()
    const proc = (name: string): string => readFileSync(`/proc/${daemon.pid}/${name}`, 'utf8')
    expect(proc('cmdline')).toMatch(/^flanneld .*-etcd-password \*\*\* -v=4\0*$/)
    expect(proc('comm')).toBe('flanneld\n')
    expect(daemon.log()).toContain('-etcd-password on a command line can be read by every user')
    expect(daemon.log()).not.toMatch(/hunter2|dTpodW50ZXIy/)
    await daemon.stop()
  })

  it('says in one line which password file it cannot read', async () => {
    const daemon = await lab.daemon(1, { args: ['-etcd-password-file', '/nowhere'] })
    expect(await daemon.exited()).toEqual({ code: 1, signal: null })
    expect(daemon.log().trim().split('\n').at(-1)).toMatch(/error -etcd-password-file: ENOENT.*'\/nowhere'$/)
  })
})
