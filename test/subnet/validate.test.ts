import { describe, expect, it } from 'vitest'
import { type LeaseRules, leaseObjection } from '../../src/subnet/validate.ts'
import { ip, lease, subnet } from './support.ts'

const rules: LeaseRules = {
  network: subnet('10.5.0.0/16'),
  own: subnet('10.5.33.0/24'),
  publicIP: ip('192.168.0.1'),
  underlay: [{ address: ip('192.168.0.1'), length: 24 }],
}

describe('leaseObjection', () => {
  it.each(['10.5.1.0/24', '10.5.0.0/24', '10.5.255.0/24', '10.5.64.0/18', '10.5.1.4/30'])(
    'takes %s',
    (cidr) => {
      expect(leaseObjection(lease(cidr, '192.168.0.2'), rules)).toBeUndefined()
    },
  )

  it.each([
    ['10.6.1.0/24', '192.168.0.2', /not within the network 10\.5\.0\.0\/16/],
    ['10.4.0.0/15', '192.168.0.2', /not within the network/],
    ['0.0.0.0/0', '192.168.0.2', /not within the network/],
    ['10.5.33.0/25', '192.168.0.2', /overlaps this node's own subnet 10\.5\.33\.0\/24/],
    ['10.5.32.0/20', '192.168.0.2', /overlaps this node's own subnet/],
    ['10.5.0.0/16', '192.168.0.2', /overlaps this node's own subnet/],
    ['10.5.1.0/24', '192.168.0.1', /is this node's own/],
    ['10.5.1.0/24', '10.5.1.7', /lies within the subnet/],
  ])('refuses %s via %s', (cidr, publicIP, reason) => {
    expect(leaseObjection(lease(cidr, publicIP), rules)).toMatch(reason)
  })

  it.each([
    ['the connected network itself', '192.168.0.1/24', '10.5.0.0/16', '10.5.1.0/24', undefined],
    ['a network that equals the underlay', '10.5.7.9/16', '10.5.0.0/16', '10.5.1.0/24', /reaches directly/],
    ['an underlay inside the network', '10.5.7.9/24', '10.5.0.0/16', '10.5.7.128/25', /reaches directly/],
    [
      'a lease around the underlay',
      '10.5.7.9/24',
      '10.5.0.0/16',
      '10.5.4.0/22',
      /holds this node's own address/,
    ],
    ['a lease beside it', '10.5.7.9/24', '10.5.0.0/16', '10.5.8.0/24', undefined],
    ['a network carved out of the underlay', '10.200.0.1/8', '10.5.0.0/16', '10.5.1.0/24', undefined],
    [
      'which yet holds our address',
      '10.5.1.9/8',
      '10.5.0.0/16',
      '10.5.1.0/24',
      /holds this node's own address/,
    ],
  ])('underlay: %s', (_, address, network, cidr, reason) => {
    const [host = '', length = ''] = address.split('/')
    const underlay = [{ address: ip(host), length: Number(length) }]
    const objection = leaseObjection(lease(cidr, '172.16.0.2'), {
      ...rules,
      network: subnet(network),
      underlay,
    })
    if (reason === undefined) expect(objection).toBeUndefined()
    else expect(objection).toMatch(reason)
  })
})
