/**
 * What an operator can get wrong, and what the daemon says to it: one line that tells what, where, why and what to do;
 * then the exit status, or patience until the cause is mended. Nothing here may leave a stack trace or half a file.
 */
import { mkdirSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { complaints, expectOneLine, files, GOOD } from './complaints.ts'
import { Lab, OURS, peerLeases, REPOSITORY, waitFor } from './lab.ts'
import { run } from './process.ts'
import { startProxy } from './proxy.ts'

vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 })

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
    [
      'an installation that lacks its addon',
      {
        binary: 'sh',
        flags: (l) => [
          '-c',
          `mkdir -p "$0/dist" && cp -r ${REPOSITORY}/bin "$0" &&
           cp ${REPOSITORY}/dist/start.cjs ${REPOSITORY}/dist/flanneld.* "$0/dist" && exec "$0/bin/flanneld" "$@"`,
          ...[at('incomplete')(l), ...l.etcd.flags, '-iface', 'eth0'],
        ],
        exit: 1,
        says: ['load the netlink addon', '/dist/flannel.node', 'run make build'],
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
