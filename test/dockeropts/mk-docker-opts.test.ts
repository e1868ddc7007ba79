import { spawnSync } from 'node:child_process'
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'

const script = new URL('../../bin/mk-docker-opts.sh', import.meta.url).pathname

/** Each in its own way: dash is Debian's sh, bash is Fedora's (as sh: --posix), and people type `bash script`. */
const shells: readonly (readonly string[])[] = [['dash'], ['bash', '--posix'], ['bash']]

const subnet = 'FLANNEL_SUBNET=10.1.74.1/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=false\n'
const bip = 'DOCKER_OPT_BIP="--bip=10.1.74.1/24"\n'
const masq = 'DOCKER_OPT_IPMASQ="--ip-masq=true"\n'
const mtu = 'DOCKER_OPT_MTU="--mtu=1472"\n'
const all = '--bip=10.1.74.1/24 --ip-masq=true --mtu=1472'

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'mk-docker-opts-'))
})
afterEach(() => {
  rmSync(folder, { recursive: true })
})

describe.each(shells.map((words) => ({ words, name: words.join(' ') })))('$name', ({ words }) => {
  const [shell = '', ...options] = words

  interface Call {
    readonly args?: readonly string[]
    /** Content of the subnet file; undefined for none. */
    readonly input?: string | undefined
    readonly env?: Readonly<Record<string, string>>
    readonly output?: string
  }

  function run({ args = [], input, env = {}, output = join(folder, 'out') }: Call) {
    const file = join(folder, 'subnet.env')
    if (input !== undefined) writeFileSync(file, input)
    const command = [...options, script, '-f', file, '-d', output, ...args]
    const path = process.env.PATH ?? ''
    const { status, stderr, stdout } = spawnSync(shell, command, {
      env: { PATH: path, ...env },
      cwd: folder,
      encoding: 'utf8',
    })
    return { status, stderr, stdout, text: existsSync(output) ? readFileSync(output, 'utf8') : undefined }
  }

  const clean = (text: string) => ({ status: 0, stderr: '', stdout: '', text })

  test('is valid in this shell', () => {
    expect(spawnSync(shell, [...options, '-n', script]).status).toBe(0)
  })

  test.each<[string, Call, string]>([
    ['no option', {}, `${bip}${masq}${mtu}DOCKER_OPTS=" ${all}"\n`],
    ['-i -c', { args: ['-i', '-c'] }, `${bip}${masq}${mtu}DOCKER_OPTS=" ${all}"\n`],
    ['-ic', { args: ['-ic'] }, `${bip}${masq}${mtu}DOCKER_OPTS=" ${all}"\n`],
    ['-i', { args: ['-i'] }, `${bip}${masq}${mtu}`],
    ['-c', { args: ['-c'] }, `DOCKER_OPTS=" ${all}"\n`],
    ['-k MYKEY', { args: ['-k', 'MYKEY'] }, `${bip}${masq}${mtu}MYKEY=" ${all}"\n`],
    ['-c -k MYKEY', { args: ['-c', '-k', 'MYKEY'] }, `MYKEY=" ${all}"\n`],
    ['-i -k MYKEY', { args: ['-i', '-k', 'MYKEY'] }, `${bip}${masq}${mtu}`],
    ['-m', { args: ['-m'] }, `${bip}${mtu}DOCKER_OPTS=" --bip=10.1.74.1/24 --mtu=1472"\n`],
    [
      'an existing value of the key',
      { args: ['-c'], env: { DOCKER_OPTS: '--debug' } },
      `DOCKER_OPTS="--debug  ${all}"\n`,
    ],
    [
      'an existing value in the file',
      { args: ['-c'], input: `${subnet}DOCKER_OPTS=--debug\n` },
      `DOCKER_OPTS="--debug  ${all}"\n`,
    ],
    [
      'an existing value of another key',
      { args: ['-c', '-k', 'MYKEY'], env: { DOCKER_OPTS: '--debug', MYKEY: '-D' } },
      `MYKEY="-D  ${all}"\n`,
    ],
    [
      'FLANNEL_IPMASQ=true',
      { input: subnet.replace('false', 'true') },
      `${bip}${masq.replace('true', 'false')}${mtu}DOCKER_OPTS=" ${all.replace('true', 'false')}"\n`,
    ],
    [
      'only a subnet',
      { input: 'FLANNEL_SUBNET=10.1.74.1/24\n' },
      `${bip}DOCKER_OPTS=" --bip=10.1.74.1/24"\n`,
    ],
    [
      'FLANNEL_IPMASQ empty',
      { input: 'FLANNEL_SUBNET=10.1.74.1/24\nFLANNEL_IPMASQ=\n' },
      `${bip}DOCKER_OPTS=" --bip=10.1.74.1/24"\n`,
    ],
    ['-m hides a bad FLANNEL_IPMASQ', { args: ['-m', '-i'], input: 'FLANNEL_IPMASQ=maybe\n' }, ''],
    ['an empty file', { input: '' }, 'DOCKER_OPTS=""\n'],
    ['an empty file, -i', { args: ['-i'], input: '' }, ''],
    [
      'variables of the environment',
      { input: '', env: { FLANNEL_MTU: '1400', DOCKER_OPT_BIP: '--bip=10.9.9.1/24' } },
      'DOCKER_OPT_BIP="--bip=10.9.9.1/24"\nDOCKER_OPT_MTU="--mtu=1400"\nDOCKER_OPTS=" --bip=10.9.9.1/24 --mtu=1400"\n',
    ],
    ['the file beats DOCKER_OPT_BIP', { args: ['-i'], env: { DOCKER_OPT_BIP: 'x' } }, `${bip}${masq}${mtu}`],
    [
      'other options, in ASCII order',
      {
        env: { DOCKER_OPT_ZED: 'z', DOCKER_OPT_a: '1', DOCKER_OPT__: '2', DOCKER_OPT_D: '--dns=192.0.2.53' },
      },
      `${bip}DOCKER_OPT_D="--dns=192.0.2.53"\n${masq}${mtu}DOCKER_OPT_ZED="z"\nDOCKER_OPT__="2"\nDOCKER_OPT_a="1"\n` +
        'DOCKER_OPTS=" --bip=10.1.74.1/24 --dns=192.0.2.53 --ip-masq=true --mtu=1472 z 2 1"\n',
    ],
    [
      'an empty option',
      { input: '', env: { DOCKER_OPT_A: '', DOCKER_OPT_B: 'b' } },
      'DOCKER_OPT_A=""\nDOCKER_OPT_B="b"\nDOCKER_OPTS="  b"\n',
    ],
    ['positional arguments', { args: ['-c', 'x', '-i'] }, `DOCKER_OPTS=" ${all}"\n`],
    ['the last -k', { args: ['-c', '-k', 'A', '-kB'] }, `B=" ${all}"\n`],
  ])('%s', (_, call, text) => {
    expect(run({ input: subnet, ...call })).toEqual(clean(text))
  })

  describe('where flannel is at a loss', () => {
    test('a value with spaces stays whole', () => {
      const env = { DOCKER_OPT_LOG: "--log-opt  tag='a b'" }
      expect(run({ input: '', env })).toEqual(
        clean(`DOCKER_OPT_LOG="--log-opt  tag='a b'"\nDOCKER_OPTS=" --log-opt  tag='a b'"\n`),
      )
    })

    test('whatever a value holds, a shell that sources the output finds it again', () => {
      const nasty = 'a "b" $HOME `id` \\n \\\\ $(id) * ; # é\nDOCKER_OPT_FAKE=1\nDOCKER_OPT_NASTY=x'
      const { status, stderr } = run({ input: '', env: { DOCKER_OPT_NASTY: nasty } })
      expect([status, stderr]).toEqual([0, ''])
      const print = '. ./out; printf %s "$DOCKER_OPT_NASTY|$DOCKER_OPTS|$DOCKER_OPT_FAKE"'
      const read = spawnSync(shell, ['-c', print], { cwd: folder, env: {}, encoding: 'utf8' })
      expect(read.stdout).toBe(`${nasty}| ${nasty}|`)
      expect(readFileSync(join(folder, 'out'), 'utf8').split('DOCKER_OPT_NASTY="')).toHaveLength(2)
    })

    test('a variable that only contains DOCKER_OPT_ is none of ours', () => {
      const env = { FOO_DOCKER_OPT_X: '1', FOO: 'DOCKER_OPT_Y=2', DOCKER_OPT: '3', DOCKER_OPT_: '4' }
      expect(run({ input: '', env })).toEqual(clean('DOCKER_OPTS=""\n'))
    })

    test('a missing input is none', () => {
      expect(run({})).toEqual(clean('DOCKER_OPTS=""\n'))
    })

    test('so is a directory', () => {
      mkdirSync(join(folder, 'subnet.env'))
      expect(run({})).toEqual(clean('DOCKER_OPTS=""\n'))
    })

    test('names without a slash are in the working directory', () => {
      writeFileSync(join(folder, 'in'), subnet)
      expect(run({ args: ['-c', '-f', 'in', '-d', 'here'] })).toMatchObject({ status: 0, stderr: '' })
      expect(readFileSync(join(folder, 'here'), 'utf8')).toBe(`DOCKER_OPTS=" ${all}"\n`)
    })

    test('a missing output directory is made', () => {
      expect(run({ input: subnet, args: ['-c'], output: join(folder, 'a b/c/out') })).toEqual(
        clean(`DOCKER_OPTS=" ${all}"\n`),
      )
    })

    test.each(['-i', '-c'])('an output directory that cannot be made is an error with %s', (arg) => {
      const { status, stderr } = run({ input: subnet, args: [arg], output: join(folder, 'subnet.env/out') })
      expect(status).toBe(1)
      expect(stderr).toContain(`cannot make the directory of ${folder}/subnet.env/out`)
    })

    test('a directory is no output', () => {
      const { status, stderr } = run({ input: subnet, args: ['-d', folder] })
      expect([status, stderr]).toEqual([1, `${script}: cannot write ${folder}: it is a directory\n`])
      expect(readdirSync(folder)).toEqual(['subnet.env'])
    })

    test.each(['bad-key', '1KEY', '', 'A;id'])('the key %j is refused', (key) => {
      const { status, stderr, text } = run({ input: subnet, args: ['-k', key] })
      expect([status, text]).toEqual([1, undefined])
      expect(stderr).toBe(`${script}: -k ${key}: not the name of a variable\n`)
    })
  })

  test('a bad FLANNEL_IPMASQ exits 1 and leaves the output alone', () => {
    writeFileSync(join(folder, 'out'), 'old\n')
    expect(run({ input: `${subnet}FLANNEL_IPMASQ=maybe\n` })).toEqual({
      status: 1,
      stderr: 'Invalid value of FLANNEL_IPMASQ: maybe\n',
      stdout: '',
      text: 'old\n',
    })
  })

  test.each([['-h'], ['-?'], ['-x'], ['-f'], ['-k']])('%s prints the usage on stderr and exits 1', (arg) => {
    const { status, stderr, stdout, text } = run({ args: [arg] })
    expect([status, stdout, text]).toEqual([1, '', undefined])
    expect(stderr).toContain(`Usage: ${script} [-f SUBNET-FILE]`)
  })

  test('the output is renamed into place, 0666 less the umask, and nothing else stays', () => {
    writeFileSync(join(folder, 'out'), 'old'.repeat(1000))
    const before = statSync(join(folder, 'out')).ino
    expect(run({ input: subnet, args: ['-c'] })).toEqual(clean(`DOCKER_OPTS=" ${all}"\n`))
    const { ino, mode } = statSync(join(folder, 'out'))
    expect(ino).not.toBe(before)
    expect(mode & 0o777).toBe(0o666 & ~process.umask())
    expect(readdirSync(folder).sort()).toEqual(['out', 'subnet.env'])
  })

  test('a symbolic link stays one', () => {
    symlinkSync(join(folder, 'real'), join(folder, 'out'))
    expect(run({ input: subnet, args: ['-c'] })).toEqual(clean(`DOCKER_OPTS=" ${all}"\n`))
    expect(lstatSync(join(folder, 'out')).isSymbolicLink()).toBe(true)
  })

  test('a device is written in place', () => {
    writeFileSync(join(folder, 'subnet.env'), subnet)
    const call = [...options, script, '-c', '-f', './subnet.env', '-d', '/dev/stdout']
    // Through a pipe of the shell's: what stands behind a child's stdout here is a socket, which cannot be opened.
    const { stdout } = spawnSync('sh', ['-c', '"$@" | cat', 'sh', shell, ...call], {
      cwd: folder,
      encoding: 'utf8',
    })
    expect(stdout).toBe(`DOCKER_OPTS=" ${all}"\n`)
  })

  test('a full disk is an error', () => {
    const { status, stderr } = run({ input: subnet, args: ['-d', '/dev/full'] })
    expect(status).toBe(1)
    expect(stderr).toContain('cannot write /dev/full')
    expect(lstatSync('/dev/full').isCharacterDevice()).toBe(true)
  })
})
