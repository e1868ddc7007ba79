import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { contains, formatIpv4, formatSubnet, subnetSize } from '../../src/ip.ts'
import { ConfigError, parseNetworkConfig } from '../../src/subnet/config.ts'

function range(text: string): string {
  const { network, subnetLen, subnetMin, subnetMax } = parseNetworkConfig(text)
  return `${formatSubnet(network)} /${subnetLen} ${formatIpv4(subnetMin)} ${formatIpv4(subnetMax)}`
}

describe('defaults', () => {
  it.each([
    ['{"Network":"10.3.0.0/8"}', '10.0.0.0/8 /24 10.0.1.0 10.255.255.0'],
    ['{"Network":"10.3.0.0/16"}', '10.3.0.0/16 /24 10.3.1.0 10.3.255.0'],
    ['{"Network":"10.3.0.0/16","SubnetLen":18}', '10.3.0.0/16 /18 10.3.64.0 10.3.192.0'],
    ['{"Network":"10.3.0.0/16","SubnetLen":30}', '10.3.0.0/16 /30 10.3.0.4 10.3.255.252'],
    ['{"Network":"10.3.0.0/22"}', '10.3.0.0/22 /24 10.3.1.0 10.3.3.0'],
    ['{"Network":"10.3.0.0/23"}', '10.3.0.0/23 /25 10.3.0.128 10.3.1.128'],
    ['{"Network":"10.3.0.0/24"}', '10.3.0.0/24 /26 10.3.0.64 10.3.0.192'],
    ['{"Network":"10.3.0.0/28"}', '10.3.0.0/28 /30 10.3.0.4 10.3.0.12'],
    ['{"Network":"10.3.0.0/16","SubnetLen":0}', '10.3.0.0/16 /24 10.3.1.0 10.3.255.0'],
    ['{"Network":"10.3.0.0/16","SubnetLen":null}', '10.3.0.0/16 /24 10.3.1.0 10.3.255.0'],
    [
      '{"Network":"10.3.7.9/16","SubnetMin":"0.0.0.0","SubnetMax":"0.0.0.0"}',
      '10.3.0.0/16 /24 10.3.1.0 10.3.255.0',
    ],
    ['{"Network":"10.3.0.0/16","SubnetMin":"10.3.0.0"}', '10.3.0.0/16 /24 10.3.0.0 10.3.255.0'],
    [
      '{"Network":"10.5.0.0/16","SubnetLen":25,"SubnetMin":"10.5.128.0","SubnetMax":"10.5.200.0"}',
      '10.5.0.0/16 /25 10.5.128.0 10.5.200.0',
    ],
    ['{"Network":"255.0.0.0/8"}', '255.0.0.0/8 /24 255.0.1.0 255.255.255.0'],
    ['{"Network":"172.30.0.0/16","SubnetLen":21}', '172.30.0.0/16 /21 172.30.8.0 172.30.248.0'],
  ])('%s', (text, expected) => {
    expect(range(text)).toBe(expected)
  })
})

describe('the checks', () => {
  it.each([
    ['', '', /not valid JSON/],
    ['{"Network":"10.3.0.0/16"} x', '', /not valid JSON/],
    ['[]', '', /an array, not an object/],
    ['"10.3.0.0/16"', '', /a string, not an object/],
    ['{}', 'Network', /no Network/],
    ['null', 'Network', /no Network/],
    ['{"Network":"10.3.0.0/16","SubnetLen":-1}', 'SubnetLen', /not a whole number/],
    ['{"Network":"10.3.0.0/16","SubnetLen":24.0}', 'SubnetLen', /24\.0 is not a whole number/],
    ['{"Network":"10.3.0.0/16","SubnetLen":2.4e1}', 'SubnetLen', /not a whole number/],
    ['{"Network":"10.3.0.0/16","SubnetLen":"24"}', 'SubnetLen', /not a whole number/],
    ['{"Network":"10.3.0.0/16","SubnetMin":"10.3.1.0/24"}', 'SubnetMin', /invalid IP address format/],
    ['{"Network":"10.3.0.0/16","SubnetMin":""}', 'SubnetMin', /invalid IP address format/],
    ['{"Network":"10.3.0.0/16","SubnetMin":null}', 'SubnetMin', /is null/],
    ['{"Network":"10.3.0.0/16","SubnetMin":5}', 'SubnetMin', /is a number/],
    ['{"Network":"10.3.0.0/16","SubnetMax":"fd00::1"}', 'SubnetMax', /invalid IP address format/],
    ['{"Network":"10.3.0.0"}', 'Network', /invalid CIDR address: 10\.3\.0\.0;/],
    ['{"Network":""}', 'Network', /invalid CIDR address/],
    ['{"Network":null}', 'Network', /is null/],
    ['{"Network":"fd00::/64"}', 'Network', /invalid CIDR address/],
    ['{"Network":"10.3.0.0/33"}', 'Network', /invalid CIDR address/],
    ['{"Network":"10.3.0/16"}', 'Network', /invalid CIDR address/],
    ['{"Network":" 10.3.0.0/16"}', 'Network', /invalid CIDR address/],
    ['{"Network":"10.3.0.0/1 6"}', 'Network', /invalid CIDR address/],
    ['{"Network":"10.3.0.0/+16"}', 'Network', /invalid CIDR address/],
    ['{"Network":"0.0.0.0/0"}', 'Network', /every address/],
    ['{"Network":"10.3.0.0/16","SubnetLen":31}', 'SubnetLen', /less than \/31/],
    ['{"Network":"10.3.0.0/16","SubnetLen":17}', 'SubnetLen', /at least four subnets/],
    ['{"Network":"10.3.0.0/29","SubnetLen":30}', 'SubnetLen', /at least four subnets/],
    ['{"Network":"10.3.0.0/29"}', 'Network', /too small/],
    ['{"Network":"10.3.0.0/16","SubnetMin":"10.4.0.0"}', 'SubnetMin', /not in the range/],
    ['{"Network":"10.3.0.0/16","SubnetMax":"10.2.0.0"}', 'SubnetMax', /not in the range/],
    [
      '{"Network":"10.3.0.0/16","SubnetMin":"10.3.1.4"}',
      'SubnetMin',
      /not on a SubnetLen boundary: 10\.3\.1\.4/,
    ],
    [
      '{"Network":"10.3.0.0/16","SubnetMax":"10.3.1.4"}',
      'SubnetMax',
      /not on a SubnetLen boundary: 10\.3\.1\.4/,
    ],
    [
      '{"Network":"10.3.0.0/16","SubnetMin":"10.3.9.0","SubnetMax":"10.3.8.0"}',
      'SubnetMin',
      /above SubnetMax/,
    ],
    ['{"Network":"10.3.0.0/16","Backend":"vxlan"}', 'Backend', /error decoding Backend property of config/],
    ['{"Network":"10.3.0.0/16","Backend":[]}', 'Backend', /error decoding Backend property of config/],
    ['{"Network":"10.3.0.0/16","Backend":{"Type":7}}', 'Backend', /Type 7 is no string/],
  ])('%s', (text, field, message) => {
    const parse = () => parseNetworkConfig(text)
    expect(parse).toThrow(ConfigError)
    expect(parse).toThrow(expect.objectContaining({ field, message: expect.stringMatching(message) }))
  })
})

describe('reading as Go does', () => {
  it.each([
    ['{"NETWORK":"10.3.0.0/16","subnetlen":26}', '10.3.0.0/16 /26 10.3.0.64 10.3.255.192'],
    ['{"Network":"10.9.0.0/16","Network":"10.3.0.0/16"}', '10.3.0.0/16 /24 10.3.1.0 10.3.255.0'],
    [
      '{"Network":"10.3.0.0/16","network":"10.4.0.0/16","Network":"10.5.0.0/16"}',
      '10.5.0.0/16 /24 10.5.1.0 10.5.255.0',
    ],
    ['{"Net\\u0077ork":"10.3.0.0/16"}', '10.3.0.0/16 /24 10.3.1.0 10.3.255.0'],
    [
      '{"X":{"Network":"1.2.3.4/5"},"Network":"10.3.0.0/16","Y":"}\\",{"}',
      '10.3.0.0/16 /24 10.3.1.0 10.3.255.0',
    ],
    [' \n{ "Network" : "10.3.0.0/16" } \n', '10.3.0.0/16 /24 10.3.1.0 10.3.255.0'],
  ])('%s', (text, expected) => {
    expect(range(text)).toBe(expected)
  })

  it.each([
    ['', 'udp', {}],
    [',"Backend":{}', '', {}],
    [',"Backend":null', '', {}],
    [',"Backend":{"Type":null}', '', { Type: null }],
    [',"Backend":{"Type":"VXLAN","VNI":7}', 'vxlan', { Type: 'VXLAN', VNI: 7 }],
    [',"backend":{"type":"Host-GW"}', 'host-gw', { type: 'Host-GW' }],
  ])('backend %s', (backend, type, options) => {
    const config = parseNetworkConfig(`{"Network":"10.3.0.0/16"${backend}}`)
    expect(config).toMatchObject({ backendType: type, backend: options })
  })
})

describe('properties', () => {
  it('never throws anything but a ConfigError of one line', () => {
    const text = fc.oneof(
      fc.string({ unit: 'binary' }),
      fc.json(),
      fc
        .dictionary(
          fc.constantFrom('Network', 'SubnetLen', 'SubnetMin', 'SubnetMax', 'Backend', 'network'),
          fc.anything(),
        )
        .map((value) => JSON.stringify(value, (_, v) => (typeof v === 'bigint' ? String(v) : v))),
    )
    fc.assert(
      fc.property(text, (input) => {
        try {
          parseNetworkConfig(input)
        } catch (error) {
          expect(error).toBeInstanceOf(ConfigError)
          expect((error as Error).message).not.toMatch(/[\r\n\u2028]/)
        }
      }),
    )
  })

  it('always gives a range of whole subnets inside the network', () => {
    const input = fc.record({
      address: fc.nat(0xffffffff),
      length: fc.integer({ min: 1, max: 28 }),
      more: fc.integer({ min: 2, max: 29 }),
    })
    fc.assert(
      fc.property(input, ({ address, length, more }) => {
        const subnetLen = Math.min(30, length + more)
        const text = JSON.stringify({ Network: `${formatIpv4(address)}/${length}`, SubnetLen: subnetLen })
        const { network, subnetMin, subnetMax } = parseNetworkConfig(text)
        const size = subnetSize(subnetLen)
        expect(subnetMin % size).toBe(0)
        expect(subnetMax % size).toBe(0)
        expect(subnetMin).toBe(network.address + size)
        expect(contains(network, subnetMin) && contains(network, subnetMax)).toBe(true)
        expect(contains(network, subnetMax + size - 1)).toBe(true)
      }),
    )
  })
})
