/**
 * What an operator can get wrong, and what the daemon says to it: one line that tells what, where, why and what to do;
 * then the exit status, or patience until the cause is mended. Nothing here may leave a stack trace or half a file.
 */
import { copyFileSync, mkdirSync, readdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { enableAuth, FLANNEL, setPassword } from './auth.ts'
import { differences } from './checker.ts'
import { type Daemon, Lab, OURS, type PeerLease, PREFIX, peerLeases, waitFor } from './lab.ts'
import { lines } from './namespace.ts'
import { run } from './process.ts'
import { startProxy } from './proxy.ts'
import { makeTls } from './tls.ts'

vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 })

const GOOD = '{"Network":"172.30.0.0/16","SubnetLen":21,"Backend":{"Type":"vxlan"}}'

/** What the daemon wrote that is no information: everything of level warn and above, and everything without a level. */
function complaints(daemon: Daemon): readonly string[] {
  return lines(daemon.log()).filter(
    (line) => !/^\S+ \S+ (info|debug) /.test(line) && line !== "Try 'flanneld -help' for all flags.",
  )
}

/** Exactly one complaint, with all of `parts` in it and no stack trace. */
function expectOneLine(daemon: Daemon, parts: readonly (string | RegExp)[]): void {
  const found = complaints(daemon)
  expect(found).toHaveLength(1)
  for (const part of parts) expect(found[0]).toMatch(part)
  expect(daemon.log()).not.toMatch(/^\s+at |\\n\s+at |Error: .*Error: /m)
}

function files(daemon: Daemon): readonly string[] {
  return readdirSync(daemon.runDir)
    .filter((name) => name !== 'log' && name !== 'notify')
    .sort()
}

describe.concurrent('a daemon that cannot go on says why and ends', () => {
  let lab: Lab
  let runs = 0

  beforeAll(async () => {
    lab = await Lab.create({ nodes: 1 })
    await lab.startEtcd()
    await lab.node(1).ip('link add bare type bridge')
    const taken = lab
      .node(1)
      .start([
        'python3',
        '-c',
        'import socket; s = socket.create_server(("", 7777)); print("on", flush=True); s.accept()',
      ])
    lab.onClose(() => void taken.kill('SIGKILL'))
    await new Promise((resolve) => taken.stdout?.once('data', resolve))
    writeFileSync(join(lab.dir, 'text'), 'no PEM\n')
  })
  afterAll(() => lab?.close())

  interface Case {
    readonly args?: readonly string[]
    readonly env?: Readonly<Record<string, string>>
    /** Instead of the lab's own flags. */
    readonly flags?: (lab: Lab) => readonly string[]
    readonly binary?: string
    readonly exit: 1 | 2
    readonly says: readonly (string | RegExp)[]
  }
  const at = (name: string) => (l: Lab) => join(l.dir, name)

  test.for<[string, Case]>([
    ['an unknown flag', { args: ['-ip-mask'], exit: 2, says: ['flag provided but not defined: -ip-mask'] }],
    [
      'a value that is no number',
      {
        args: ['-healthz-port', 'http'],
        exit: 2,
        says: ['invalid value "http" for flag -healthz-port: parse error'],
      },
    ],
    ['a flag without its value', { args: ['-iface'], exit: 2, says: ['flag needs an argument: -iface'] }],
    [
      'a bad boolean',
      { args: ['-ip-masq=maybe'], exit: 2, says: [/invalid boolean value "maybe" for -ip-masq/] },
    ],
    ['bad dashes', { args: ['---ip-masq'], exit: 2, says: ['bad flag syntax: ---ip-masq'] }],
    [
      'a bad boolean in the environment',
      {
        env: { FLANNELD_IP_MASQ: 'maybe' },
        exit: 2,
        says: [/invalid value "maybe".*FLANNELD_IP_MASQ/],
      },
    ],
    [
      'a bad number in the environment',
      {
        env: { FLANNELD_IPTABLES_RESYNC: '5s' },
        exit: 2,
        says: [/invalid value "5s".*FLANNELD_IPTABLES_RESYNC/],
      },
    ],
    [
      'a renewal margin of 0',
      {
        args: ['-subnet-lease-renew-margin', '0'],
        exit: 1,
        says: [/subnet-lease-renew-margin.*out of acceptable range.* 0 .*minutes, 1 to 1439/],
      },
    ],
    [
      'a renewal margin of a day',
      {
        env: { FLANNELD_SUBNET_LEASE_RENEW_MARGIN: '1440' },
        exit: 1,
        says: [/subnet-lease-renew-margin.*out of acceptable range.* 1440 .*1 to 1439/],
      },
    ],
    [
      'an IPv6 public address',
      {
        args: ['-public-ip', 'fd00::1'],
        exit: 1,
        says: ['invalid public IP address: fd00::1', 'IPv4', '-public-ip'],
      },
    ],
    [
      'a public address that is none',
      {
        args: ['-public-ip', 'eth0'],
        exit: 1,
        says: ['invalid public IP address: eth0', '-public-ip'],
      },
    ],
    [
      'the Kubernetes mode',
      {
        args: ['-kube-subnet-mgr'],
        exit: 1,
        says: ['-kube-subnet-mgr is not supported', 'leave the flag out'],
      },
    ],
    [
      'a port beyond 65535',
      { args: ['-healthz-port', '65536'], exit: 1, says: [/healthz-port.*65536.*at most 65535/] },
    ],
    [
      'a health port that is taken',
      {
        args: ['-healthz-port', '7777'],
        exit: 1,
        says: [
          'healthz server on 0.0.0.0:7777',
          'EADDRINUSE',
          'another process has the port',
          '-healthz-port',
        ],
      },
    ],
    [
      'an interface that does not exist',
      {
        flags: (l) => [...l.etcd.flags, '-iface', 'eth9'],
        exit: 1,
        says: ['Failed to find interface to use', '-iface eth9', 'eth0:10.77.1.2'],
      },
    ],
    [
      'an interface without an address',
      {
        flags: (l) => [...l.etcd.flags, '-iface', 'bare'],
        exit: 1,
        says: ['Failed to find interface to use', '-iface bare', 'bare:<nil>', 'eth0:10.77.1.2'],
      },
    ],
    [
      'a regular expression that is none',
      {
        flags: (l) => [...l.etcd.flags, '-iface-regex', 'eth('],
        exit: 1,
        says: ['Failed to find interface to use', /-iface-regex eth\(/],
      },
    ],
    [
      'an endpoint without a scheme',
      {
        args: ['-etcd-endpoints', '10.77.0.1:2379'],
        exit: 1,
        says: ['Failed to create SubnetManager', '"10.77.0.1:2379"', 'http://host:2379'],
      },
    ],
    [
      'no endpoint',
      {
        flags: () => ['-etcd-endpoints', '', '-iface', 'eth0'],
        exit: 1,
        says: ['Failed to create SubnetManager', 'no etcd endpoint', '-etcd-endpoints'],
      },
    ],
    [
      'a key without its certificate',
      {
        args: ['-etcd-keyfile', '/etc/hosts'],
        exit: 1,
        says: ['KeyFile and CertFile must both be present[key: /etc/hosts, cert: ]', '-etcd-certfile'],
      },
    ],
    [
      'a CA file that does not exist',
      {
        args: ['-etcd-cafile', '/nowhere/ca.pem'],
        exit: 1,
        says: ['Failed to create SubnetManager', '-etcd-cafile', 'ENOENT', '/nowhere/ca.pem'],
      },
    ],
    [
      'a CA file that is no PEM',
      {
        flags: (l) => [...l.etcd.flags, '-iface', 'eth0', '-etcd-cafile', at('text')(l)],
        exit: 1,
        says: ['Failed to create SubnetManager', '-etcd-cafile', /\/text is not a PEM file/],
      },
    ],
    [
      'a process without the right to administer the network',
      {
        binary: 'setpriv',
        flags: (l) => [
          '--bounding-set',
          '-net_admin',
          '--inh-caps',
          '-net_admin',
          OURS,
          ...l.etcd.flags,
          '-iface',
          'eth0',
        ],
        exit: 1,
        says: ['must run as root', 'CAP_NET_ADMIN'],
      },
    ],
  ])('%s', async ([, { args, env, flags, binary, exit, says }]) => {
    const daemon = await lab.daemon(1, {
      runDir: join(lab.dir, `run${++runs}`),
      ...(args && { args }),
      ...(env && { env }),
      ...(binary && { binary }),
      ...(flags && { flags: flags(lab) }),
    })
    expect(await daemon.exited(30_000)).toEqual({ code: exit, signal: null })
    expectOneLine(daemon, says)
    expect(files(daemon)).toEqual([])
  })
})

describe.concurrent('a daemon waits for what can be mended, says so once, and goes on', () => {
  let lab: Lab
  let nodes = 0

  interface Case {
    /** `<prefix>/config` at the start; absent for none. */
    readonly config?: string | undefined
    readonly args?: (place: Place) => readonly string[]
    readonly env?: (place: Place) => Readonly<Record<string, string>>
    /** Before the start. */
    readonly spoil?: (place: Place) => Promise<unknown> | unknown
    readonly says: readonly (string | RegExp)[]
    readonly mend: (place: Place) => Promise<unknown> | unknown
    /** What tells that all is well again, besides READY=1. */
    readonly mended?: RegExp
  }
  interface Place {
    readonly i: number
    readonly prefix: string
    readonly runDir: string
  }

  beforeAll(async () => {
    lab = await Lab.create({ nodes: 30 })
    await lab.startEtcd()
  })
  afterAll(() => lab?.close())

  const put = (config: string) => (place: Place) => lab.etcd.config(config, place.prefix)
  /** A config that cannot be used, mended by a good one. */
  const config = (text: string, ...says: (string | RegExp)[]): Case => ({
    config: text,
    says: ["Couldn't fetch network config", ...says],
    mend: put(GOOD),
    mended: /Fetched the network config after \d+ failed attempts/,
  })
  const three = peerLeases(3, { network: '172.30.0.0', length: 30 })
  let programs = ''

  test.for<[string, Case]>([
    // The slowest first: they run beside the others.
    [
      'every subnet leased',
      {
        config: '{"Network":"172.30.0.0/28","Backend":{"Type":"vxlan"}}',
        spoil: ({ prefix }) => lab.etcd.seed(three, { prefix }),
        says: [
          "Couldn't acquire a lease",
          'out of subnets',
          '172.30.0.4',
          'delete stale leases or widen Network',
        ],
        mend: ({ prefix }) => lab.etcd.delete(`${prefix}/subnets/${three[1]?.key}`),
        mended: /Acquired a lease after/,
      },
    ],
    [
      'a subnet file in a folder that is a file',
      {
        config: GOOD,
        args: ({ runDir }) => ['-subnet-file', join(runDir, 'run/subnet.env')],
        spoil: ({ runDir }) => writeFileSync(join(runDir, 'run'), ''),
        says: ['Failed to write subnet file', /\/run\/\.?subnet\.env/, 'ENOTDIR', '-subnet-file'],
        mend: ({ runDir }) => rmSync(join(runDir, 'run')),
        mended: /Wrote subnet file to .*\/run\/subnet\.env/,
      },
    ],
    [
      'docker options where a folder is',
      {
        config: GOOD,
        spoil: ({ runDir }) => mkdirSync(join(runDir, 'docker')),
        says: ['Failed to write docker options', /\/docker'/, 'EISDIR', '-docker-opts-file'],
        mend: ({ runDir }) => rmSync(join(runDir, 'docker'), { recursive: true }),
        mended: /Wrote docker options to/,
      },
    ],
    ['no config', { ...config('', 'Key not found', /\/config.*write it/), config: undefined }],
    [
      'JSON that ends early',
      config('{"Network":', 'not valid JSON', '"{\\"Network\\":"', 'expected for example'),
    ],
    ['a comma too many', config('{"Network":"172.30.0.0/16",}', 'not valid JSON', 'expected for example')],
    ['an array', config('[]', 'is an array, not an object', 'expected for example')],
    ['no Network', config('{}', 'no Network', 'add for example')],
    [
      'an IPv6 Network',
      config('{"Network":"fd00::/64"}', 'Network', 'fd00::/64', 'expected an IPv4 network'),
    ],
    [
      'a Network too small',
      config('{"Network":"172.30.0.0/29"}', 'Network 172.30.0.0/29', 'too small', '/28'),
    ],
    ['SubnetLen too long', config('{"Network":"172.30.0.0/16","SubnetLen":31}', 'SubnetLen', '31')],
    [
      'SubnetLen too short',
      config('{"Network":"172.30.0.0/16","SubnetLen":17}', 'SubnetLen 17', 'four subnets', 'use a longer'),
    ],
    [
      'SubnetLen in quotes',
      config('{"Network":"172.30.0.0/16","SubnetLen":"24"}', 'SubnetLen "24"', 'expected for example 24'),
    ],
    [
      'SubnetMin elsewhere',
      config(
        '{"Network":"172.30.0.0/16","SubnetMin":"172.31.0.0"}',
        'SubnetMin 172.31.0.0',
        'not in the range of the Network 172.30.0.0/16',
      ),
    ],
    [
      'SubnetMin off the grid',
      config(
        '{"Network":"172.30.0.0/16","SubnetMin":"172.30.1.7"}',
        'SubnetMin',
        '172.30.1.7',
        'use for example 172.30.1.0',
      ),
    ],
    [
      'SubnetMin above SubnetMax',
      config(
        '{"Network":"172.30.0.0/16","SubnetMin":"172.30.9.0","SubnetMax":"172.30.1.0"}',
        'SubnetMin 172.30.9.0 is above SubnetMax 172.30.1.0',
        'swap them',
      ),
    ],
    [
      'a Backend that is a string',
      config(
        '{"Network":"172.30.0.0/16","Backend":"vxlan"}',
        'Backend',
        'is a string',
        'expected an object such as',
      ),
    ],
    [
      'a Type that is a number',
      config(
        '{"Network":"172.30.0.0/16","Backend":{"Type":1}}',
        'Backend',
        'Type 1',
        'expected for example "vxlan"',
      ),
    ],
    [
      'etcd that does not listen',
      {
        config: GOOD,
        args: () => ['-etcd-endpoints', `http://${lab.outside}:4001`],
        says: [
          "Couldn't fetch network config",
          'http://10.77.0.1:4001/',
          'connection refused',
          'is etcd running',
        ],
        mend: async () => {
          const proxy = await startProxy(
            lab.switch,
            { host: lab.outside, port: 4001 },
            { host: lab.outside, port: 2379 },
          )
          lab.onClose(() => proxy.close())
        },
      },
    ],
    [
      'no iptables',
      {
        config: GOOD,
        args: () => ['-ip-masq'],
        // nsenter and setpriv start the daemon, the others are for bin/flanneld.
        spoil: async () => {
          programs = join(lab.dir, 'bin')
          mkdirSync(programs)
          for (const name of ['setpriv', 'nsenter', 'dirname', 'readlink']) await link(name)
        },
        env: () => ({ PATH: programs }),
        says: ['iptables binary was not found', 'install iptables', 'looked for again'],
        mend: async () => {
          for (const name of ['iptables', 'iptables-save', 'iptables-restore']) await link(name)
        },
        mended: /iptables rules are in place again/,
      },
    ],
  ])('%s', async ([, wrong]) => {
    const i = ++nodes
    const place = { i, prefix: `/case/${i}`, runDir: join(lab.dir, `node${i}`) }
    mkdirSync(place.runDir)
    if (wrong.config !== undefined) await lab.etcd.config(wrong.config, place.prefix)
    await wrong.spoil?.(place)
    const args = ['-etcd-prefix', place.prefix, ...(wrong.args?.(place) ?? [])]
    const daemon = await lab.daemon(i, { args, ...(wrong.env && { env: wrong.env(place) }) })
    await waitFor(() => complaints(daemon).length > 0, { what: () => `a complaint: ${daemon.log()}` })
    expectOneLine(daemon, wrong.says)
    if (wrong.spoil === undefined) expect(files(daemon)).toEqual([])

    await wrong.mend(place)
    await daemon.waitReady()
    if (wrong.mended) await daemon.waitLog(wrong.mended)
    expectOneLine(daemon, wrong.says)
    expect(await daemon.stop()).toEqual({ code: 0, signal: null })
    const found = files(daemon).flatMap((name) =>
      name === 'run' ? readdirSync(join(place.runDir, name)) : [name],
    )
    expect(found.sort()).toEqual(['docker', 'subnet.env'])
    if (daemon.log().includes('-ip-masq'))
      expect(await lab.node(i).run('iptables-save')).toContain('MASQUERADE')
  })

  async function link(name: string): Promise<void> {
    symlinkSync((await run(['sh', '-c', `command -v ${name}`])).trim(), join(programs, name))
  }
})

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
