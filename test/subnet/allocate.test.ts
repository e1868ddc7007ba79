import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { formatSubnet, overlaps, type Subnet, subnetOf } from '../../src/ip.ts'
import { chooseSubnet } from '../../src/subnet/allocate.ts'
import { parseNetworkConfig } from '../../src/subnet/config.ts'
import { ip, subnet } from './support.ts'

const config = (text: string) => parseNetworkConfig(text)

describe('chooseSubnet', () => {
  it('stays away from leases of every length', () => {
    const small = config('{"Network":"10.5.0.0/22","SubnetLen":24}')
    const choose = (...taken: string[]) =>
      chooseSubnet({ config: small, taken: taken.map(subnet), publicIP: ip('192.168.0.1') })
    expect(choose('10.5.1.0/24', '10.5.3.0/24')).toEqual(subnet('10.5.2.0/24'))
    expect(choose('10.5.2.0/23')).toEqual(subnet('10.5.1.0/24'))
    expect(choose('10.5.1.64/26', '10.5.3.255/32')).toEqual(subnet('10.5.2.0/24'))
    expect(choose('10.5.0.0/16')).toBeUndefined()
    expect(choose('0.0.0.0/0')).toBeUndefined()
  })

  it('gives out every subnet of the range once, first and last included, and then none', () => {
    for (const text of [
      '{"Network":"255.255.0.0/16"}',
      '{"Network":"10.5.0.0/28"}',
      '{"Network":"10.0.0.0/16","SubnetLen":22}',
    ]) {
      const range = config(text)
      const taken: Subnet[] = []
      for (let host = 0; ; host++) {
        const choice = chooseSubnet({ config: range, taken, publicIP: ip('172.16.0.0') + host })
        if (choice === undefined) break
        expect(taken).not.toContainEqual(choice)
        taken.push(choice)
      }
      const addresses = taken.map(({ address }) => address).sort((a, b) => a - b)
      expect([addresses[0], addresses.at(-1)]).toEqual([range.subnetMin, range.subnetMax])
      expect(taken).toHaveLength((range.subnetMax - range.subnetMin) / 2 ** (32 - range.subnetLen) + 1)
    }
  })

  it('spreads a fleet that starts at once: few of 200 nodes meet in 65,535 subnets', () => {
    const range = config('{"Network":"10.0.0.0/8"}')
    const choices = new Set<string>()
    for (let i = 0; i < 200; i++) {
      const choice = chooseSubnet({ config: range, taken: [], publicIP: ip('192.168.0.0') + i })
      choices.add(choice === undefined ? '' : formatSubnet(choice))
    }
    expect(choices.size).toBeGreaterThan(195)
  })

  it('skips what the node must not use', () => {
    const small = config('{"Network":"10.5.0.0/22","SubnetLen":24}')
    const usable = ({ address }: Subnet) => address === ip('10.5.3.0')
    expect(chooseSubnet({ config: small, taken: [], usable, publicIP: 1 })).toEqual(subnet('10.5.3.0/24'))
  })

  it('property: the choice is in range, aligned, and overlaps nothing; none means there is none', () => {
    const taken = fc.array(fc.tuple(fc.nat(0xffff), fc.integer({ min: 18, max: 32 })), { maxLength: 40 })
    fc.assert(
      fc.property(
        taken,
        fc.nat(0xffffffff),
        fc.integer({ min: 18, max: 26 }),
        (claims, publicIP, subnetLen) => {
          const range = config(`{"Network":"10.5.0.0/16","SubnetLen":${subnetLen}}`)
          const subnets = claims.map(([offset, length]) => subnetOf(ip('10.5.0.0') + offset, length))
          const choice = chooseSubnet({ config: range, taken: subnets, publicIP })
          const free = (address: number) =>
            !subnets.some((other) => overlaps(other, { address, length: subnetLen }))
          if (choice !== undefined) {
            expect(choice).toEqual(subnetOf(choice.address, subnetLen))
            expect(choice.address).toBeGreaterThanOrEqual(range.subnetMin)
            expect(choice.address).toBeLessThanOrEqual(range.subnetMax)
            expect(free(choice.address)).toBe(true)
          } else {
            const size = 2 ** (32 - subnetLen)
            for (let address = range.subnetMin; address <= range.subnetMax; address += size)
              expect(free(address)).toBe(false)
          }
        },
      ),
    )
  })
})
