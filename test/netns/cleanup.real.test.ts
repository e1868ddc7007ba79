/**
 * `flanneld cleanup` after each backend that this kernel can carry, ours and Go flannel's (FLANNEL_PEER): the node is byte for
 * byte as it was before, whether cleanup does it itself or a shell does what its -dry-run prints. What others have made
 * there, as like flannel's as can be, is part of that.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest'
import { kernelHas } from '../conformance/kinds.ts'
import { type Daemon, isOurs, Lab, OURS, waitFor } from './lab.ts'
import type { Namespace } from './namespace.ts'

vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 })

const { FLANNEL_PEER: GO } = process.env
const SUBNETS = '/coreos.com/network/subnets'

let lab: Lab
let folder: string

beforeEach(async () => {
  lab = await Lab.create({ nodes: 2 })
  await lab.startEtcd()
  mkdirSync(join(lab.dir, 'run'))
  folder = join(lab.dir, 'run/flannel')
})
afterEach(() => lab?.close())

/** All that an operator can see of the node, without what changes by itself: counters, ages, times. */
async function snapshot(): Promise<Readonly<Record<string, string>>> {
  const node = lab.node(1)
  const still = (text: string): string =>
    text
      .replaceAll(/^#.*\n/gm, '')
      .replaceAll(/\[\d+:\d+\]|packets \d+ bytes \d+/g, '')
      .replaceAll(' tentative', '')
  return {
    address: still(await node.ip('-d address')),
    link: await node.ip('-d link'),
    route: await node.ip('-4 -d route show table all'),
    rule: await node.ip('rule'),
    neighbour: await node.ip('neigh show nud permanent'),
    nexthop: await node.ip('nexthop'),
    fdb: await node.bridge('fdb show'),
    iptables: still(await node.run('iptables-save')),
    nft: still(await node.run('nft', 'list', 'ruleset')),
    files: await node.run('find', join(lab.dir, 'run')),
  }
}

/** Things of others: what is like flannel's but for one trait. */
async function addForeign(node: Namespace): Promise<void> {
  await node.ipBatch([
    'link add eth1 type veth peer name far1',
    'address add 10.78.0.2/24 dev eth1',
    'link set eth1 up',
    'link set far1 up',
    'route add 172.30.200.0/24 via 10.78.0.9 metric 100',
    'route add 172.30.201.0/24 via 10.78.0.9',
    'route add 172.31.1.0/24 via 10.77.1.9',
    'link add flannel.99 type vxlan id 99 dev eth0 dstport 4790 nolearning',
    'address add 10.99.0.0/32 dev flannel.99',
    'link set flannel.99 up',
    'route add 10.99.1.0/24 via 10.99.1.0 dev flannel.99 onlink',
    'nexthop add id 77 via 10.77.1.9 dev eth0',
  ])
  const rules = `*nat
-A POSTROUTING -s 192.0.2.0/24 ! -d 224.0.0.0/4 -j MASQUERADE
-A POSTROUTING -s 172.30.0.0/16 -d 172.30.0.0/16 -m comment --comment operator -j RETURN
COMMIT
*filter
-A FORWARD -s 172.30.0.0/16 -d 192.0.2.0/24 -j ACCEPT
COMMIT
`
  await node.run('sh', '-c', `printf '%s' "$0" | iptables-restore --noflush`, rules)
  await node.run(
    'nft',
    'add table inet operator; add chain inet operator c { type filter hook input priority 5; }',
  )
}

interface Outcome {
  readonly status: number | null
  readonly out: string
  readonly err: string
}

function cleanup(...args: string[]): Outcome {
  const files = ['-subnet-file', join(folder, 'subnet.env'), '-docker-opts-file', join(folder, 'docker')]
  const socket = ['-control-socket', join(folder, 'flanneld.sock')]
  const argv = [OURS, 'cleanup', ...lab.etcd.flags, '-iface', 'eth0', ...files, ...socket, ...args]
  return inNode(argv)
}

function inNode(argv: readonly string[]): Outcome {
  const enter = [`--net=/run/netns/${lab.node(1).name}`, ...argv]
  const { status, stdout, stderr } = spawnSync('nsenter', enter, { encoding: 'utf8' })
  return { status, out: stdout, err: stderr }
}

/** `route` is what has to be there before anything is compared: a command that makes it may outlive the daemon. */
async function startDaemon(binary: string, route = ''): Promise<Daemon> {
  const own = isOurs(binary)
    ? ['-docker-opts-file', join(folder, 'docker'), '-control-socket', join(folder, 'flanneld.sock')]
    : []
  const flags = [...lab.etcd.flags, '-iface', 'eth0', '-ip-masq', '-subnet-file', join(folder, 'subnet.env')]
  const daemon = await lab.daemon(1, { binary, flags: [...flags, ...own] })
  await daemon.waitReady()
  // The rules and the socket may come after that.
  const complete = async (): Promise<boolean> =>
    [...(await lab.node(1).run('iptables-save')).matchAll(/^-A .* 172\.30\.0\.0\/16 -j (MASQ|ACC)/gm)]
      .length >= 3 &&
    (own.length === 0 || existsSync(join(folder, 'flanneld.sock'))) &&
    (await lab.node(1).ip('route')).includes(route)
  await waitFor(complete, { what: 'rules, control socket and route' })
  return daemon
}

/** A peer on the node's link, as its backend would write it. */
async function addPeer(backend: { readonly Type: string }): Promise<void> {
  const data: Readonly<Record<string, object>> = {
    vxlan: { VtepMAC: '02:00:00:00:00:02' },
    wireguard: { PublicKey: 'RZ3aV5ZKZ8gf1ybT3VxVwvXxTgXMsP1BmQWvP0p4OFs=', Port: 51820 },
  }
  const lease = {
    PublicIP: lab.address(2),
    ...(backend.Type === 'udp' ? {} : { BackendType: backend.Type }),
    BackendData: data[backend.Type],
  }
  await lab.etcd.put(`${SUBNETS}/172.30.77.0-24`, JSON.stringify(lease))
}

async function leaseKeys(): Promise<string[]> {
  return (await lab.etcd.leases()).map(({ key }) => key.split('/').at(-1) ?? '').sort()
}

const EXTENSION = {
  Type: 'extension',
  SubnetAddCommand: 'ip route add $SUBNET via $PUBLIC_IP',
  SubnetRemoveCommand: 'ip route del $SUBNET via $PUBLIC_IP',
}

const BACKENDS: readonly { readonly Type: string; readonly [option: string]: unknown }[] = [
  { Type: 'vxlan' },
  { Type: 'vxlan', VNI: 7, DirectRouting: true },
  { Type: 'host-gw' },
  { Type: 'udp' },
  { Type: 'alloc' },
  EXTENSION,
  ...(kernelHas('ipip') ? [{ Type: 'ipip', DirectRouting: true }] : []),
  ...(kernelHas('wireguard') ? [{ Type: 'wireguard' }] : []),
]

const rows = [OURS, ...(GO ? [GO] : [])].flatMap((binary) =>
  BACKENDS.filter(({ Type }) => isOurs(binary) || !['wireguard'].includes(Type)).flatMap((backend) =>
    [true, false].map((foreign) => ({
      ...{ binary, backend, foreign },
      who: isOurs(binary) ? 'ours' : 'Go',
      what: JSON.stringify(backend).slice(0, 60),
      where: foreign ? 'a node that others use, too' : 'an untouched node',
    })),
  ),
)

describe.each(rows)('$who, $what on $where', ({ binary, backend, foreign }) => {
  test('leaves no trace', async () => {
    await lab.etcd.config({ Network: '172.30.0.0/16', SubnetLen: 24, Backend: backend })
    await addPeer(backend)
    if (foreign) await addForeign(lab.node(1))
    const before = await snapshot()

    for (const [signal, by] of [
      ['SIGTERM', 'itself'],
      ['SIGKILL', 'shell'],
    ] as const) {
      const daemon = await startDaemon(binary, backend === EXTENSION ? '172.30.77.0/24' : '')
      await daemon.stop(signal)
      const after = await snapshot()
      expect(after.files).not.toBe(before.files)
      expect(after.iptables).not.toBe(before.iptables)
      const leases = await leaseKeys()
      expect(leases).toHaveLength(2)

      const dry = cleanup('-dry-run', '-release-lease')
      expect(dry.status, dry.err).toBe(0)
      expect(await snapshot()).toEqual(after)
      expect(await leaseKeys()).toEqual(leases)

      const done = by === 'itself' ? cleanup('--release-lease') : inNode(['sh', '-ec', dry.out])
      expect(done.status, done.err).toBe(0)
      expect(await snapshot()).toEqual(before)
      expect(await leaseKeys()).toEqual(['172.30.77.0-24'])
      if (by === 'itself')
        expect(
          done.out
            .trim()
            .split('\n')
            .every((line) => line.startsWith('removed ')),
        ).toBe(true)
    }
    expect(cleanup()).toMatchObject({ status: 0, out: 'nothing to remove\n' })
  })
})

describe('with vxlan', () => {
  beforeEach(async () => {
    await lab.etcd.config({ Network: '172.30.0.0/16', SubnetLen: 24, Backend: { Type: 'vxlan' } })
  })

  test.each([OURS, ...(GO ? [GO] : [])])('refuses while %s runs, and shows all the same', async (binary) => {
    const daemon = await startDaemon(binary)
    const running = await snapshot()
    const refused = cleanup()
    expect(refused).toMatchObject({ status: 1, out: '' })
    expect(refused.err).toMatch(/^flanneld cleanup: flanneld is running here.*: stop it first .*\n$/)
    const dry = cleanup('-dry-run')
    expect(dry.status).toBe(0)
    expect(dry.out).toMatch(/^# flanneld is running here/)
    expect(dry.out).toContain('\nip link del flannel.1\n')
    expect(await snapshot()).toEqual(running)
    expect(daemon.running).toBe(true)
  })

  test('refuses while ours runs without a control socket', async () => {
    const daemon = await lab.daemon(1, { args: ['-control-socket='] })
    await daemon.waitReady()
    expect(cleanup().err).toContain(`flanneld is running here (pid ${daemon.pid}): stop it first`)
    expect(daemon.running).toBe(true)
  })

  test.each([OURS, ...(GO ? [GO] : [])])(
    'takes the rules of %s that iptables-legacy holds',
    async (binary) => {
      const { PATH } = process.env
      onTestFinished(() => {
        process.env.PATH = PATH
      })
      const programs = join(lab.dir, 'programs')
      mkdirSync(programs)
      for (const name of ['iptables', 'iptables-save', 'iptables-restore'])
        symlinkSync('/usr/sbin/xtables-legacy-multi', join(programs, name))
      process.env.PATH = `${programs}:${PATH}`
      await addForeign(lab.node(1))
      // Tables that were once used stay in the kernel, empty.
      const rules = async (): Promise<string[]> =>
        (await lab.node(1).run('iptables-save')).split('\n').filter((line) => line.startsWith('-A'))
      const before = await rules()
      expect(before).toHaveLength(3)

      for (const by of ['itself', 'shell']) {
        const daemon = await startDaemon(binary)
        await daemon.stop()
        expect((await rules()).length).toBeGreaterThan(before.length)
        const done = by === 'itself' ? cleanup() : inNode(['sh', '-ec', cleanup('-dry-run').out])
        expect(done.status, done.err).toBe(0)
        expect(await rules()).toEqual(before)
      }
    },
  )

  test('takes routes and nexthop objects that a larger cluster left on the underlay', async () => {
    const before = await snapshot()
    await (await startDaemon(OURS)).stop()
    await lab
      .node(1)
      .ipBatch([
        'nexthop add id 4043309058 via 10.77.1.9 dev eth0',
        'route add 172.30.2.0/24 nhid 4043309058',
        'route add 172.30.3.0/24 via 10.77.1.9',
      ])
    expect(cleanup()).toMatchObject({ status: 0, err: '' })
    expect(await snapshot()).toEqual(before)
  })

  test('takes the network from etcd when the subnet file is gone', async () => {
    const before = await snapshot()
    await (await startDaemon(OURS)).stop()
    await lab.node(1).run('rm', '-r', folder)
    expect(cleanup()).toMatchObject({ status: 0, err: '' })
    expect(await snapshot()).toEqual(before)
  })

  test('keeps the files for another try when something stays', async () => {
    const before = await snapshot()
    await (await startDaemon(OURS)).stop()
    await lab.etcd.stop()
    const failed = cleanup('-release-lease')
    expect(failed.status).toBe(1)
    expect(failed.err).toMatch(/^flanneld cleanup: cannot look for this node's lease: /)
    expect(await snapshot()).toEqual({ ...before, files: expect.stringContaining('subnet.env') })
    await lab.etcd.restart()
    expect(cleanup('-release-lease')).toMatchObject({ status: 0, err: '' })
    expect(await snapshot()).toEqual(before)
    expect(await leaseKeys()).toEqual([])
  })

  test("leaves another node's lease and a reservation alone", async () => {
    const daemon = await startDaemon(OURS)
    await daemon.stop()
    const value = (publicIP: string): string => JSON.stringify({ PublicIP: publicIP, BackendType: 'vxlan' })
    const [own = ''] = await leaseKeys()
    await lab.etcd.put(`${SUBNETS}/${own}`, value(lab.address(2)))
    await lab.etcd.put(`${SUBNETS}/172.30.99.0-24`, value(lab.address(1)))
    const { status, err } = cleanup('-release-lease')
    expect(status).toBe(0)
    expect(err).toContain('left alone: lease of 172.30.99.0/24: a reservation')
    expect(await leaseKeys()).toEqual([own, '172.30.99.0-24'].sort())
  })

  test('without any word on the network it names what it has to leave', async () => {
    await (await startDaemon(OURS)).stop()
    const after = await snapshot()
    await lab.node(1).run('rm', '-r', folder)
    await lab.etcd.stop()
    const { status, err } = cleanup()
    expect(status).toBe(1)
    expect(err).toMatch(/left alone: device flannel\.1: its network is not known/)
    expect(await snapshot()).toEqual({ ...after, files: join(lab.dir, 'run\n') })
  })
})
