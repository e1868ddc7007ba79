import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Architecture, architectures, emulator, isNative, tool } from '../scripts/architecture.ts'
import { buildBinary } from '../scripts/binary.ts'
import { type Daemon, Lab, REPOSITORY, waitFor } from './netns/lab.ts'

const folder = join(REPOSITORY, `build/test/binary-${process.pid}`)
const version = /^v\d+\.\d+\.\d+\S*( \([0-9a-f]{12}\))?, Node v\d+\.\d+\.\d+\n$/
const printed = { status: 0, stdout: '', stderr: expect.stringMatching(version) }

beforeAll(() => mkdirSync(folder, { recursive: true }))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

/** Runs a program in the root folder, with nothing in its environment but what is given. */
function bare(command: readonly string[], env: Readonly<Record<string, string>> = {}) {
  const [program = '', ...args] = command
  const { status, stdout, stderr } = spawnSync(program, args, { cwd: '/', env, encoding: 'utf8' })
  return { status, stdout, stderr }
}

describe('the single executable', () => {
  const native = architectures.find(isNative) as Architecture
  const binary = join(folder, 'flanneld')

  beforeAll(() => buildBinary(native, binary), 180_000)

  it('prints its version, commit and Node without PATH or HOME, and no warning', () => {
    expect(bare([binary, '-version'])).toEqual(printed)
    expect(bare([binary, '-version'], { NODE_OPTIONS: '--require /nowhere' })).toEqual(printed)
  })

  it('has a code cache that V8 takes', () => {
    const script = `
      const { readFileSync } = require('node:fs')
      const [bundle, cachedData] = [readFileSync('dist/flanneld.cjs', 'latin1'), readFileSync('dist/flanneld.cache')]
      const { cachedDataRejected } = new (require('node:vm').Script)(bundle, { cachedData })
      process.stdout.write(String(cachedDataRejected))`
    // With the flags that both forms are started with, since V8 compares flags.
    const flags = readFileSync(join(REPOSITORY, 'bin/flanneld'), 'utf8').match(/--[a-z-]+=\d+/g) ?? []
    const args = [...flags, '-e', script]
    const { stdout } = spawnSync(process.execPath, args, { cwd: REPOSITORY, encoding: 'utf8' })
    expect(stdout).toBe('false')
  })

  it('has it where V8 need not copy it', () => {
    const at = readFileSync(binary).indexOf(readFileSync(join(REPOSITORY, 'dist/flanneld.cache')))
    expect(at).toBeGreaterThan(0)
    expect(at % 8).toBe(0)
  })

  it('is the same bytes when it is built again', () => {
    const again = join(folder, 'again')
    buildBinary(native, again)
    expect(readFileSync(again).equals(readFileSync(binary))).toBe(true)
    expect(readFileSync(again).includes(REPOSITORY)).toBe(false)
  }, 180_000)

  describe('its commands, without Node and the sources', () => {
    let lab: Lab
    let daemon: Daemon

    beforeAll(async () => {
      lab = await Lab.create()
      const etcd = await lab.startEtcd()
      await etcd.config({ Network: '10.5.0.0/16', Backend: { Type: 'vxlan' } })
      await lab.node(1).run('sysctl', '-q', '-w', 'net.ipv4.ip_forward=1')
      daemon = await lab.daemon(1, { binary, runDir: join(folder, 'node') })
      await daemon.waitReady()
      await waitFor(() => existsSync(daemon.controlSocket), { what: 'the control socket' })
    })
    afterAll(() => lab.close())

    /** In the node's namespace, with the programs of the machine and nothing else. */
    function command(...args: string[]) {
      const path = 'PATH=/usr/sbin:/usr/bin:/sbin:/bin'
      return bare([
        '/usr/bin/nsenter',
        `--net=/run/netns/${lab.node(1).name}`,
        ...['/usr/bin/env', '-i', path, binary, ...args],
      ])
    }

    it('status', () => {
      const { status, stdout, stderr } = command('status', '-socket', daemon.controlSocket)
      expect([status, stderr]).toEqual([0, ''])
      expect(stdout).toMatch(/ready/)
      const json = command('status', '-json', '-socket', daemon.controlSocket)
      expect(JSON.parse(json.stdout)).toMatchObject({ daemon: { pid: daemon.pid }, health: { ready: true } })
    })

    it('doctor', () => {
      const { status, stdout, stderr } = command('doctor', '-control-socket', daemon.controlSocket)
      expect([status, stderr, stdout]).toEqual([0, '', expect.stringMatching(/^All is well: /m)])
    })

    it('log-level', () => {
      const level = (...words: string[]) => command('log-level', '-socket', daemon.controlSocket, ...words)
      expect(level('debug')).toMatchObject({ status: 0, stderr: '' })
      expect(level().stdout.trim()).toBe('debug')
      expect(level('info')).toMatchObject({ status: 0, stderr: '' })
    })

    it('bundle', () => {
      const archive = join(folder, 'bundle.tar.gz')
      expect(command('bundle', '-socket', daemon.controlSocket, '-o', archive)).toMatchObject({
        status: 0,
        stdout: `${archive}\n`,
      })
      const files = spawnSync('tar', ['-tzf', archive], { encoding: 'utf8' }).stdout
      for (const file of ['daemon/status.json', 'doctor.txt', 'kernel/route.txt'])
        expect(files).toContain(`/${file}\n`)
      const doctor = spawnSync('tar', ['-xzOf', archive, '--wildcards', '*/doctor.txt'], { encoding: 'utf8' })
      expect(doctor.stdout).toContain('All is well')
    })

    it.each(['bash', 'zsh', 'fish'])('completion for %s', (shell) => {
      const { status, stdout, stderr } = command('completion', shell)
      expect([status, stderr]).toEqual([0, ''])
      expect(stdout).toContain('log-level')
    })

    it('cleanup, at first in words, once the daemon is gone', async () => {
      const files = [`-subnet-file=${daemon.subnetFile}`, `-docker-opts-file=${daemon.dockerFile}`]
      const flags = [...lab.etcd.flags, '-iface=eth0', `-control-socket=${daemon.controlSocket}`, ...files]
      expect(command('cleanup', ...flags)).toMatchObject({
        status: 1,
        stderr: expect.stringContaining(`pid ${daemon.pid}`),
      })
      await daemon.stop()
      const dry = command('cleanup', '-dry-run', ...flags)
      expect(dry.status).toBe(0)
      expect(dry.stdout).toContain('ip link del')
      expect(await lab.node(1).ip('link show flannel.1')).toContain('flannel.1')
      expect(command('cleanup', ...flags).status).toBe(0)
      await expect(lab.node(1).ip('link show flannel.1')).rejects.toThrow('does not exist')
    })
  })

  describe('on a read-only root, without HOME and most capabilities', () => {
    const runDir = join(folder, 'run')
    let lab: Lab

    beforeAll(async () => {
      mkdirSync(runDir)
      lab = await Lab.create()
      const etcd = await lab.startEtcd()
      await etcd.config({ Network: '10.5.0.0/16', Backend: { Type: 'vxlan' } })
    })
    afterAll(() => lab.close())

    /** Starts it with `/run` and `/dev/shm` mounted with these options. */
    function start(run: string, shm: string) {
      const confined = join(folder, 'confined.sh')
      const script = `#!/bin/sh
        exec unshare --mount sh -ec '
          mount -t tmpfs -o ${run} run /run
          mount -t tmpfs -o ${shm} shm /dev/shm
          mount --bind /tmp /tmp
          for folder in / /tmp; do mount -o remount,ro,bind $folder; done
          mount --bind ${runDir} ${runDir} && mount -o remount,rw,bind ${runDir}
          keep=+net_admin,+net_raw
          exec setpriv --no-new-privs --inh-caps -all --bounding-set -all,$keep \\
            env -i PATH=/usr/sbin:/usr/bin:/sbin NOTIFY_SOCKET="$NOTIFY_SOCKET" "$@"' sh ${binary} "$@"\n`
      writeFileSync(confined, script, { mode: 0o755 })
      return lab.daemon(1, { binary: confined, runDir, args: ['-ip-masq'] })
    }

    it.each([
      ['in memory', 'noexec', 'mode=1777'],
      ['in /run', 'mode=755', 'noexec'],
    ])('starts with its addon %s', async (_, run, shm) => {
      const daemon = await start(run, shm)
      await daemon.waitReady()
      expect(daemon.log()).not.toMatch(/warn|Warning|error/i)
      expect(existsSync(daemon.subnetFile)).toBe(true)
      expect(await daemon.stop()).toEqual({ code: 0, signal: null })
    })

    it('says so when nothing can be run from anywhere', async () => {
      const daemon = await start('noexec', 'noexec')
      expect(await daemon.exited()).toEqual({ code: 1, signal: null })
      const last = daemon.log().trim().split('\n').at(-1)
      expect(last).toMatch(
        /load the netlink addon: .*\/dev\/shm: .*\/run: .*mount one of them writable and without noexec/,
      )
    })
  })
})

describe.each(architectures.filter((architecture) => !isNative(architecture)))('for $name', (other) => {
  const found = spawnSync(tool(other, 'gcc'), ['--version']).error === undefined
  const [qemu = ''] = emulator(other)
  const emulated = found && spawnSync(qemu, ['--version']).error === undefined

  it.skipIf(!emulated)(
    'is built here and starts under QEMU',
    () => {
      const binary = join(folder, `flanneld-${other.name}`)
      buildBinary(other, binary)
      expect(bare([...emulator(other), binary, '-version'])).toEqual(printed)
    },
    180_000,
  )
})
