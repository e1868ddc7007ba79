import fc from 'fast-check'
import { netmask } from '../../src/ip.ts'
import type { NetlinkMessage } from '../../src/netlink/wire.ts'

export const index = fc.integer({ min: 1, max: 2 ** 31 - 1 })
export const ipv4 = fc.integer({ min: 0, max: 2 ** 32 - 1 })
export const ipv6 = fc.bigInt({ min: 0n, max: 2n ** 128n - 1n })
export const port = fc.integer({ min: 1, max: 65_535 })
export const u8 = fc.integer({ min: 0, max: 255 })
export const u16 = fc.integer({ min: 0, max: 65_535 })
export const u32 = fc.integer({ min: 0, max: 2 ** 32 - 1 })

export const mac = fc
  .uint8Array({ minLength: 6, maxLength: 6 })
  .map((octets) => Array.from(octets, (octet) => octet.toString(16).padStart(2, '0')).join(':'))

export const subnet = fc
  .tuple(ipv4, fc.integer({ min: 0, max: 32 }))
  .map(([address, length]) => ({ address: (address & netmask(length)) >>> 0, length }))

export const deviceName = fc.stringMatching(/^[a-zäß][a-z0-9.äß]{0,6}$/)

export const message: fc.Arbitrary<NetlinkMessage> = fc.record({
  // Types that are decoded, and any other.
  type: fc.oneof(fc.constantFrom(2, 3, 16, 17, 20, 21, 24, 25, 28, 29, 104, 105), u16),
  flags: u16,
  sequence: u32,
  portId: u32,
  payload: fc.uint8Array({ maxLength: 200 }),
})
