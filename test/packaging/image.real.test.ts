import { execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Architecture, architectures, isNative } from '../../scripts/architecture.ts'
import { buildBinary } from '../../scripts/binary.ts'
import { Lab, REPOSITORY, waitFor } from '../netns/lab.ts'

const folder = join(REPOSITORY, `build/test/image-${process.pid}`)
const initialNamespace = readFileSync('/proc/self/uid_map', 'utf8').trim().split(/\s+/)[2] === '4294967295'
const has = (program: string): boolean => spawnSync(program, ['--version']).error === undefined
const runnable = initialNamespace && ['buildah', 'podman', 'runc', 'nft'].every(has)

describe.skipIf(!runnable)('the image', () => {
  const native = architectures.find(isNative) as Architecture
  const storage = join(folder, 'containers')
  // podman takes no longer path than 50 characters here, and a checkout may lie deep.
  const runRoot = `/run/podman-${process.pid}`
  // The default limits of podman are higher than some machines let even root go.
  const limits = ['--ulimit', 'nofile=1024:1024', '--ulimit', 'nproc=1024:1024']
  const podman = [
    ...['podman', '--root', storage, '--runroot', runRoot, '--storage-driver', 'vfs'],
    ...['--cgroup-manager', 'cgroupfs', '--runtime', 'runc'],
  ]
  let image: string

  beforeAll(() => {
    mkdirSync(folder, { recursive: true })
    const binary = join(folder, 'flanneld')
    const archive = join(folder, 'image.tar')
    buildBinary(native, binary)
    execFileSync(join(REPOSITORY, 'scripts/image.sh'), [binary, archive], { stdio: 'pipe' })
    const said = execFileSync('podman', [...podman.slice(1), 'load', '--quiet', '--input', archive], {
      encoding: 'utf8',
    })
    image = said.replace(/^Loaded image: /, '').trim()
  }, 180_000)
  afterAll(() => {
    for (const made of [folder, runRoot]) rmSync(made, { recursive: true, force: true })
  })

  it('prints its version', () => {
    const { status, stderr } = spawnSync(
      'podman',
      [...podman.slice(1), 'run', '--rm', ...limits, image, '-version'],
      {
        encoding: 'utf8',
      },
    )
    expect({ status, stderr }).toEqual({ status: 0, stderr: expect.stringMatching(/^v\d.*, Node v/m) })
  })

  it('runs in a node, with its certificates and its folder from the host, and pods reach each other', async () => {
    const lab = await Lab.create({ nodes: 2 })
    try {
      const etcd = await lab.startEtcd({ tls: true })
      await etcd.config({ Network: '10.5.0.0/16', Backend: { Type: 'vxlan' } })
      const certificates = dirname(etcd.tls?.caFile ?? '')
      const flags = etcd.flags.map((flag) =>
        flag.startsWith(certificates) ? `/etc/flanneld/${basename(flag)}` : flag,
      )
      const runDir = join(folder, 'run')
      mkdirSync(runDir)
      // The network namespace of the node is that of podman itself: its "host".
      const command = [
        ...podman,
        ...['run', '--rm', '--privileged', '--network', 'host', ...limits],
        ...['--volume', `${runDir}:/run/flannel`, '--volume', `${certificates}:/etc/flanneld:ro`, image],
      ]
      const binary = join(folder, 'contained.sh')
      writeFileSync(binary, `#!/bin/sh\nexec ${command.join(' ')} "$@"\n`, { mode: 0o755 })
      const contained = await lab.daemon(1, {
        binary,
        runDir,
        flags: [...flags, '-iface', 'eth0', '-ip-masq'],
        notify: false,
      })
      const other = await lab.daemon(2, { args: ['-ip-masq'] })
      await other.waitReady()
      await contained.waitLog(/Wrote docker options to \/run\/flannel\/docker/, 30_000)
      const pods = [await lab.pod(contained), await lab.pod(other)] as const
      for (const [from, to] of [pods, [...pods].reverse()] as const) {
        await waitFor(
          () => from?.namespace.run('ping', '-c', '1', '-W', '1', to?.address ?? '').then(() => true),
          {
            what: () => `a ping from ${from?.address} to ${to?.address}; ${contained.log().slice(-2000)}`,
            timeout: 10_000,
          },
        )
      }
      expect(await contained.stop()).toEqual({ code: 0, signal: null })
    } finally {
      await lab.close()
    }
  }, 120_000)
})
