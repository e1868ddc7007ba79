import fc from 'fast-check'
import { IPv4, IPv4CidrRange } from 'ip-num'
import { describe, expect, it } from 'vitest'
import {
  contains,
  formatIpv4,
  formatSubnet,
  netmask,
  overlaps,
  parseCidr,
  parseIpv4,
  subnetOf,
  subnetSize,
} from '../src/ip.ts'

const address = fc.integer({ min: 0, max: 0xffffffff })
const length = fc.integer({ min: 0, max: 32 })
const range = ({ address, length }: { address: number; length: number }) =>
  IPv4CidrRange.fromCidr(`${formatIpv4(address)}/${length}`)

describe('addresses agree with ip-num', () => {
  it('both ways between text and number', () => {
    fc.assert(
      fc.property(address, (value) => {
        const text = IPv4.fromNumber(BigInt(value)).toString()
        expect(parseIpv4(text)).toBe(value)
        expect(formatIpv4(value)).toBe(text)
      }),
    )
  })

  it('in what a prefix holds', () => {
    fc.assert(
      fc.property(address, length, address, (base, len, other) => {
        const subnet = subnetOf(base, len)
        const theirs = range({ address: base, length: len })
        expect(subnet.address).toBe(Number(theirs.getFirst().getValue()))
        expect(BigInt(subnetSize(len))).toBe(theirs.getSize())
        expect(netmask(len)).toBe(Number(theirs.getPrefix().toMask().getValue()))
        const last = Number(theirs.getLast().getValue())
        expect(contains(subnet, other)).toBe(other >= subnet.address && other <= last)
        expect(contains(subnet, last)).toBe(true)
      }),
    )
  })

  it('in which prefixes overlap', () => {
    fc.assert(
      fc.property(address, length, address, length, (a, aLength, b, bLength) => {
        const [x, y] = [subnetOf(a, aLength), subnetOf(b, bLength)]
        const [first, second] = [range(x), range(y)]
        const theirs =
          first.getFirst().getValue() <= second.getLast().getValue() &&
          second.getFirst().getValue() <= first.getLast().getValue()
        expect(overlaps(x, y)).toBe(theirs)
      }),
    )
  })
})

describe('what is no address', () => {
  it.each([
    '',
    ' ',
    '1',
    '1.2.3',
    '1.2.3.4.5',
    '1.2.3.',
    '.1.2.3',
    '1..2.3',
    '256.1.1.1',
    '01.2.3.4',
    '1.2.3.04',
    ' 1.2.3.4',
    '1.2.3.4 ',
    '1.2.3.4/24',
    '0x1.2.3.4',
    '-1.2.3.4',
    '1.2.3.٤',
    '::1',
    '::ffff:1.2.3.4',
    '99999999999.1.1.1',
  ])('%j', (text) => {
    expect(parseIpv4(text)).toBeUndefined()
  })

  it.each([
    '1.2.3.4',
    '1.2.3.4/',
    '1.2.3.4/33',
    '1.2.3.4/-1',
    '1.2.3.4/08',
    '1.2.3.4/8 ',
    '/8',
    '::1/64',
    '1.2.3.4/8/8',
  ])('nor a prefix: %j', (text) => {
    expect(parseCidr(text)).toBeUndefined()
  })

  it('keeps host bits in parseCidr and prints prefixes as ip route does', () => {
    expect(parseCidr('10.3.0.1/16')).toEqual({ address: 0x0a030001, length: 16 })
    expect(formatSubnet({ address: 0x0a030000, length: 16 })).toBe('10.3.0.0/16')
  })
})
