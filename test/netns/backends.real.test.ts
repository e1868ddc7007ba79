/**
 * Every backend that this kernel can carry, daemon to daemon: pods talk with their own addresses, damage heals, a restart
 * goes unnoticed, and a change of the config leaves nothing of the old backend. Those with FLANNEL_PEER also run against
 * Go flannel.
 */
import { chmodSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { kernelHas } from '../conformance/kinds.ts'
import { type Daemon, Lab, OURS, startPinger, waitFor } from './lab.ts'
import { startMirror } from './mirror.ts'
import { lines } from './namespace.ts'

vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 })

const { FLANNEL_PEER: GO } = process.env

const config = (backend: unknown): string =>
  JSON.stringify({ Network: '172.30.0.0/16', SubnetLen: 24, Backend: backend })

let lab: Lab

beforeEach(async () => {
  lab = await Lab.create({ nodes: 2 })
  await lab.startEtcd()
})
afterEach(() => lab?.close())

/** Both daemons are ready and a pod on each reaches the other, which sees it as what it is. */
async function expectTraffic(daemons: readonly Daemon[]): Promise<void> {
  const [first, second] = [await lab.pod(daemons[0] as Daemon), await lab.pod(daemons[1] as Daemon)]
  await waitFor(() => first.namespace.ping(second.address), { what: 'pods to reach each other' })
  await waitFor(() => second.namespace.ping(first.address), { what: 'pods to reach each other' })
  const mirror = await startMirror(second.namespace)
  lab.onClose(() => mirror.close())
  expect(await mirror.seenFrom(first.namespace, second.address)).toBe(first.address)
}

async function pair(binaries: readonly [string, string]): Promise<readonly [Daemon, Daemon]> {
  const first = await lab.daemon(1, { binary: binaries[0], args: ['-ip-masq'] })
  const second = await lab.daemon(2, { binary: binaries[1], args: ['-ip-masq'] })
  await first.waitReady()
  await second.waitReady()
  return [first, second]
}

const subnetOf = (daemon: Daemon): string => daemon.leaseKey().replace('-', '/')
const routeTo = (there: Daemon, i: number): string => `${subnetOf(there)} via ${lab.address(i)} dev eth0`

/** flannel's own sample for the extension backend. */
const HOST_GW_BY_HAND = {
  Type: 'extension',
  SubnetAddCommand: 'ip route add $SUBNET via $PUBLIC_IP',
  SubnetRemoveCommand: 'ip route del $SUBNET via $PUBLIC_IP',
}

describe.each<{
  what: string
  pairs: readonly (readonly [string, string])[]
  backend: Record<string, unknown>
}>(
  [
    { what: 'host-gw', backend: { Type: 'host-gw' } },
    { what: 'extension, by its host-gw sample', backend: HOST_GW_BY_HAND },
  ].map((row) => ({
    ...row,
    pairs: [[OURS, OURS] as const, ...(GO ? [[OURS, GO] as const, [GO, OURS] as const] : [])],
  })),
)('$what', ({ backend, pairs }) => {
  test.each(pairs.map((pair) => pair.map((binary) => (binary === OURS ? 'ours' : 'Go'))))(
    'node 1 %s, node 2 %s: pods talk',
    async (...names) => {
      await lab.etcd.config(config(backend))
      const daemons = await pair(
        names.map((name) => (name === 'ours' ? OURS : (GO ?? ''))) as [string, string],
      )
      await waitFor(async () => (await lab.node(1).routes()).includes(routeTo(daemons[1], 2)), {
        what: 'a route',
      })
      await waitFor(async () => (await lab.node(2).routes()).includes(routeTo(daemons[0], 1)), {
        what: 'a route',
      })
      await expectTraffic(daemons)
      for (const daemon of daemons) expect(daemon.subnetEnv().FLANNEL_MTU).toBe('1500')
      for (const { value } of await lab.etcd.leases())
        expect(value).toMatch(new RegExp(`^{"PublicIP":"[^"]+","BackendType":"${backend.Type}"}$`))
    },
  )
})

test('host-gw heals its routes, loses no ping over a restart, and withdraws a peer that left', async () => {
  await lab.etcd.config(config({ Type: 'host-gw' }))
  const [first, second] = await pair([OURS, OURS])
  const pods = [await lab.pod(first), await lab.pod(second)]
  const route = routeTo(second, 2)
  const there = async (): Promise<boolean> => (await lab.node(1).routes()).includes(route)
  await waitFor(there, { what: 'the route' })
  await lab.node(1).ip(`route del ${subnetOf(second)}`)
  await waitFor(there, { what: 'the route to be back' })
  await first.waitLog(/Route recovered \S+ : \S+/)
  // Its own interface, pulled and put back.
  await lab.node(1).ip('link set eth0 down')
  await waitFor(async () => !(await there()), { what: 'the route to go with the interface' })
  await lab.node(1).ip('link set eth0 up')
  await waitFor(there, { what: 'the route to be back' })
  await lab.node(1).ip(`route add default via ${lab.outside}`)

  await waitFor(() => pods[0]?.namespace.ping(pods[1]?.address ?? ''), { what: 'pods to reach each other' })
  const pinger = await startPinger(pods[0]?.namespace ?? lab.node(1), pods[1]?.address ?? '')
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    const before = pinger.received()
    await first.stop(signal)
    const again = await lab.daemon(1, { args: ['-ip-masq'] })
    await again.waitReady()
    await waitFor(() => pinger.received() > before + 10, { what: 'answers after the restart' })
    await again.stop()
  }
  expect((await pinger.stop()).lost).toEqual([])
  const last = await lab.daemon(1, { args: ['-ip-masq'] })
  await last.waitReady()
  await second.stop()
  await lab.etcd.delete(`/coreos.com/network/subnets/${second.leaseKey()}`)
  await waitFor(async () => !(await there()), { what: 'the route to be withdrawn' })
  await last.waitLog(/Subnet removed: /)
})

test.each([OURS, ...(GO ? [GO] : [])])(
  'alloc leases a subnet and writes the files, and leaves the kernel alone, beside %s',
  async (beside) => {
    await lab.etcd.config(config({ Type: 'alloc' }))
    const before = await lab
      .node(1)
      .run('sh', '-c', 'ip link; ip route; ip nexthop; ip neigh show nud permanent')
    const daemon = await lab.daemon(1)
    await daemon.waitReady()
    const other = await lab.daemon(2, { binary: beside })
    await other.waitReady()
    const keys = (await lab.etcd.leases()).map(({ key, value }) => `${key.split('/').at(-1)} ${value}`)
    expect(keys.sort()).toEqual(
      [
        `${daemon.leaseKey()} {"PublicIP":"${lab.address(1)}"}`,
        `${other.leaseKey()} {"PublicIP":"${lab.address(2)}"}`,
      ].sort(),
    )
    for (const each of [daemon, other])
      expect(each.subnetEnv()).toEqual({
        FLANNEL_NETWORK: '172.30.0.0/16',
        FLANNEL_SUBNET: subnetOf(each).replace(/0\//, '1/'),
        FLANNEL_MTU: '1500',
        FLANNEL_IPMASQ: 'false',
      })
    expect(
      await lab.node(1).run('sh', '-c', 'ip link; ip route; ip nexthop; ip neigh show nud permanent'),
    ).toBe(before)
    expect(await daemon.stop()).toEqual({ code: 0, signal: null })
  },
)

test.each<[string, object]>([
  ['alloc', { Type: 'alloc' }],
  ['extension', { ...HOST_GW_BY_HAND, SubnetAddCommand: 'ip route replace $SUBNET via $PUBLIC_IP' }],
])('%s keeps its lease, files and routes over a kill while etcd is away', async (type, backend) => {
  await lab.etcd.config(config(backend))
  const [first, second] = await pair([OURS, OURS])
  const routes = async (): Promise<string> => (await lab.node(1).routes()).join('\n')
  if (type === 'extension')
    await waitFor(async () => (await routes()).includes(routeTo(second, 2)), { what: 'the route' })
  const about = { env: first.subnetEnv(), key: first.leaseKey(), routes: await routes() }
  await lab.etcd.stop()
  await first.stop('SIGKILL')
  expect(await routes()).toBe(about.routes)
  await lab.etcd.restart()
  const again = await lab.daemon(1, { args: ['-ip-masq'] })
  await again.waitReady()
  if (type === 'extension') await again.waitLog(/Ran command: ip route replace/)
  expect({ env: again.subnetEnv(), key: again.leaseKey(), routes: await routes() }).toEqual(about)
})

/** Its own /sys, which shows the devices of the namespace, and the `arp` that not every system has. */
function withSysfs(binary: string): string {
  const path = join(lab.dir, `wrapped-${binary === OURS ? 'ours' : 'go'}`)
  const tools = join(lab.dir, 'arp')
  writeFileSync(tools, '#!/bin/sh\nexec ip neigh replace "$2" lladdr "$3" dev "$5" nud permanent\n')
  chmodSync(tools, 0o755)
  // Go flannel's commands have no PATH, so that the tool goes where their shell looks.
  writeFileSync(
    path,
    `#!/bin/sh\nexec unshare --mount sh -c 'mount -t sysfs sys /sys; t=$(mktemp -d); cp ${tools} "$t"; ` +
      `mount -t tmpfs t /usr/local/sbin; cp "$t/arp" /usr/local/sbin; rm -r "$t"; exec ${binary} "$@"' sh "$@"\n`,
  )
  chmodSync(path, 0o755)
  return path
}

test("the extension backend carries flannel's own sample for VXLAN", async () => {
  const name = 'flannel-vxlan'
  await lab.etcd.config(
    config({
      Type: 'extension',
      PreStartupCommand: `export VNI=1; export IF_NAME=${name}; ip link del $IF_NAME 2>/dev/null; ip link add $IF_NAME type vxlan id $VNI dstport 8472 nolearning && ip link set mtu 1450 dev $IF_NAME && cat /sys/class/net/$IF_NAME/address`,
      PostStartupCommand: `export IF_NAME=${name}; export SUBNET_IP=\`echo $SUBNET | cut -d'/' -f 1\`; ip addr add $SUBNET_IP/32 dev $IF_NAME && ip link set $IF_NAME up`,
      ShutdownCommand: `export IF_NAME=${name}; ip link del $IF_NAME`,
      SubnetAddCommand: `export SUBNET_IP=\`echo $SUBNET | cut -d'/' -f 1\`; export IF_NAME=${name}; read VTEP; ip route add $SUBNET nexthop via $SUBNET_IP dev $IF_NAME onlink && arp -s $SUBNET_IP $VTEP dev $IF_NAME && bridge fdb add $VTEP dev $IF_NAME self dst $PUBLIC_IP`,
    }),
  )
  const flags = (i: number) => [
    ...lab.etcd.flags,
    ...['-iface', 'eth0', '-subnet-file', join(lab.dir, `node${i}`, 'subnet.env')],
  ]
  const ours = { binary: withSysfs(OURS), flags: [...flags(1), '-docker-opts-file='], args: ['-ip-masq'] }
  const first = await lab.daemon(1, ours)
  const second = await lab.daemon(2, {
    binary: withSysfs(GO ?? OURS),
    flags: GO ? flags(2) : [...flags(2), '-docker-opts-file='],
    args: ['-ip-masq'],
  })
  await first.waitReady()
  await second.waitReady()
  const [link] = await lab.node(1).ipJson<{ address: string }>(`link show ${name}`)
  const lease = (await lab.etcd.leases()).find(({ key }) => key.endsWith(first.leaseKey()))
  expect(JSON.parse(lease?.value ?? '').BackendData).toBe(link?.address)
  await expectTraffic([first, second])
  expect(await first.stop()).toEqual({ code: 0, signal: null })
  expect(await lab.node(1).ip('link show')).not.toContain(name)
})

describe('a backend that cannot be', () => {
  test.each<[string, RegExp]>([
    ['ipsec', /"ipsec" is not supported: .*use "wireguard"/],
    ['aws-vpc', /"aws-vpc" is not supported: .*use "vxlan".*"host-gw".*"alloc"/],
    ['gce', /"gce" is not supported/],
    ['ali-vpc', /"ali-vpc" is not supported/],
    ['tencent-vpc', /"tencent-vpc" is not supported/],
    ['constructor', /unknown or unsupported backend type "constructor"; this flanneld has vxlan, /],
    ['', /unknown or unsupported backend type ""/],
  ])('%s is refused by name, with what to use instead', async (type, words) => {
    await lab.etcd.config(config({ Type: type }))
    const daemon = await lab.daemon(1)
    expect(await daemon.exited()).toEqual({ code: 1, signal: null })
    const errors = lines(daemon.log()).filter((line) => line.includes(' error '))
    expect(errors).toHaveLength(1)
    expect(errors[0]).toMatch(/Error fetching backend: /)
    expect(errors[0]).toMatch(words)
    expect(await lab.etcd.leases()).toEqual([])
  })
})

describe.each(['ipip', 'wireguard'])('%s on a kernel without it', (kind) => {
  test.skipIf(kernelHas(kind))('ends the start with one line that names the module', async () => {
    await lab.etcd.config(config({ Type: kind }))
    const daemon = await lab.daemon(1)
    expect(await daemon.exited()).toEqual({ code: 1, signal: null })
    const errors = lines(daemon.log()).filter((line) => line.includes(' error '))
    expect(errors).toEqual([
      expect.stringMatching(`Error registering network: this kernel has no .*modprobe ${kind}`),
    ])
  })
})

test('a change of the backend leaves nothing of the old one', async () => {
  const state = async (): Promise<readonly string[]> => {
    const text = await lab.node(1).run('sh', '-c', 'ip -o link | cut -d: -f2; ip route; ip nexthop')
    return lines(text).filter((line) => /flannel|172\.30|nhid|id /.test(line))
  }
  const steps: readonly { readonly backend: unknown; readonly device?: string; readonly via?: string }[] = [
    { backend: { Type: 'vxlan' }, device: 'flannel.1', via: 'flannel.1' },
    { backend: { Type: 'host-gw' }, via: 'eth0' },
    { backend: { Type: 'vxlan', VNI: 2 }, device: 'flannel.2', via: 'flannel.2' },
    { backend: { Type: 'vxlan', VNI: 2, DirectRouting: true }, device: 'flannel.2', via: 'eth0' },
    { backend: { Type: 'alloc' } },
    { backend: { Type: 'host-gw' }, via: 'eth0' },
    { backend: { Type: 'udp' }, device: 'flannel0' },
    { backend: HOST_GW_BY_HAND, via: 'eth0' },
  ]
  for (const { backend, device, via } of steps) {
    await lab.etcd.config(config(backend))
    const [first, second] = await pair([OURS, OURS])
    const gateway = via?.startsWith('flannel') ? subnetOf(second).replace(/\/.*/, '') : lab.address(2)
    const right = [
      ...(device ? [device] : []),
      // All peers are behind one route.
      ...(device === 'flannel0' ? ['172.30.0.0/16 dev flannel0'] : []),
      ...(via ? [`${subnetOf(second)} via ${gateway} dev ${via}${via === 'eth0' ? '' : ' onlink'}`] : []),
    ]
    await waitFor(async () => (await state()).join() === right.join(), {
      what: `${JSON.stringify(backend)} alone: ${right.join(', ')}`,
    })
    await first.stop()
    await second.stop()
  }
})
