import { describe, expect, test } from 'vitest'
import { chooseInterface, type InterfaceChoice, InterfaceError, type NetworkView } from '../src/iface.ts'
import { formatIpv4, type Ipv4, parseCidr } from '../src/ip.ts'
import type { Logger } from '../src/log.ts'

function ip(text: string): Ipv4 {
  const cidr = parseCidr(`${text}/32`)
  if (cidr === undefined) throw new Error(text)
  return cidr.address
}

interface Device {
  readonly name: string
  readonly addresses?: readonly string[]
  readonly mtu?: number
  readonly up?: boolean
}

/** Devices get the indices 1, 2, ...; a default route is [device, metric], without a device for unreachable. */
function view(
  devices: readonly Device[],
  defaults: readonly (readonly [string | undefined, number])[] = [],
): NetworkView {
  const indexOf = (name: string | undefined) => {
    const at = devices.findIndex((d) => d.name === name)
    return at < 0 ? undefined : at + 1
  }
  const links = devices.map(({ name, mtu = 1500, up = true }, i) => ({ name, index: i + 1, mtu, up }))
  return {
    // The kernel promises no order of devices.
    links: links.toReversed(),
    addresses: devices.flatMap((d, i) => (d.addresses ?? []).map((a) => ({ index: i + 1, address: ip(a) }))),
    defaultRoutes: () => defaults.map(([name, metric]) => ({ metric, oif: indexOf(name) })),
  }
}

function choose(network: NetworkView, choice: Partial<InterfaceChoice> = {}) {
  const lines: string[] = []
  const at =
    (level: string) =>
    (message: string): void =>
      void lines.push(`${level} ${message}`)
  const log: Logger = { trace: at('T'), debug: at('D'), info: at('I'), warn: at('W'), error: at('E') }
  let result: string
  try {
    const chosen = chooseInterface(
      network,
      { ifaces: [], ifaceRegexes: [], publicIP: undefined, ...choice },
      log,
    )
    result = `${chosen.name} ${formatIpv4(chosen.address)} ${chosen.reason}`
    return { result, chosen, lines }
  } catch (error) {
    if (!(error instanceof InterfaceError)) throw error
    return { result: error.message, chosen: undefined, lines }
  }
}

const lo = { name: 'lo', addresses: ['127.0.0.1'], mtu: 65536 }
const eth0 = { name: 'eth0', addresses: ['192.0.2.1', '192.0.2.9'] }
const eth1 = { name: 'eth1', addresses: ['198.51.100.1'], mtu: 9000 }
const bare = { name: 'bare' }
const host = view([lo, eth0, eth1, bare], [['eth0', 100]])
const all = 'lo:<nil>, eth0:192.0.2.1, eth1:198.51.100.1, bare:<nil>'

describe('default route', () => {
  test('its interface, with index and MTU', () => {
    const { chosen, lines } = choose(view([lo, eth0, eth1], [['eth1', 0]]))
    expect(chosen).toEqual({
      name: 'eth1',
      index: 3,
      mtu: 9000,
      address: ip('198.51.100.1'),
      publicIP: ip('198.51.100.1'),
      reason: 'default route',
    })
    expect(lines).toEqual([
      'I Determining IP address of default interface',
      'I Using interface with name eth1 and address 198.51.100.1',
      'I Defaulting external address to interface address (198.51.100.1)',
    ])
  })

  const failed = (reason: string, devices = 'lo:<nil>, eth0:192.0.2.1, eth1:198.51.100.1') =>
    `Failed to find any valid interface to use: ${reason}; name one with -iface (${devices})`

  test.each<[string, NetworkView, string]>([
    [
      'the lowest metric',
      view(
        [lo, eth0, eth1],
        [
          ['eth0', 200],
          ['eth1', 100],
        ],
      ),
      'eth1 198.51.100.1 default route',
    ],
    [
      'the first of equals',
      view(
        [lo, eth0, eth1],
        [
          ['eth1', 5],
          ['eth0', 5],
        ],
      ),
      'eth1 198.51.100.1 default route',
    ],
    ['none', view([lo, eth0, eth1]), failed('Unable to find default route')],
    [
      'unreachable',
      view(
        [lo, eth0, eth1],
        [
          [undefined, 1],
          ['eth0', 2],
        ],
      ),
      failed('Found default route but could not determine interface'),
    ],
    [
      'an interface without address',
      view([lo, bare], [['bare', 0]]),
      failed('failed to find IPv4 address for interface bare', 'lo:<nil>, bare:<nil>'),
    ],
  ])('%s', (_, network, expected) => {
    expect(choose(network).result).toBe(expected)
  })
})

describe('the address of an interface', () => {
  test.each<[string[], string | undefined]>([
    [['192.0.2.1', '192.0.2.2'], '192.0.2.1'],
    [['127.0.0.5', '10.0.0.1'], '10.0.0.1'],
    [['169.254.1.1', '192.168.1.1'], '192.168.1.1'],
    [['169.254.1.1', '169.254.2.2'], '169.254.2.2'],
    [['127.0.0.5', '169.254.1.1', '127.0.0.6'], '169.254.1.1'],
    [['127.0.0.1'], undefined],
    [['0.0.0.0', '255.255.255.255', '224.0.0.1', '239.255.255.255'], undefined],
    [['240.0.0.1'], '240.0.0.1'],
    [['0.0.0.1'], '0.0.0.1'],
    [[], undefined],
  ])('of %j is %s', (addresses, expected) => {
    const { chosen } = choose(view([lo, { name: 'x', addresses }]), { ifaces: ['x'] })
    expect(chosen && formatIpv4(chosen.address)).toBe(expected)
  })
})

describe('-iface', () => {
  const failed = (asked: string) =>
    `Failed to find interface to use that matches the interfaces and/or regexes provided (${asked}); there is ${all}`

  test.each<[string[], string]>([
    [['eth1'], 'eth1 198.51.100.1 -iface eth1'],
    [['192.0.2.9'], 'eth0 192.0.2.9 -iface 192.0.2.9'],
    [['127.0.0.1'], 'lo 127.0.0.1 -iface 127.0.0.1'],
    [['lo'], failed('-iface lo')],
    [['missing', 'eth1'], 'eth1 198.51.100.1 -iface eth1'],
    [['eth1', 'eth0'], 'eth1 198.51.100.1 -iface eth1'],
    [['missing', '203.0.113.1'], failed('-iface missing, -iface 203.0.113.1')],
    [['2001:db8::1'], failed('-iface 2001:db8::1')],
    [[''], 'eth0 192.0.2.1 -iface '],
    [['bare', ''], 'eth0 192.0.2.1 -iface '],
    [['192.0.2'], failed('-iface 192.0.2')],
  ])('%j', (ifaces, expected) => {
    expect(choose(host, { ifaces }).result).toBe(expected)
  })

  test('each failing candidate is logged with its reason', () => {
    expect(
      choose(host, { ifaces: ['missing', 'lo', '203.0.113.1', '::1'], ifaceRegexes: ['^wl'] }).lines,
    ).toEqual([
      'I Could not find valid interface matching missing: there is no such interface',
      'I Could not find valid interface matching lo: failed to find IPv4 address for interface lo',
      'I Searching for interface using 203.0.113.1',
      'I Could not find valid interface matching 203.0.113.1: no interface has this address',
      'I Searching for interface using ::1',
      'I Could not find valid interface matching ::1: an IPv6 address; the tunnels need an IPv4 one',
      `I Could not find valid interface matching ^wl: matches none of ${all}`,
    ])
  })

  test('an address that two interfaces have is that of the lower index', () => {
    const twice = view([lo, { name: 'b', addresses: ['192.0.2.1'] }, { name: 'a', addresses: ['192.0.2.1'] }])
    expect(choose(twice, { ifaces: ['192.0.2.1'] }).chosen?.name).toBe('b')
  })
})

describe('-iface-regex', () => {
  test.each<[string, string]>([
    ['eth', 'eth0 192.0.2.1'],
    ['^eth1$', 'eth1 198.51.100.1'],
    ['198\\.51', 'eth1 198.51.100.1'],
    ['1$', 'eth0 192.0.2.1'],
    ['(?i)ETH1', 'eth1 198.51.100.1'],
    ['\\A192\\.0\\.2\\.1\\z', 'eth0 192.0.2.1'],
    ['(?P<kind>eth)1', 'eth1 198.51.100.1'],
    ['', 'eth0 192.0.2.1'],
  ])('%s', (regex, expected) => {
    expect(choose(host, { ifaceRegexes: [regex] }).result).toBe(`${expected} -iface-regex ${regex}`)
  })

  test('addresses of all interfaces come before any name', () => {
    const network = view([
      lo,
      { name: 'net9', addresses: ['10.0.0.1'] },
      { name: 'x', addresses: ['9.9.9.9'] },
    ])
    expect(choose(network, { ifaceRegexes: ['9'] }).chosen?.name).toBe('x')
  })

  test('a secondary address is not looked at', () => {
    expect(choose(host, { ifaceRegexes: ['^192\\.0\\.2\\.9$'] }).chosen).toBeUndefined()
  })

  test('comes after every -iface, and in its own order', () => {
    expect(choose(host, { ifaces: ['eth1'], ifaceRegexes: ['eth0'] }).chosen?.name).toBe('eth1')
    expect(choose(host, { ifaces: ['no'], ifaceRegexes: ['wl', 'eth1', 'eth0'] }).chosen?.name).toBe('eth1')
  })

  test('a name that matches without a usable address fails', () => {
    expect(choose(host, { ifaceRegexes: ['bare'] }).lines).toEqual([
      'I Could not find valid interface matching bare: failed to find IPv4 address for interface bare',
    ])
  })

  test.each([
    ['(', 'Unterminated group'],
    ['[[:alpha:]]+', 'classes such as [:alpha:] are not supported here'],
    ['[[:^digit:]]', 'classes such as [:alpha:] are not supported here'],
  ])('%s is refused', (regex, reason) => {
    const { result, lines } = choose(host, { ifaceRegexes: [regex] })
    expect(result).toContain(`(-iface-regex ${regex})`)
    expect(lines).toEqual([expect.stringContaining(reason)])
    expect(choose(host, { ifaceRegexes: [regex, 'eth1'] }).chosen?.name).toBe('eth1')
  })
})

describe('what is chosen', () => {
  test('-public-ip is published, the interface keeps its address', () => {
    const { chosen, lines } = choose(host, { publicIP: ip('203.0.113.5') })
    expect(chosen).toMatchObject({ address: ip('192.0.2.1'), publicIP: ip('203.0.113.5') })
    expect(lines).toContain('I Using 203.0.113.5 as external address')
  })

  test('an interface that is down is taken, with a warning', () => {
    const { chosen, lines } = choose(view([lo, { ...eth0, up: false }]), { ifaces: ['eth0'] })
    expect(chosen?.name).toBe('eth0')
    expect(lines).toContain('W Interface eth0 is down: no traffic passes until it is up')
  })

  test('an MTU of 0 rules it out', () => {
    const network = view([lo, { ...eth0, mtu: 0 }, eth1])
    for (const text of ['eth0', '192.0.2.1']) {
      const { chosen, lines } = choose(network, { ifaces: [text, 'eth1'] })
      expect(chosen?.name).toBe('eth1')
      expect(lines).toContain(`I Could not find valid interface matching ${text}: interface eth0 has MTU 0`)
    }
  })
})
