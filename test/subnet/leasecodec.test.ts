import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { formatIpv4, formatSubnet, isUnicastHost, subnetOf } from '../../src/ip.ts'
import {
  claimedSubnet,
  decodeLeaseValue,
  encodeLeaseValue,
  leaseKey,
  parseLeaseKey,
} from '../../src/subnet/leasecodec.ts'
import { attributes, ip, subnet } from './support.ts'

describe('keys', () => {
  it.each([
    ['10.5.33.0-24', '10.5.33.0/24'],
    ['/coreos.com/network/subnets/10.5.33.0-24', '10.5.33.0/24'],
    ['/10.0.0.0-8/subnets/10.5.33.0-24', '10.5.33.0/24'],
    ['0.0.0.0-0', '0.0.0.0/0'],
    ['10.5.33.2-31', '10.5.33.2/31'],
    ['255.255.255.0-24', '255.255.255.0/24'],
  ])('%s', (key, expected) => {
    expect(parseLeaseKey(key)).toEqual(subnet(expected))
  })

  it.each([
    'foo',
    '',
    '10.5.33.0-24/foo',
    'x10.5.33.0-24',
    '10.5.33.0-24x',
    '10.5.33.0-32',
    '10.5.33.0-33',
    '10.5.33.0-024',
    '10.5.33.0--1',
    '10.5.33-24',
    '10.5.33.256-24',
    '10.5a33.0-24',
    '010.5.33.0-24',
    '10.5.33.0-',
    '10.5.33.0/24',
    'fd00::-64',
    '10.5.33.7-24',
  ])('refuses %s', (key) => {
    expect(parseLeaseKey(key)).toBeTypeOf('string')
  })

  it('knows what a key with host bits lays claim to', () => {
    expect(claimedSubnet('10.1.2.7-24')).toEqual(subnet('10.1.2.0/24'))
    expect(claimedSubnet('foo')).toBeUndefined()
  })
})

describe('values as Go writes them', () => {
  it.each([
    [attributes('192.168.77.1'), '{"PublicIP":"192.168.77.1"}'],
    [
      { ...attributes('192.168.77.1'), backendType: 'host-gw' },
      '{"PublicIP":"192.168.77.1","BackendType":"host-gw"}',
    ],
    [
      attributes('192.168.77.1', '8a:61:82:e3:60:74'),
      '{"PublicIP":"192.168.77.1","BackendType":"vxlan","BackendData":{"VtepMAC":"8a:61:82:e3:60:74"}}',
    ],
    [
      { publicIP: ip('192.168.77.1'), backendType: 'extension', backendData: '<a> & \u2028\u2029 "q" \\' },
      '{"PublicIP":"192.168.77.1","BackendType":"extension",' +
        '"BackendData":"\\u003ca\\u003e \\u0026 \\u2028\\u2029 \\"q\\" \\\\"}',
    ],
    [
      { publicIP: ip('192.168.77.1'), backendType: 'x', backendData: null },
      '{"PublicIP":"192.168.77.1","BackendType":"x","BackendData":null}',
    ],
  ])('%o', (value, text) => {
    expect(encodeLeaseValue(value)).toBe(text)
    expect(decodeLeaseValue(text)).toEqual(value)
  })
})

it('refuses what is nested too deep to be compared or printed', () => {
  const nested = (depth: number): string =>
    `{"PublicIP":"192.168.0.2","BackendData":{"a":"${'['.repeat(2_000)}","b":${'['.repeat(depth)}${']'.repeat(depth)}}}`
  expect(decodeLeaseValue(nested(98))).toMatchObject({ publicIP: 0xc0a80002 })
  expect(decodeLeaseValue(nested(99))).toBe('the value is nested more than 100 deep')
  expect(decodeLeaseValue(nested(500_000))).toBe('the value is nested more than 100 deep')
})

describe('reading values as Go does', () => {
  it.each([
    [
      '{"publicip":"192.168.77.1","BACKENDTYPE":"vxlan"}',
      { publicIP: ip('192.168.77.1'), backendType: 'vxlan' },
    ],
    [
      '{"PublicIP":"192.168.77.1","Extra":[1,{"PublicIP":"::1"}]}',
      { publicIP: ip('192.168.77.1'), backendType: '' },
    ],
    ['{"PublicIP":"1.1.1.1","publicIP":"2.2.2.2"}', { publicIP: ip('2.2.2.2') }],
    ['{"publicIP":"1.1.1.1","PublicIP":"2.2.2.2","x":0}', { publicIP: ip('2.2.2.2') }],
    ['{"PublicIP":"1.1.1.1","BackendType":null}', { backendType: '' }],
    ['{"PublicIP":"1.1.1.1","PublicIPv6":"fd00::1"}', { publicIP: ip('1.1.1.1') }],
    ['{"PublicIP":"1.1.1.1","__proto__":{"PublicIP":"2.2.2.2"}}', { publicIP: ip('1.1.1.1') }],
  ])('%s', (text, expected) => {
    expect(decodeLeaseValue(text)).toMatchObject(expected)
  })

  it.each([
    ['', /not valid JSON/],
    ['garbage', /not valid JSON/],
    ['{"PublicIP":"1.1.1.1"} x', /not valid JSON/],
    ['null', /PublicIP is missing/],
    ['{}', /PublicIP is missing/],
    ['[]', /an array, not an object/],
    ['"x"', /a string, not an object/],
    ['{"PublicIP":null}', /PublicIP is null, not a string/],
    ['{"PublicIP":7}', /PublicIP is a number, not a string/],
    ['{"PublicIP":"::1"}', /PublicIP "::1" is not an IPv4 address/],
    ['{"PublicIP":"1.2.3"}', /not an IPv4 address/],
    ['{"PublicIP":"1.2.3.4\\n5"}', /not an IPv4 address/],
    ['{"PublicIP":"0.0.0.0"}', /not the address of a host/],
    ['{"PublicIP":"127.0.0.1"}', /not the address of a host/],
    ['{"PublicIP":"224.0.0.1"}', /not the address of a host/],
    ['{"PublicIP":"255.255.255.255"}', /not the address of a host/],
    ['{"PublicIP":"1.1.1.1","BackendType":7}', /BackendType is a number/],
  ])('refuses %s', (text, reason) => {
    expect(decodeLeaseValue(text)).toMatch(reason)
  })
})

describe('properties', () => {
  const host = fc.nat(0xffffffff).filter(isUnicastHost)

  it('decodes what it encoded', () => {
    const data = fc.option(fc.jsonValue(), { nil: undefined })
    fc.assert(
      fc.property(host, fc.string({ unit: 'grapheme' }), data, (publicIP, backendType, backendData) => {
        const text = encodeLeaseValue({ publicIP, backendType, backendData })
        expect(text).not.toMatch(/[<>&\u2028\u2029]/)
        const json = backendData === undefined ? undefined : JSON.parse(JSON.stringify(backendData))
        expect(decodeLeaseValue(text)).toEqual({ publicIP, backendType, backendData: json })
      }),
    )
  })

  it('reads a key it made, and no other key of the same subnet', () => {
    fc.assert(
      fc.property(fc.nat(0xffffffff), fc.integer({ min: 0, max: 31 }), (address, length) => {
        const made = subnetOf(address, length)
        expect(parseLeaseKey(leaseKey(made))).toEqual(made)
        const written = `${formatIpv4(address)}-${length}`
        if (address !== made.address) expect(parseLeaseKey(written)).toBeTypeOf('string')
        expect(formatSubnet(claimedSubnet(written) ?? made)).toBe(formatSubnet(made))
      }),
    )
  })

  it('never throws', () => {
    const text = fc.oneof(
      fc.string({ unit: 'binary' }),
      fc.json(),
      fc.json().map((json) => json.slice(1)),
    )
    fc.assert(
      fc.property(text, (input) => {
        decodeLeaseValue(input)
        parseLeaseKey(input)
      }),
    )
  })
})
