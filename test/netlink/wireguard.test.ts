import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { NetlinkRequest } from '../../src/netlink/request.ts'
import {
  decodeWireGuard,
  deletePeer,
  peersOf,
  replacePeer,
  setWireGuard,
  type WireGuardPeer,
} from '../../src/netlink/wireguard.ts'
import { payloadOf } from './payload.ts'

const device = { family: 31, index: 4, name: 'flannel-wg' }
const key = (octet: number) => Buffer.alloc(32, octet).toString('base64')

const octets32 = fc.uint8Array({ minLength: 32, maxLength: 32 }).filter((bytes) => bytes.some((b) => b !== 0))
const keys = octets32.map((bytes) => Buffer.from(bytes).toString('base64'))
const subnets = fc.record({ address: fc.nat(0xffffffff), length: fc.integer({ min: 0, max: 32 }) })
const peers: fc.Arbitrary<WireGuardPeer> = fc.record({
  publicKey: keys,
  presharedKey: fc.option(keys, { nil: undefined }),
  endpoint: fc.option(fc.record({ address: fc.nat(0xffffffff), port: fc.integer({ min: 1, max: 65_535 }) }), {
    nil: undefined,
  }),
  keepalive: fc.nat(65_535),
  allowedIps: fc.array(subnets, { maxLength: 40 }),
})

describe('a WireGuard peer', () => {
  it('is read as it was written', () => {
    fc.assert(
      fc.property(peers, (peer) => {
        const part = decodeWireGuard(payloadOf(replacePeer(device, peer)))
        expect(part?.peers).toEqual([{ ...peer, more: false, lastHandshake: 0 }])
      }),
    )
  })

  it('that comes in several parts is put together', () => {
    const peer = { publicKey: key(1), presharedKey: undefined, endpoint: undefined, keepalive: 25 }
    const ips = [1, 2, 3].map((n) => ({ address: 0x0af40000 + 256 * n, length: 24 }))
    const part = (allowedIps: WireGuardPeer['allowedIps'], publicKey = key(1)) =>
      decodeWireGuard(payloadOf(replacePeer(device, { ...peer, publicKey, allowedIps })))
    const parts = [part(ips.slice(0, 2)), part(ips.slice(2)), part([], key(2))].filter((p) => p !== undefined)
    expect(peersOf(parts).map(({ publicKey, allowedIps }) => ({ publicKey, allowedIps }))).toEqual([
      { publicKey: key(1), allowedIps: ips },
      { publicKey: key(2), allowedIps: [] },
    ])
  })

  it('that may send IPv6 is told apart from one that may not', () => {
    const payload = payloadOf(
      replacePeer(device, {
        ...{ publicKey: key(1), presharedKey: undefined, endpoint: undefined, keepalive: 0 },
        allowedIps: [{ address: 0, length: 0 }],
      }),
    )
    // The address becomes one of 16 bytes: the attribute, and all around it, grow by 12.
    const bytes = Buffer.from(payload)
    const at = bytes.indexOf(Buffer.from('0800020000000000', 'hex'))
    const grown = Buffer.concat([bytes.subarray(0, at + 8), Buffer.alloc(12), bytes.subarray(at + 8)])
    grown.writeUInt16LE(20, at)
    for (const around of [at - 12, at - 16]) grown.writeUInt16LE(grown.readUInt16LE(around) + 12, around)
    for (const around of [12, 16]) grown.writeUInt16LE(grown.readUInt16LE(around) + 12, around)
    expect(decodeWireGuard(grown)?.peers[0]).toMatchObject({ more: true, allowedIps: [] })
  })
})

describe('what the kernel says', () => {
  it('never makes the reader throw, whatever it is', () => {
    const valid = payloadOf(
      replacePeer(device, {
        ...{ publicKey: key(1), presharedKey: key(2), endpoint: { address: 1, port: 2 }, keepalive: 3 },
        allowedIps: [{ address: 0x0af40100, length: 24 }],
      }),
    )
    fc.assert(fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => void decodeWireGuard(bytes)))
    fc.assert(
      fc.property(fc.nat(valid.length - 1), fc.nat(255), fc.nat(valid.length), (at, value, end) => {
        const bytes = valid.slice(0, end)
        bytes[at] = value
        decodeWireGuard(bytes)
      }),
      { numRuns: 2000 },
    )
  })
})

describe('what is said of a request', () => {
  it.each<[string, NetlinkRequest]>([
    [
      'configure WireGuard device flannel-wg (UDP port 5)',
      setWireGuard(device, { privateKey: key(7), listenPort: 5 }),
    ],
    [
      `write WireGuard peer ${key(1)} on flannel-wg`,
      replacePeer(device, {
        ...{ publicKey: key(1), presharedKey: key(7), endpoint: undefined, keepalive: 0, allowedIps: [] },
      }),
    ],
    [`delete WireGuard peer ${key(1)} on flannel-wg`, deletePeer(device, key(1))],
  ])('holds no secret: %s', (words, request) => {
    expect(request.operation()).toBe(words)
  })

  it('is not more than an error about a key that is none', () => {
    expect(() => setWireGuard(device, { privateKey: 'secret', listenPort: 5 })).toThrow(
      /^a WireGuard key has 32 bytes$/,
    )
  })
})
