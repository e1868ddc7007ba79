import { inspect } from 'node:util'
import { describe, expect, test } from 'vitest'
import { parseIpv4 } from '../src/ip.ts'
import { type Options, type ParsedOptions, parseOptions, variableOf } from '../src/options.ts'

const about = { program: 'flanneld', version: 'v1.2.3' }

function parse(argv: string[], env: Record<string, string> = {}): ParsedOptions {
  return parseOptions(argv, env, about)
}

function run(argv: string[], env: Record<string, string> = {}): Options {
  const parsed = parse(argv, env)
  if (parsed.kind !== 'run') throw new Error(JSON.stringify(parsed))
  return parsed.options
}

/** The flag, a value other than its default, and where that value then is. */
const flags: [string, string, (o: Options) => unknown, unknown][] = [
  ['etcd-endpoints', 'http://a:1,http://b:2', (o) => o.etcd.endpoints, 'http://a:1,http://b:2'],
  ['etcd-prefix', '/other', (o) => o.etcd.prefix, '/other'],
  ['etcd-keyfile', '/k', (o) => o.etcd.keyFile, '/k'],
  ['etcd-certfile', '/c', (o) => o.etcd.certFile, '/c'],
  ['etcd-cafile', '/ca', (o) => o.etcd.caFile, '/ca'],
  ['etcd-username', 'u', (o) => o.etcd.username, 'u'],
  ['etcd-password', 'p', (o) => o.etcd.password.reveal(), 'p'],
  ['etcd-password-file', '/p', (o) => o.etcd.passwordFile, '/p'],
  ['subnet-lease-renew-margin', '90', (o) => o.renewMarginMinutes, 90],
  ['iface', 'eth1', (o) => o.ifaces, ['eth1']],
  ['iface-regex', 'eth.*', (o) => o.ifaceRegexes, ['eth.*']],
  ['public-ip', '192.0.2.7', (o) => o.publicIP, parseIpv4('192.0.2.7')],
  ['subnet-file', '/s', (o) => o.subnetFile, '/s'],
  ['ip-masq', 'true', (o) => o.ipMasq, true],
  ['iptables-forward-rules', 'false', (o) => o.forwardRules, false],
  ['iptables-resync', '7', (o) => o.firewallResyncSeconds, 7],
  ['kernel-resync', '9', (o) => o.kernelResyncSeconds, 9],
  ['docker-opts-file', '/d', (o) => o.dockerOpts?.file, '/d'],
  ['docker-opts-key', 'KEY', (o) => o.dockerOpts?.key, 'KEY'],
  ['healthz-port', '8080', (o) => o.healthz, { ip: '0.0.0.0', port: 8080 }],
  ['healthz-ip', '::1', (o) => o.healthz, undefined],
  ['kube-subnet-mgr', 'false', (o) => o.ipMasq, false],
  ['kube-api-url', 'https://k', (o) => o.ipMasq, false],
  ['kubeconfig-file', '/kc', (o) => o.ipMasq, false],
  ['kube-annotation-prefix', 'x', (o) => o.ipMasq, false],
  ['log-format', 'json', (o) => o.log.format, 'json'],
  ['log-level', 'warn', (o) => o.log.level, 'warn'],
  ['metrics-port', '9100', (o) => o.metrics, { ip: '0.0.0.0', port: 9100 }],
  ['metrics-ip', '::1', (o) => o.metrics, undefined],
  ['peer-probe-interval', '10', (o) => o.peerProbeSeconds, 10],
  ['control-socket', '/c', (o) => o.controlSocket, '/c'],
  ['v', '4', (o) => o.log.level, 'trace'],
  ['vmodule', 'x=2', (o) => o.log.level, 'info'],
  ['log_backtrace_at', 'x.go:1', (o) => o.log.level, 'info'],
]

describe.each(flags)('-%s', (name, text, read, expected) => {
  test.each([[`-${name}=${text}`], [`--${name}=${text}`]])('%s', (arg) => {
    expect(read(run([arg]))).toEqual(expected)
  })

  test('from the environment, which the command line beats', () => {
    const variable = `FLANNELD_${name.replaceAll('-', '_').toUpperCase()}`
    expect(variableOf(name)).toBe(variable)
    expect(read(run([], { [variable]: text }))).toEqual(expected)
    expect(run([`-${name}=${text}`], { [variable]: '0' })).toEqual(run([`-${name}=${text}`]))
    expect(run([], { [variable]: '' })).toEqual(run([]))
  })
})

test('the usage text names every flag', () => {
  const help = parse(['-h'])
  if (help.kind !== 'help') throw new Error(help.kind)
  expect(help.text).toMatch(/^Usage: flanneld \[OPTION\]\.\.\.\n/)
  const named = [...help.text.matchAll(/^ {2}-(\S+)/gm)].map((m) => m[1])
  expect(named.sort()).toEqual([...flags.map(([name]) => name), 'version'].sort())
})

test('defaults', () => {
  const { etcd, ...options } = run([])
  expect(options).toEqual({
    renewMarginMinutes: 60,
    ifaces: [],
    ifaceRegexes: [],
    publicIP: undefined,
    subnetFile: '/run/flannel/subnet.env',
    ipMasq: false,
    forwardRules: true,
    firewallResyncSeconds: 5,
    kernelResyncSeconds: 60,
    dockerOpts: { file: '/run/flannel/docker', key: 'DOCKER_NETWORK_OPTIONS' },
    healthz: undefined,
    metrics: undefined,
    peerProbeSeconds: 0,
    controlSocket: '/run/flannel/flanneld.sock',
    log: { format: 'text', level: 'info' },
  })
  expect(etcd.endpoints).toBe('http://127.0.0.1:4001,http://127.0.0.1:2379')
  expect(etcd.prefix).toBe('/coreos.com/network')
  expect([etcd.keyFile, etcd.certFile, etcd.caFile, etcd.username, etcd.password.reveal()]).toEqual(
    Array(5).fill(''),
  )
})

describe('precedence', () => {
  test('a flag given with its default value beats the variable', () => {
    expect(run(['-iptables-resync=5'], { FLANNELD_IPTABLES_RESYNC: '9' }).firewallResyncSeconds).toBe(5)
    expect(run(['-ip-masq=false'], { FLANNELD_IP_MASQ: 'true' }).ipMasq).toBe(false)
  })

  test('FLANNELD_IFACE is one value, and counts for nothing beside a flag', () => {
    expect(run([], { FLANNELD_IFACE: 'a,b' }).ifaces).toEqual(['a,b'])
    expect(run(['-iface=x', '-iface=y'], { FLANNELD_IFACE: 'a' }).ifaces).toEqual(['x', 'y'])
    expect(run(['-iface=x'], { FLANNELD_IFACE_REGEX: 'r' })).toMatchObject({
      ifaces: ['x'],
      ifaceRegexes: ['r'],
    })
  })

  test('endpoints stay as they are given', () => {
    expect(run(['-etcd-endpoints=http://a:1, http://b:2']).etcd.endpoints).toBe('http://a:1, http://b:2')
  })
})

describe('help and version', () => {
  test('the version goes out with a newline', () => {
    expect(parse(['--version'])).toEqual({ kind: 'version', text: 'v1.2.3\n' })
    expect(parse(['-version=false']).kind).toBe('run')
    for (const text of ['true', 'nonsense']) expect(parse([], { FLANNELD_VERSION: text }).kind).toBe('run')
  })

  test('it wins over whatever is checked later, not over a parse error', () => {
    expect(parse(['-version', '-subnet-lease-renew-margin=0'], { FLANNELD_V: 'x' }).kind).toBe('version')
    expect(parse(['-version', '-nope'])).toMatchObject({ kind: 'error', status: 2 })
  })
})

describe('errors', () => {
  test.each<[string[], string]>([
    [['-nope'], 'flag provided but not defined: -nope'],
    [['-ip-masq=maybe'], 'invalid boolean value "maybe" for -ip-masq: parse error'],
    [['-iface'], 'flag needs an argument: -iface'],
    [['-log-format=xml'], 'invalid value "xml" for flag -log-format: neither text nor json'],
    [
      ['-log-level=loud'],
      'invalid value "loud" for flag -log-level: it must be one of trace, debug, info, warn, error',
    ],
  ])('%j exits 2: one line, then a hint', (argv, line) => {
    expect(parse(argv)).toEqual({
      kind: 'error',
      status: 2,
      message: `${line}\nTry 'flanneld -help' for all flags.`,
    })
  })

  test.each<[Record<string, string>, string]>([
    [
      { FLANNELD_IP_MASQ: 'maybe' },
      'invalid value "maybe" for environment variable FLANNELD_IP_MASQ: parse error',
    ],
    [{ FLANNELD_V: 'x' }, 'invalid value "x" for environment variable FLANNELD_V: parse error'],
    [
      { FLANNELD_IPTABLES_RESYNC: '99999999999999999999' },
      'invalid value "99999999999999999999" for environment variable FLANNELD_IPTABLES_RESYNC: value out of range',
    ],
  ])('%j exits 2', (env, line) => {
    expect(parse([], env)).toMatchObject({
      kind: 'error',
      status: 2,
      message: expect.stringContaining(`${line}\n`),
    })
  })

  test('a malformed variable counts for nothing when the flag is given', () => {
    expect(run(['-v=1'], { FLANNELD_V: 'x' }).log.level).toBe('debug')
  })

  test.each<[string[], string]>([
    [
      ['-subnet-lease-renew-margin=0'],
      'Invalid subnet-lease-renew-margin option, out of acceptable range: 0 (minutes, 1 to 1439)',
    ],
    [
      ['-subnet-lease-renew-margin=1440'],
      'Invalid subnet-lease-renew-margin option, out of acceptable range: 1440 (minutes, 1 to 1439)',
    ],
    [
      ['-kernel-resync=0'],
      'Invalid kernel-resync option, out of acceptable range: 0 (seconds, 1 to 2147483)',
    ],
    [['-healthz-port=65536'], 'Invalid healthz-port option, out of acceptable range: 65536 (at most 65535)'],
    [['-public-ip=nonsense'], 'invalid public IP address: nonsense (-public-ip)'],
    [
      ['-public-ip=2001:db8::1'],
      'invalid public IP address: 2001:db8::1: it must be an IPv4 address (-public-ip)',
    ],
    [['-docker-opts-key=bad-key'], '-docker-opts-key "bad-key" is no variable name'],
    [
      ['-kube-subnet-mgr'],
      'Failed to create SubnetManager: -kube-subnet-mgr is not supported, this flanneld keeps its leases in etcd; leave the flag out',
    ],
  ])('%j exits 1', (argv, message) => {
    expect(parse(argv)).toEqual({ kind: 'error', status: 1, message })
  })

  test('the ends of the ranges are in them', () => {
    expect(run(['-subnet-lease-renew-margin=1']).renewMarginMinutes).toBe(1)
    expect(run(['-subnet-lease-renew-margin=1439']).renewMarginMinutes).toBe(1439)
    expect(run(['-healthz-port=65535']).healthz?.port).toBe(65535)
    expect(run(['-healthz-port=-5']).healthz).toBeUndefined()
  })
})

test.each([['statsu'], ['statsu', '-json'], ['Status']])(
  '%j is a mistyped command, and starts no daemon',
  (...argv) => {
    expect(parse(argv)).toEqual({
      kind: 'error',
      status: 2,
      message:
        `no command "${argv[0]}"; there are status, doctor, log-level, bundle, cleanup, completion\n` +
        "Try 'flanneld -help' for all flags.",
    })
  },
)

test('an empty first argument, as of an unset variable in a unit, is no command', () => {
  expect(parse([''])).toMatchObject({ kind: 'run' })
})

describe('warnings', () => {
  test('a boolean with its value apart, which ends the flags', () => {
    const parsed = parse(['-ip-masq', 'false', '-v', '4'])
    expect(parsed).toMatchObject({ kind: 'run', options: { ipMasq: true, log: { level: 'info' } } })
    expect(parsed).toHaveProperty('warnings', [
      'Ignoring argument "false" and the 2 after it: flags end at the first argument that is none (a boolean is turned off with -flag=false)',
    ])
  })

  test('a resync that would never pause', () => {
    const parsed = parse(['-iptables-resync=0'])
    expect(parsed).toMatchObject({ kind: 'run', options: { firewallResyncSeconds: 1 } })
    expect(parsed).toHaveProperty('warnings', ['-iptables-resync 0 is outside 1 to 2147483 seconds: using 1'])
  })

  test('what is accepted and ignored', () => {
    expect(parse(['-vmodule=x=2'], { FLANNELD_KUBE_API_URL: 'https://k' })).toHaveProperty('warnings', [
      '-kube-api-url has no effect',
      '-vmodule has no effect',
    ])
  })

  test('none without cause', () => {
    expect(parse(['-ip-masq', '-vmodule=', '--'])).toHaveProperty('warnings', [])
  })
})

test('an empty -docker-opts-file turns the file off', () => {
  expect(run(['-docker-opts-file=']).dockerOpts).toBeUndefined()
})

test('the password is in no dump of the options', () => {
  const options = run(['-etcd-password=hunter2'])
  for (const dump of [
    JSON.stringify(options),
    inspect(options, { depth: 9, showHidden: true }),
    `${options.etcd.password}`,
  ]) {
    expect(dump).not.toContain('hunter2')
  }
  expect(options.etcd.password.reveal()).toBe('hunter2')
})

test('a password on the command line is warned of, and two of them are one too many', () => {
  expect(parse(['-etcd-password=p'])).toMatchObject({
    warnings: [expect.stringContaining('-etcd-password-file')],
  })
  expect(parse([], { FLANNELD_ETCD_PASSWORD: 'p' })).toHaveProperty('warnings', [])
  expect(parse(['-etcd-password-file=/p'], { FLANNELD_ETCD_PASSWORD: 'p' })).toMatchObject({
    kind: 'error',
    message: 'both -etcd-password and -etcd-password-file are set: leave one of them out',
  })
})
