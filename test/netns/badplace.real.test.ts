/**
 * What can be wrong around a daemon whose input is right: devices that it cannot have, an etcd that does not let it in, and
 * leases that others wrote.
 */
import { copyFileSync, mkdirSync, renameSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test, vi } from 'vitest'
import { enableAuth, FLANNEL, setPassword } from './auth.ts'
import { differences } from './checker.ts'
import { complaints, expectOneLine, files, GOOD } from './complaints.ts'
import { type Daemon, Lab, type PeerLease, PREFIX, peerLeases, waitFor } from './lab.ts'
import { makeTls } from './tls.ts'

vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 })

test('the device, the VNI or the backend cannot be had: one line, exit 1, nothing of others is touched', async () => {
  const lab = await Lab.create({ nodes: 1 })
  try {
    const { etcd } = { etcd: await lab.startEtcd() }
    const node = lab.node(1)
    const refused = async (config: string, ...says: (string | RegExp)[]): Promise<void> => {
      await etcd.config(config)
      const before = await node.ip('-d link show type bridge')
      const daemon = await lab.daemon(1)
      expect(await daemon.exited()).toEqual({ code: 1, signal: null })
      expectOneLine(daemon, says)
      expect(files(daemon)).toEqual([])
      expect(await node.ip('-d link show type bridge')).toBe(before)
    }
    const vxlan = (options: string): string =>
      `{"Network":"172.30.0.0/16","Backend":{"Type":"vxlan"${options}}}`
    const backend = (type: string): string => `{"Network":"172.30.0.0/16","Backend":{"Type":"${type}"}}`
    await refused(backend('geneve'), 'Error fetching backend', '"geneve"', 'has vxlan', 'set Backend.Type')
    await refused(backend('ipsec'), 'Error fetching backend', '"ipsec" is not supported', 'set Backend.Type')
    await refused('{"Network":"172.30.0.0/16","Backend":{}}', 'backend type ""', 'set Backend.Type')
    await refused(vxlan(',"VNI":"7"'), 'Error registering network', 'VNI', 'not "7"')
    await refused(vxlan(',"VNI":16777216'), 'Error registering network', 'VNI', 'not 16777216')
    await refused(vxlan(',"Port":70000'), 'Error registering network', 'Port', '65535', 'not 70000')
    await refused(vxlan(',"DirectRouting":"yes"'), 'Error registering network', 'DirectRouting', '"yes"')
    await node.ip('link add flannel.1 type bridge')
    await refused(GOOD, 'Error registering network', 'flannel.1', 'bridge', 'ip link del flannel.1')
    await node.ip('link del flannel.1')
    expect(await etcd.leases()).toEqual([])

    await node.ip('link add vx0 type vxlan id 1 dev eth0 dstport 8472')
    await refused(GOOD, 'Error registering network', 'VNI 1 on UDP port 8472', 'vx0', 'ip link del vx0')
    await node.ip('link del vx0')
    await node.ipBatch([
      `link add flannel.1 type vxlan id 1 dev eth0 local ${lab.address(1)} dstport 8472 nolearning`,
      'address add 172.30.1.0/32 dev flannel.1',
      'address add 172.30.2.0/32 dev flannel.1',
    ])
    await refused(
      GOOD,
      'flannel.1',
      'link has incompatible addresses',
      '172.30.1.0/32, 172.30.2.0/32',
      'ip addr flush dev flannel.1',
    )
  } finally {
    await lab.close()
  }
})

test('etcd that does not trust us, or that we do not trust', async () => {
  const lab = await Lab.create({ nodes: 1 })
  try {
    const etcd = await lab.startEtcd({ tls: true })
    await etcd.config(GOOD)
    const { caFile = '', clientCertFile = '', clientKeyFile = '' } = etcd.tls ?? {}
    mkdirSync(join(lab.dir, 'stranger'))
    const stranger = await makeTls(join(lab.dir, 'stranger'), ['192.0.2.1'])
    let runs = 0
    const complaining = async (flags: string, ...says: string[]): Promise<Daemon> => {
      const runDir = join(lab.dir, `run${++runs}`)
      const out = `-iface eth0 -subnet-file ${runDir}/subnet.env -docker-opts-file ${runDir}/docker`
      const daemon = await lab.daemon(1, { runDir, flags: `${out} ${flags}`.split(' ') })
      await waitFor(() => complaints(daemon).length > 0, { what: () => `a complaint: ${daemon.log()}` })
      expectOneLine(daemon, ["Couldn't fetch network config", ...says])
      return daemon
    }
    const https = `-etcd-endpoints ${etcd.endpoints}`
    const ca = `-etcd-cafile ${caFile}`
    const mine = `-etcd-certfile ${clientCertFile} -etcd-keyfile ${clientKeyFile}`
    const theirs = `-etcd-certfile ${stranger.clientCertFile} -etcd-keyfile ${stranger.clientKeyFile}`
    const mixed = `-etcd-certfile ${clientCertFile} -etcd-keyfile ${stranger.clientKeyFile}`
    const url = `//${lab.outside}:2379/`
    for (const [flags, ...says] of [
      [`${https} ${mine}`, url, 'unknown CA', '-etcd-cafile'],
      [`${https} ${ca}`, url, 'client certificate', 'check -etcd-certfile and -etcd-keyfile'],
      [`${https} ${ca} ${theirs}`, url, 'client certificate', 'check -etcd-certfile and -etcd-keyfile'],
      [
        `${https} ${ca} ${mixed}`,
        'key values mismatch',
        `${clientCertFile} and -etcd-keyfile`,
        'belong together',
      ],
      [https.replace('https:', 'http:'), url, 'check http:// or https:// in -etcd-endpoints'],
    ] as const) {
      const daemon = await complaining(flags, ...says)
      expect(await daemon.stop()).toEqual({ code: 0, signal: null })
      expect(files(daemon)).toEqual([])
    }

    const trusted = join(lab.dir, 'trusted.pem')
    copyFileSync(stranger.caFile, trusted)
    const daemon = await complaining(`${https} ${mine} -etcd-cafile ${trusted}`, 'CA', '-etcd-cafile')
    copyFileSync(caFile, `${trusted}.new`)
    renameSync(`${trusted}.new`, trusted)
    await daemon.waitReady()
    expect(complaints(daemon)).toHaveLength(1)
  } finally {
    await lab.close()
  }
})

test('a wrong password, and none', async () => {
  const lab = await Lab.create({ nodes: 1 })
  try {
    const etcd = await lab.startEtcd()
    await etcd.config(GOOD)
    await enableAuth(lab)
    const says = ["Couldn't fetch network config", `${lab.outside}:2379`, '-etcd-username', '-etcd-password']
    const nobody = await lab.daemon(1)
    await waitFor(() => complaints(nobody).length > 0, { what: () => `a complaint: ${nobody.log()}` })
    expectOneLine(nobody, says)
    await nobody.stop()

    const env = { FLANNELD_ETCD_USERNAME: FLANNEL.username, FLANNELD_ETCD_PASSWORD: 'not the password' }
    const daemon = await lab.daemon(1, { env })
    await waitFor(() => complaints(daemon).length > 0, { what: () => `a complaint: ${daemon.log()}` })
    expectOneLine(daemon, says)
    expect(files(daemon)).toEqual([])
    await setPassword(lab, 'not the password')
    await daemon.waitReady()
    expectOneLine(daemon, says)
    expect(daemon.log()).not.toContain('not the password')
  } finally {
    await lab.close()
  }
})

describe('leases that others wrote wrongly', () => {
  const MAC = '"BackendType":"vxlan","BackendData":{"VtepMAC":"02:00:00:00:00:01"}'
  const lease = (publicIP: unknown): string => `{"PublicIP":${JSON.stringify(publicIP)},${MAC}}`
  const withData = (data: string): string =>
    `{"PublicIP":"10.200.0.1","BackendType":"vxlan","BackendData":${data}}`
  const OURS_ALREADY = "this node's PublicIP"
  /** A subnet of its own for each bad lease whose key is right. */
  let subnets = 0
  const subnet = (): string => `172.30.${(++subnets >> 5) + 128}.${(subnets & 31) * 8}-29`

  const kinds: readonly (readonly [
    what: string,
    key: (i: number) => string,
    value: (i: number) => string,
  ])[] = [
    ['a key that is no subnet', (i) => `node${i}`, () => lease('10.200.0.1')],
    ['a key with more in it', (i) => `172.30.1.${i * 8}-29.old`, () => lease('10.200.0.1')],
    ['a key with host bits', (i) => `172.30.2.${i * 8 + 1}-29`, () => lease('10.200.0.1')],
    ['a key of a single host', (i) => `172.30.2.${i}-32`, () => lease('10.200.0.1')],
    ['a subnet of another network', (i) => `172.29.${i}.0-29`, () => lease('10.200.0.1')],
    ['a subnet wider than the network', (i) => `172.0.0.0-${i + 1}`, () => lease('10.200.0.1')],
    ['no JSON', subnet, (i) => '{"PublicIP":"10.200.0.1",'.slice(0, 2 + i)],
    ['JSON of another kind', subnet, (i) => ['[]', 'null', '"x"', '7'][i % 4] ?? ''],
    ['no PublicIP', subnet, () => `{${MAC}}`],
    ['a PublicIP of another kind', subnet, (i) => lease([null, 7, [], {}, true][i % 5])],
    [
      'a PublicIP that is no IPv4 address',
      subnet,
      (i) => lease(['::1', 'fd00::1', 'node', '', '10.200.0', '10.200.0.256'][i % 6]),
    ],
    [
      'a PublicIP that is no host',
      subnet,
      (i) => lease(['0.0.0.0', '127.0.0.1', '224.0.0.1', '255.255.255.255'][i % 4]),
    ],
    [OURS_ALREADY, subnet, () => lease('10.77.1.2')],
    [
      'a PublicIP inside its own subnet',
      (i) => `172.30.64.${i * 8}-29`,
      (i) => lease(`172.30.64.${i * 8 + 1}`),
    ],
    [
      'another backend',
      subnet,
      (i) => `{"PublicIP":"10.200.0.1","BackendType":"${['host-gw', 'ipip', ''][i % 3]}"}`,
    ],
    [
      'no MAC',
      subnet,
      (i) => withData(['null', '{}', '[]', '"x"', '{"VtepMAC":7}', '{"VtepMAC":null}'][i % 6] ?? ''),
    ],
    [
      'a MAC that is none',
      subnet,
      (i) => withData(`{"VtepMAC":"${['', 'x', '02:00:00:00:00', '02:00:00:00:00:0g'][i % 4]}"}`),
    ],
    [
      'a MAC that is nobody',
      subnet,
      (i) =>
        withData(`{"VtepMAC":"${['00:00:00:00:00:00', 'ff:ff:ff:ff:ff:ff', '01:00:5e:00:00:01'][i % 3]}"}`),
    ],
    ['control characters', subnet, (i) => `{"PublicIP":"\u001b[31m\n${i}",${MAC}}`],
    ['a value of 100 kB', subnet, () => JSON.stringify('x'.repeat(100_000))],
  ]

  test('a dozen of each kind cost one line each, and nothing else', async () => {
    const lab = await Lab.create({ nodes: 1 })
    try {
      const etcd = await lab.startEtcd()
      await etcd.config(
        '{"Network":"172.30.0.0/16","SubnetLen":29,"SubnetMin":"172.30.192.0","Backend":{"Type":"vxlan"}}',
      )
      const bad = Array.from({ length: 12 }, (_, i) =>
        kinds.map(([what, key, value]) => ({ what, key: key(i), value: value(i) })),
      )
        .flat()
        // A lease of our own address that does not fit is deleted at start, as it should be.
        .filter(({ what }, i) => i >= 120 || what !== OURS_ALREADY)
      const good = peerLeases(48, { network: '172.30.96.0', length: 29 })
      const half = Math.floor(bad.length / 2)
      const write = async (first: boolean): Promise<void> => {
        const [from, peers] = first ? [0, good.slice(0, 24)] : [half, good.slice(24)]
        await etcd.seed(peers.slice(0, 12))
        for (const { key, value } of first ? bad.slice(0, half) : bad.slice(half)) {
          await etcd.put(`${PREFIX}/subnets/${key}`, value)
        }
        await etcd.request('PUT', `/v2/keys${PREFIX}/subnets/folder${from}`, { dir: 'true' })
        await etcd.seed(peers.slice(12))
      }
      await write(true)
      const daemon = await lab.daemon(1)
      await daemon.waitReady()
      const settled = async (leases: readonly PeerLease[]): Promise<void> => {
        const own = daemon.leaseKey()
        const wanted = new Set([own, ...leases.map(({ key }) => key)])
        let found: readonly string[] = []
        await waitFor(
          async () => {
            const all = await etcd.leases()
            const right = all.filter(({ key }) => wanted.has(key.slice(key.lastIndexOf('/') + 1)))
            found = await differences(lab.node(1), { leases: right, own, local: lab.address(1) })
            return found.length === 0
          },
          {
            what: () =>
              `the good leases, and only those: ${found.slice(0, 9).join('; ')}; ${daemon.log().slice(-2000)}`,
            interval: 100,
          },
        )
      }
      await settled(good.slice(0, 24))
      await write(false)
      await settled(good)
      const heard = complaints(daemon)
      for (const { what, key } of bad) {
        const lines = heard.filter((line) =>
          [key, key.replace('-', '/')].some((name) => new RegExp(`\\b${name}\\b`).test(line)),
        )
        expect(lines, `${what}: ${key}`).toHaveLength(1)
      }
      expect(heard.length).toBeLessThanOrEqual(bad.length + 2)
      // biome-ignore lint/suspicious/noControlCharactersInRegex: that is what must not be there
      expect(daemon.log()).not.toMatch(/\x1b/)
      expect(heard.every((line) => line.length < 500)).toBe(true)

      const [mended] = bad
      const fresh = peerLeases(1, { network: '172.30.96.0', length: 29, first: 100 })
      await etcd.delete(`${PREFIX}/subnets/${mended?.key}`)
      await etcd.seed(fresh)
      await settled([...good, ...fresh])
    } finally {
      await lab.close()
    }
  })
})
