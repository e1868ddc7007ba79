/**
 * Whole clusters on the real kernel with the real etcd: what is in etcd, in the kernel, in the files and on the wire,
 * byte for byte as flannel has it.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { asRoot, enableAuth, FLANNEL } from './auth.ts'
import { type Daemon, Lab, leaseValue, PREFIX, peerLeases, startPinger, waitFor } from './lab.ts'
import { startMirror } from './mirror.ts'
import { lines } from './namespace.ts'
import type { Pod } from './pod.ts'
import { ruled, settled } from './settled.ts'

vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 })

const CONFIG = '{"Network":"172.30.0.0/16","SubnetLen":21,"Backend":{"Type":"vxlan"}}'

/** `172.30.8.0` of the lease key `172.30.8.0-21`. */
const first = (key: string): string => key.slice(0, key.indexOf('-'))
const cidr = (key: string): string => key.replace('-', '/')

async function macOf(daemon: Daemon, device = 'flannel.1'): Promise<string> {
  const [link] = await daemon.namespace.ipJson<{ address: string }>(`link show ${device}`)
  return link?.address ?? ''
}

describe('three nodes with -ip-masq', () => {
  let lab: Lab
  const daemons: Daemon[] = []
  const pods: Pod[] = []
  const keys: string[] = []
  const macs: string[] = []
  const numbers = [1, 2, 3] as const
  const others = (i: number): number[] => numbers.filter((n) => n !== i)

  beforeAll(async () => {
    lab = await Lab.create({ nodes: 3 })
    const etcd = await lab.startEtcd()
    await etcd.config(CONFIG)
    for (const i of numbers) daemons.push(await lab.daemon(i, { args: ['-ip-masq'] }))
    for (const daemon of daemons) {
      await daemon.waitReady()
      keys.push(daemon.leaseKey())
      macs.push(await macOf(daemon))
      pods.push(await lab.pod(daemon))
    }
    for (const i of numbers) {
      await settled(lab, daemon(i), i)
      await ruled(daemon(i))
    }
  })
  afterAll(() => lab?.close())

  const at = <T>(list: readonly T[], i: number): T => {
    const item = list[i - 1]
    if (item === undefined) throw new Error(`no node ${i}`)
    return item
  }
  const daemon = (i: number): Daemon => at(daemons, i)

  test('etcd holds a lease for each, in the bytes that flannel writes, for a day', async () => {
    const leases = await lab.etcd.leases()
    expect(new Map(leases.map(({ key, value }) => [key, value]))).toEqual(
      new Map(
        numbers.map((i) => [
          `${PREFIX}/subnets/${at(keys, i)}`,
          `{"PublicIP":"${lab.address(i)}","BackendType":"vxlan","BackendData":{"VtepMAC":"${at(macs, i)}"}}`,
        ]),
      ),
    )
    for (const { key, ttl } of leases) {
      expect(key).toMatch(/\/172\.30\.(8|16|24|[3-9]\d|1\d\d|2[0-4]\d)\.0-21$/)
      expect(ttl).toBeGreaterThan(86_300)
      expect(ttl).toBeLessThanOrEqual(86_400)
    }
  })

  test.each(numbers)('the kernel of node %i shows the lines that flannel users know', async (i) => {
    const node = lab.node(i)
    const link = await node.ip('-d link show flannel.1')
    expect(link).toMatch(
      /^\d+: flannel\.1: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1450 qdisc noqueue state UNKNOWN mode DEFAULT group default \n/,
    )
    expect(link).toContain(`    link/ether ${at(macs, i)} brd ff:ff:ff:ff:ff:ff`)
    expect(link).toContain(
      `    vxlan id 1 local ${lab.address(i)} dev eth0 srcport 0 0 dstport 8472 nolearning ttl auto ageing 300 udpcsum `,
    )
    const addresses = lines(await node.ip('-4 address show dev flannel.1'))
    expect(addresses.slice(1)).toEqual([
      `inet ${first(at(keys, i))}/32 scope global flannel.1`,
      'valid_lft forever preferred_lft forever',
    ])
    const peers = others(i).map((n) => ({ key: at(keys, n), mac: at(macs, n), ip: lab.address(n) }))
    const routes = (await node.routes()).filter((route) => route.includes('flannel.1'))
    expect(new Set(routes)).toEqual(
      new Set(peers.map(({ key }) => `${cidr(key)} via ${first(key)} dev flannel.1 onlink`)),
    )
    const neighbours = lines(await node.ip('-4 neigh show nud permanent'))
    expect(new Set(neighbours)).toEqual(
      new Set(peers.map(({ key, mac }) => `${first(key)} dev flannel.1 lladdr ${mac} PERMANENT`)),
    )
    expect(new Set(await node.fdb('flannel.1'))).toEqual(
      new Set(peers.map(({ mac, ip }) => `${mac} dst ${ip} self permanent`)),
    )
  })

  test.each(numbers)("the firewall of node %i has flannel's six rules, each once, in order", async (i) => {
    const rules = lines(await lab.node(i).run('iptables-save')).filter((line) => line.startsWith('-A'))
    expect(rules.filter((rule) => rule.startsWith('-A POSTROUTING'))).toEqual([
      '-A POSTROUTING -s 172.30.0.0/16 -d 172.30.0.0/16 -j RETURN',
      '-A POSTROUTING -s 172.30.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully',
      `-A POSTROUTING ! -s 172.30.0.0/16 -d ${cidr(at(keys, i))} -j RETURN`,
      '-A POSTROUTING ! -s 172.30.0.0/16 -d 172.30.0.0/16 -j MASQUERADE --random-fully',
    ])
    expect(rules.filter((rule) => rule.startsWith('-A FORWARD'))).toEqual([
      '-A FORWARD -s 172.30.0.0/16 -j ACCEPT',
      '-A FORWARD -d 172.30.0.0/16 -j ACCEPT',
    ])
    expect(rules).toHaveLength(6)
  })

  test.each(numbers)('node %i has its two files, and nothing half-written', (i) => {
    const { subnetFile, dockerFile, runDir } = daemon(i)
    const bridge = `${first(at(keys, i)).replace(/0$/, '1')}/21`
    expect(readFileSync(subnetFile, 'utf8')).toBe(
      `FLANNEL_NETWORK=172.30.0.0/16\nFLANNEL_SUBNET=${bridge}\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n`,
    )
    expect(readFileSync(dockerFile, 'utf8')).toBe(
      `DOCKER_OPT_BIP="--bip=${bridge}"\nDOCKER_OPT_IPMASQ="--ip-masq=false"\nDOCKER_OPT_MTU="--mtu=1450"\n` +
        `DOCKER_NETWORK_OPTIONS=" --bip=${bridge} --ip-masq=false --mtu=1450"\n`,
    )
    expect(readdirSync(runDir).sort()).toEqual(['docker', 'log', 'notify', 'subnet.env'])
  })

  test('every flannel.1 and every pod answers every node and every pod', async () => {
    const targets = [...keys.map(first), ...pods.map(({ address }) => address)]
    for (const from of [
      ...daemons.map(({ namespace }) => namespace),
      ...pods.map(({ namespace }) => namespace),
    ]) {
      const answers = await Promise.all(targets.map((target) => from.ping(target, 3)))
      expect(targets.filter((_, n) => !answers[n])).toEqual([])
    }
  })

  test('pods see each other with their own address, and the world sees the node', async () => {
    const outside = await startMirror(lab.switch)
    lab.onClose(() => outside.close())
    for (const to of pods) {
      const mirror = await startMirror(to.namespace)
      for (const from of pods) {
        if (from !== to) expect(await mirror.seenFrom(from.namespace, to.address)).toBe(from.address)
      }
      await mirror.close()
    }
    for (const i of numbers) {
      expect(await outside.seenFrom(at(pods, i).namespace, lab.outside)).toBe(lab.address(i))
    }
  })

  test('a lease written by hand comes, changes its address and its MAC, and goes', async () => {
    const [peer = { key: '', publicIP: '', mac: '' }] = peerLeases(1, { network: '172.30.0.0', length: 21 })
    const all = async (): Promise<void> => {
      for (const i of numbers) await settled(lab, daemon(i), i)
    }
    await lab.etcd.putLease(peer)
    await all()
    expect(await lab.node(1).fdb('flannel.1')).toContain(`${peer.mac} dst ${peer.publicIP} self permanent`)
    await lab.etcd.putLease({ ...peer, publicIP: '10.200.9.9' })
    await all()
    await lab.etcd.putLease({ ...peer, publicIP: '10.200.9.9', mac: '02:00:00:99:99:99' })
    await all()
    expect((await lab.node(1).fdb('flannel.1')).join()).not.toContain(peer.mac)
    await lab.etcd.delete(`${PREFIX}/subnets/${peer.key}`)
    await all()
    expect((await lab.node(1).routes('flannel.1')).join()).not.toContain(first(peer.key))
  })

  test('a lease that expires is kept for a time of grace, and what is deleted goes at once', async () => {
    const [peer = { key: '', publicIP: '', mac: '' }] = peerLeases(1, { network: '172.30.0.0', length: 21 })
    await lab.etcd.putLease(peer, { ttl: 2 })
    const route = async (): Promise<boolean> =>
      (await lab.node(1).routes('flannel.1')).join().includes(first(peer.key))
    await waitFor(route, { what: 'its route' })
    await daemon(1).waitLog(/The subnet lease 172\.30\.\d+\.0-21 has expired; keeping the routes/)
    expect(await route()).toBe(true)
    await lab.etcd.putLease(peer)
    await lab.etcd.delete(`${PREFIX}/subnets/${peer.key}`)
    for (const i of numbers) await settled(lab, daemon(i), i)
  })

  test('a lease deleted by hand is claimed again by its owner, so soon that pods hardly notice', async () => {
    const pinger = await startPinger(at(pods, 2).namespace, at(pods, 1).address)
    const key = `${PREFIX}/subnets/${at(keys, 1)}`
    const before = await lab.etcd.get(key)
    await lab.etcd.delete(key)
    await waitFor(() => lab.etcd.get(key), { what: 'the lease to be back' })
    const after = await lab.etcd.get(key)
    expect(after?.value).toBe(before?.value)
    expect(after?.ttl).toBeGreaterThan(86_300)
    await daemon(1).waitLog(
      / warn +Lease \(172\.30\.\d+\.0\/21\) was deleted or had expired; claimed it again/,
    )
    const received = pinger.received()
    await waitFor(() => pinger.received() > received + 10, { what: 'pings to go on' })
    // Half a second of 50 pings a second. Peers drop the route for the moment in which there is no lease.
    const { lost } = await pinger.stop()
    expect(lost.length).toBeLessThan(25)
    for (const i of numbers) await settled(lab, daemon(i), i)
  })

  test.each([
    ['that is about to expire', '3', 'at once'],
    ['whose margin of 60 minutes is a second away', '3601', 'in a second'],
  ])('an own lease %s is renewed', async (_, ttl) => {
    const key = `${PREFIX}/subnets/${at(keys, 2)}`
    const value = (await lab.etcd.get(key))?.value ?? ''
    const renewals = (): number =>
      [
        ...daemon(2)
          .log()
          .matchAll(/Lease renewed, new expiration: /g),
      ].length
    const before = renewals()
    await lab.etcd.put(key, value, Number(ttl))
    await waitFor(async () => ((await lab.etcd.get(key))?.ttl ?? 0) > 86_000, { what: 'the renewal' })
    expect((await lab.etcd.get(key))?.value).toBe(value)
    await waitFor(() => renewals() === before + 1, { what: 'the line' })
  })

  test('a lease that another node took ends its owner with status 1, and the next start takes another', async () => {
    const key = at(keys, 3)
    const thief = { key, publicIP: '10.200.9.9', mac: '02:00:00:00:00:09' }
    await lab.etcd.putLease(thief)
    expect(await daemon(3).exited()).toEqual({ code: 1, signal: null })
    const errors = lines(daemon(3).log()).filter((line) => / error /.test(line))
    expect(errors).toHaveLength(1)
    expect(errors[0]).toMatch(
      /Lease has been revoked\. Shutting down daemon\..*172\.30\.\d+\.0\/21.*10\.200\.9\.9 holds it now.*next start/,
    )
    expect(await lab.etcd.get(`${PREFIX}/subnets/${key}`)).toMatchObject({ value: leaseValue(thief) })

    // Docker is started over with the new options; the old bridge would keep the route to the thief away.
    await lab.node(3).ip('link del docker0')
    const again = await lab.daemon(3, { args: ['-ip-masq'] })
    await again.waitReady()
    expect(again.leaseKey()).not.toBe(key)
    await settled(lab, again, 3)
    for (const i of [1, 2]) await settled(lab, daemon(i), i)
    // The device, and so the MAC, is the same: peers have one FDB entry less to learn.
    expect(await macOf(again)).toBe(at(macs, 3))
  })
})

describe('options of the network config and of etcd', () => {
  test('VNI, Port and GBP', async () => {
    await withNodes(
      2,
      '{"Network":"172.30.0.0/16","Backend":{"Type":"VXLAN","VNI":7,"Port":4790,"GBP":true}}',
      async (lab, daemons) => {
        for (const [i, daemon] of daemons.entries()) {
          await settled(lab, daemon, i + 1, { vni: 7, port: 4790 })
          const link = await daemon.namespace.ip('-d link show flannel.7')
          expect(link).toMatch(/ vxlan id 7 local .* dstport 4790 nolearning .* gbp /)
          expect(daemon.log()).toContain('VXLAN config: VNI=7 Port=4790 GBP=true DirectRouting=false')
        }
        const [one, two] = daemons as [Daemon, Daemon]
        expect(await one.namespace.ping(first(two.leaseKey()), 3)).toBe(true)
      },
    )
  })

  test('DirectRouting: neighbours on the link are reached without a tunnel, others through it', async () => {
    await withNodes(
      2,
      '{"Network":"172.30.0.0/16","Backend":{"Type":"vxlan","DirectRouting":true}}',
      async (lab, daemons) => {
        const [one, two] = daemons as [Daemon, Daemon]
        const [far = { key: '', publicIP: '', mac: '' }] = peerLeases(1, { network: '172.30.0.0' })
        await lab.etcd.putLease(far)
        const tunnelled = `${cidr(far.key)} via ${first(far.key)} onlink`
        for (const [own, other, i] of [
          [one, two, 2],
          [two, one, 1],
        ] as const) {
          const node = own.namespace
          const direct = `${cidr(other.leaseKey())} via ${lab.address(i)} dev eth0`
          await waitFor(
            async () =>
              (await node.routes()).includes(`${direct}`) &&
              (await node.routes('flannel.1')).includes(tunnelled),
            { what: () => `${direct}; ${own.log()}` },
          )
          expect(await node.routes('flannel.1')).toEqual([tunnelled])
          expect(await node.neighbours('flannel.1')).toEqual([
            `${first(far.key)} lladdr ${far.mac} PERMANENT`,
          ])
          expect(await node.fdb('flannel.1')).toEqual([`${far.mac} dst ${far.publicIP} self permanent`])
        }
        const pods = [await lab.pod(one), await lab.pod(two)] as const
        expect(await pods[0].namespace.ping(pods[1].address, 3)).toBe(true)
      },
    )
  })

  test('-public-ip is what peers are told, and a prefix may be written loosely', async () => {
    const lab = await Lab.create({ nodes: 1 })
    try {
      const etcd = await lab.startEtcd()
      await etcd.config(CONFIG, '/some/where')
      const args = ['-public-ip', '198.51.100.7', '-etcd-prefix', 'some//where/']
      const daemon = await lab.daemon(1, { args })
      await daemon.waitReady()
      const [lease] = await etcd.leases('/some/where')
      expect(lease?.value).toContain('{"PublicIP":"198.51.100.7",')
      await settled(lab, daemon, 1, { leases: lease === undefined ? [] : [lease] })
    } finally {
      await lab.close()
    }
  })

  test('three etcd members with TLS and client certificates', async () => {
    await withNodes(
      2,
      CONFIG,
      async (lab, daemons) => {
        await lab.etcd.seed(peerLeases(5, { network: '172.30.0.0', length: 21 }))
        for (const [i, daemon] of daemons.entries()) await settled(lab, daemon, i + 1)
      },
      { members: 3, tls: true },
    )
  })

  test('etcd that asks for a name and a password', async () => {
    const lab = await Lab.create({ nodes: 2 })
    try {
      const etcd = await lab.startEtcd()
      await etcd.config(CONFIG)
      await enableAuth(lab)
      const { username, password } = FLANNEL
      const daemons = [
        await lab.daemon(1, { args: ['-etcd-username', username, '-etcd-password', password] }),
        await lab.daemon(2, { env: { FLANNELD_ETCD_USERNAME: username, FLANNELD_ETCD_PASSWORD: password } }),
      ]
      for (const daemon of daemons) await daemon.waitReady()
      const [peer = { key: '', publicIP: '', mac: '' }] = peerLeases(1, { network: '172.30.0.0', length: 21 })
      const value = encodeURIComponent(leaseValue(peer))
      await asRoot(lab, 'PUT', `/v2/keys${PREFIX}/subnets/${peer.key}?value=${value}`)
      const listed = JSON.parse(await asRoot(lab, 'GET', `/v2/keys${PREFIX}/subnets?recursive=true`))
      expect(listed.node.nodes).toHaveLength(3)
      for (const [i, daemon] of daemons.entries()) {
        await settled(lab, daemon, i + 1, { leases: listed.node.nodes })
        expect(daemon.log()).not.toContain(password)
      }
    } finally {
      await lab.close()
    }
  })

  test('a reservation, which has no expiry, is used and stays one', async () => {
    const lab = await Lab.create({ nodes: 1 })
    try {
      const etcd = await lab.startEtcd()
      await etcd.config(CONFIG)
      const reservation = { key: '172.30.248.0-21', publicIP: lab.address(1), mac: '02:00:00:00:00:01' }
      await etcd.put(`${PREFIX}/subnets/${reservation.key}`, leaseValue(reservation))
      for (let run = 0; run < 2; run++) {
        const daemon = await lab.daemon(1)
        await daemon.waitReady()
        await daemon.waitLog(/Lease \(172\.30\.248\.0\/21\) is a reservation and is not renewed/)
        expect(daemon.log()).toContain('Found lease (172.30.248.0/21) for current IP (10.77.1.2), reusing')
        expect(await macOf(daemon)).toBe(reservation.mac)
        const [lease] = await etcd.leases()
        expect(lease).toMatchObject({
          key: `${PREFIX}/subnets/${reservation.key}`,
          value: leaseValue(reservation),
        })
        expect(lease).not.toHaveProperty('ttl')
        await daemon.stop()
      }
    } finally {
      await lab.close()
    }
  })

  test('-subnet-lease-renew-margin 1439 renews a minute after the start; at 1430, a lease with two seconds more is renewed then', async () => {
    const lab = await Lab.create({ nodes: 1 })
    try {
      const etcd = await lab.startEtcd()
      await etcd.config(CONFIG)
      const first = await lab.daemon(1, { args: ['-subnet-lease-renew-margin', '1439'] })
      await first.waitReady()
      await first.waitLog(/Waiting for (59\.\d+s|1m0s) to renew lease/)
      await first.stop()
      const daemon = await lab.daemon(1, { args: ['-subnet-lease-renew-margin', '1430'] })
      await daemon.waitReady()
      const key = `${PREFIX}/subnets/${daemon.leaseKey()}`
      // Well below a full term: that would look like the doing of a node with the same public IP.
      await etcd.put(key, (await etcd.get(key))?.value ?? '', 1430 * 60 + 2)
      await daemon.waitLog(/Waiting for [12](\.\d+)?s to renew lease/)
      await daemon.waitLog(/Lease renewed, new expiration: \d{4}-\d\d-\d\dT/)
      expect((await etcd.get(key))?.ttl).toBeGreaterThan(86_390)
    } finally {
      await lab.close()
    }
  })
})

/** Runs `body` with `count` nodes up and ready on `config`. */
async function withNodes(
  count: number,
  config: string,
  body: (lab: Lab, daemons: readonly Daemon[]) => Promise<void>,
  etcd: Parameters<Lab['startEtcd']>[0] = {},
): Promise<void> {
  const lab = await Lab.create({ nodes: count })
  try {
    await (await lab.startEtcd(etcd)).config(config)
    const daemons: Daemon[] = []
    for (let i = 1; i <= count; i++) daemons.push(await lab.daemon(i))
    for (const daemon of daemons) await daemon.waitReady()
    await body(lab, daemons)
  } finally {
    await lab.close()
  }
}
