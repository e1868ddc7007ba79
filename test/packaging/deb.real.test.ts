import { spawnSync } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Architecture, architectures, isNative } from '../../scripts/architecture.ts'
import { buildPackage } from '../../scripts/deb.ts'
import { renderManPage } from '../../scripts/manpage.ts'
import { optionTable, variableOf } from '../../src/options.ts'
import { REPOSITORY } from '../netns/lab.ts'

const folder = join(REPOSITORY, `build/test/deb-${process.pid}`)
const native = architectures.find(isNative) as Architecture
const deb = join(folder, 'flanneld.deb')
const initialNamespace = readFileSync('/proc/self/uid_map', 'utf8').trim().split(/\s+/)[2] === '4294967295'
const has = (program: string): boolean => spawnSync(program, ['--version']).error === undefined

/**
 * Runs a script in this machine's own file system, where what it writes goes to `upper` instead. The packages that are
 * installed here are installed there too.
 */
function onACopy(script: string): { status: number | null; output: string } {
  const mounts = `
    mount -t tmpfs overlay ${folder}/overlay && cd ${folder}/overlay && mkdir upper work merged
    mount -t overlay overlay -o lowerdir=/,upperdir=$PWD/upper,workdir=$PWD/work merged
    mount --bind ${folder} merged/mnt && mount --rbind /dev merged/dev && mount -t proc proc merged/proc && mount -t tmpfs run merged/run
    chroot merged sh -exc '${script}'
    umount -l merged/dev merged/mnt merged/proc merged/run
    cp -a upper ${folder}/upper`
  mkdirSync(join(folder, 'overlay'), { recursive: true })
  rmSync(join(folder, 'upper'), { recursive: true, force: true })
  const { status, stdout, stderr } = spawnSync('unshare', ['--mount', 'sh', '-ec', mounts], {
    encoding: 'utf8',
  })
  return { status, output: stdout + stderr }
}

/** Files that are there beyond this machine's own, but for what dpkg and its triggers keep for themselves. */
function written(): string[] {
  return readdirSync(join(folder, 'upper'), { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory())
    .map((entry) => relative(join(folder, 'upper'), join(entry.parentPath, entry.name)))
    .filter((file) => !/^(var\/(lib\/(dpkg|systemd)|log|cache)|etc\/ld\.so\.cache)/.test(file))
    .sort()
}

describe.skipIf(!initialNamespace || !has('dpkg-deb'))('the Debian package', () => {
  beforeAll(() => {
    mkdirSync(folder, { recursive: true })
    // What is inside matters elsewhere; packing 100 MB takes a minute.
    const binary = join(folder, 'flanneld')
    writeFileSync(binary, '#!/bin/sh\nexit 0\n', { mode: 0o755 })
    buildPackage(native, binary, deb)
  })
  afterAll(() => rmSync(folder, { recursive: true, force: true }))

  const conffile = '/etc/default/flanneld'
  const install = 'dpkg --force-depends --force-confold --install /mnt/flanneld.deb'

  it('puts its files where they belong', () => {
    expect(onACopy(install)).toMatchObject({ status: 0 })
    expect(written()).toEqual([
      'etc/default/flanneld',
      'usr/bin/flanneld',
      'usr/bin/mk-docker-opts.sh',
      'usr/lib/NetworkManager/conf.d/10-flannel.conf',
      'usr/lib/systemd/network/50-flannel.link',
      'usr/lib/systemd/network/50-flannel.network',
      'usr/lib/systemd/system/docker.service.d/10-flannel.conf',
      'usr/lib/systemd/system/flanneld.service',
      ...['NEWS.gz', 'THIRD-PARTY-LICENSES.gz', 'changelog.gz', 'copyright', 'sbom.cdx.json'].map(
        (name) => `usr/share/doc/flanneld/${name}`,
      ),
      'usr/share/lintian/overrides/flanneld',
      'usr/share/man/man8/flanneld.8.gz',
      'usr/share/man/man8/mk-docker-opts.sh.8.gz',
    ])
  })

  it('keeps settings when it is upgraded and when it is removed', () => {
    const change = `echo FLANNELD_IP_MASQ=true >> ${conffile}`
    const { status, output } = onACopy(
      `${install}; ${change}; ${install}; dpkg --remove flanneld; cat ${conffile}`,
    )
    expect({ status, output }).toMatchObject({
      status: 0,
      output: expect.stringMatching(/^FLANNELD_IP_MASQ=true$/m),
    })
    expect(written()).toEqual(['etc/default/flanneld'])
  })

  it('leaves nothing behind when it is purged, enabled or not', () => {
    const wants = '/etc/systemd/system/docker.service.wants'
    const enable = `mkdir -p ${wants} && ln -s /usr/lib/systemd/system/flanneld.service ${wants}/`
    expect(onACopy(`${install}; ${enable}; dpkg --purge flanneld`)).toMatchObject({ status: 0 })
    expect(written()).toEqual([])
  })

  it.skipIf(!has('lintian'))('has no errors by lintian', { timeout: 180_000 }, () => {
    const { stdout, status } = spawnSync('lintian', ['--fail-on', 'error', deb], { encoding: 'utf8' })
    expect({ status, errors: stdout.match(/^E: .*$/gm) }).toEqual({ status: 0, errors: null })
  })
})

it('names only variables that flanneld knows in /etc/default/flanneld, with their defaults', () => {
  const text = readFileSync(join(REPOSITORY, 'packaging/default'), 'utf8')
  const known = new Map(Object.entries(optionTable).map(([name, option]) => [variableOf(name), option]))
  const settings = [...text.matchAll(/^#?(FLANNELD_\w+)=(.*)$/gm)]
  expect(settings.length).toBeGreaterThan(5)
  for (const [, name = '', value] of settings) {
    expect(known.has(name), name).toBe(true)
    const given = known.get(name)?.default
    if (given !== '' && !Array.isArray(given)) expect(value, name).toBe(String(given))
  }
})

it('gives the DaemonSet only flags that there are', () => {
  const manifest = readFileSync(join(REPOSITORY, 'docs/daemonset.yaml'), 'utf8')
  const flags = [...manifest.matchAll(/^\s+- -([a-z-]+)/gm)].map(([, name]) => name)
  expect(flags.length).toBeGreaterThan(5)
  expect(Object.keys(optionTable)).toEqual(expect.arrayContaining(flags))
})

it('documents every flag in flanneld(8), in groff that has no warnings', () => {
  const page = renderManPage('1.2.3')
  for (const name of Object.keys(optionTable))
    expect(page).toContain(`\n.B \\-${name.replaceAll('-', '\\-')}`)
  if (!has('groff')) return
  const command = ['-man', '-Tutf8', '-ww', '-z']
  expect(spawnSync('groff', command, { input: page }).stderr.toString()).toBe('')
})
