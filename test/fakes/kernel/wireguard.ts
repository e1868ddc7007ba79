import { createPrivateKey, createPublicKey } from 'node:crypto'
import { formatIpv4, formatSubnet } from '../../../src/ip.ts'
import {
  CTRL_ATTR_FAMILY_ID,
  CTRL_ATTR_FAMILY_NAME,
  GENL_ID_CTRL,
  NLA_F_NESTED,
  NLM_F_DUMP,
  WG_CMD_GET_DEVICE,
  WGALLOWEDIP_A_CIDR_MASK,
  WGALLOWEDIP_A_FAMILY,
  WGALLOWEDIP_A_IPADDR,
  WGDEVICE_A_IFINDEX,
  WGDEVICE_A_LISTEN_PORT,
  WGDEVICE_A_PEERS,
  WGDEVICE_A_PRIVATE_KEY,
  WGDEVICE_A_PUBLIC_KEY,
  WGPEER_A_ALLOWEDIPS,
  WGPEER_A_ENDPOINT,
  WGPEER_A_FLAGS,
  WGPEER_A_LAST_HANDSHAKE_TIME,
  WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL,
  WGPEER_A_PRESHARED_KEY,
  WGPEER_A_PUBLIC_KEY,
  WGPEER_F_REMOVE_ME,
  WGPEER_F_REPLACE_ALLOWEDIPS,
} from '../../../src/netlink/constants.ts'
import { GENL_HDRLEN } from '../../../src/netlink/genl.ts'
import type { MessageWriter, NetlinkMessage } from '../../../src/netlink/wire.ts'
import { encodePayload } from '../../netlink/payload.ts'
import { attributesOf, type FakeLink, getU16, getU32, text } from './message.ts'
import { Refusal } from './refusal.ts'

const FAMILY = 31
const AF_INET = 2
const NO_KEY = Buffer.alloc(32)
/** So few addresses of one peer fit into a message, so that some peers come in several. */
const IPS_PER_MESSAGE = 2

interface Peer {
  presharedKey: Buffer
  endpoint: Buffer | undefined
  keepalive: number
  readonly allowedIps: Set<string>
  /** Seconds since the epoch. */
  lastHandshake: number
}

interface Device {
  privateKey: Buffer
  listenPort: number
  readonly peers: Map<string, Peer>
}

/** Generic netlink with WireGuard's family (drivers/net/wireguard/netlink.c): IPv4 only, and no packet is ever sent. */
export class WireGuardTable {
  readonly #devices = new Map<number, Device>()

  /** The answer's payloads, with the message type of each; [] for what is acknowledged. */
  handle(request: NetlinkMessage, link: (index: number) => FakeLink | undefined): [number, Uint8Array][] {
    const { type, payload, flags } = request
    if (type === GENL_ID_CTRL) {
      const name = text(attributesOf(payload, GENL_HDRLEN).get(CTRL_ATTR_FAMILY_NAME) ?? new Uint8Array())
      if (name !== 'wireguard') throw new Refusal('ENOENT')
      const answer = encodePayload((writer) => writer.u32(1).attributeU16(CTRL_ATTR_FAMILY_ID, FAMILY))
      return [[GENL_ID_CTRL, answer]]
    }
    if (type !== FAMILY) throw new Refusal('EOPNOTSUPP')
    const attributes = attributesOf(payload, GENL_HDRLEN)
    const index = getU32(attributes.get(WGDEVICE_A_IFINDEX) ?? NO_KEY, 0)
    const found = link(index)
    if (found === undefined) throw new Refusal('ENODEV')
    if (found.kind !== 'wireguard') throw new Refusal('EOPNOTSUPP')
    const device = this.#device(index)
    if (payload[0] === WG_CMD_GET_DEVICE) {
      if ((flags & NLM_F_DUMP) !== NLM_F_DUMP) throw new Refusal('EOPNOTSUPP')
      return describe(index, device).map((part) => [FAMILY, part])
    }
    change(device, attributes)
    return []
  }

  lose(index: number): void {
    this.#devices.delete(index)
  }

  /** As `wg show all dump` tells of peers. */
  print(nameOf: (index: number) => string): string[] {
    return [...this.#devices].flatMap(([index, { peers }]) =>
      [...peers].map(([key, peer]) => {
        const psk = peer.presharedKey.equals(NO_KEY) ? '(none)' : peer.presharedKey.toString('base64')
        const { endpoint } = peer
        const at = endpoint ? `${formatIpv4(endpoint.readUInt32BE(4))}:${endpoint.readUInt16BE(2)}` : '(none)'
        const ips = [...peer.allowedIps].sort().join(',') || '(none)'
        return [nameOf(index), key, psk, at, ips, peer.keepalive || 'off'].join(' ')
      }),
    )
  }

  /** A handshake with this peer, which came from another address than we knew. */
  roam(index: number, key: string, endpoint: Buffer, at: number): void {
    const peer = this.#device(index).peers.get(key)
    if (peer === undefined) throw new Error(`no peer ${key}`)
    peer.endpoint = endpoint
    peer.lastHandshake = at
  }

  #device(index: number): Device {
    const device = this.#devices.get(index) ?? { privateKey: NO_KEY, listenPort: 0, peers: new Map() }
    this.#devices.set(index, device)
    return device
  }
}

/** The attributes of a nested list, whose types say nothing. */
function* listOf(bytes: Uint8Array): Generator<Uint8Array> {
  for (let at = 0; at + 4 <= bytes.length; at += (getU16(bytes, at) + 3) & ~3)
    yield bytes.subarray(at + 4, at + getU16(bytes, at))
}

function change(device: Device, attributes: Map<number, Uint8Array>): void {
  const privateKey = attributes.get(WGDEVICE_A_PRIVATE_KEY)
  if (privateKey !== undefined) device.privateKey = Buffer.from(privateKey)
  const port = attributes.get(WGDEVICE_A_LISTEN_PORT)
  if (port !== undefined) device.listenPort = getU16(port, 0)
  for (const bytes of listOf(attributes.get(WGDEVICE_A_PEERS) ?? new Uint8Array()))
    changePeer(device, attributesOf(bytes, 0))
}

function changePeer({ peers }: Device, attributes: Map<number, Uint8Array>): void {
  const key = Buffer.from(attributes.get(WGPEER_A_PUBLIC_KEY) ?? NO_KEY).toString('base64')
  const flags = attributes.get(WGPEER_A_FLAGS)
  const has = (flag: number) => flags !== undefined && (getU32(flags, 0) & flag) !== 0
  if (has(WGPEER_F_REMOVE_ME)) {
    peers.delete(key)
    return
  }
  const peer: Peer = peers.get(key) ?? {
    ...{ presharedKey: NO_KEY, endpoint: undefined, keepalive: 0, allowedIps: new Set(), lastHandshake: 0 },
  }
  peers.set(key, peer)
  const psk = attributes.get(WGPEER_A_PRESHARED_KEY)
  if (psk !== undefined) peer.presharedKey = Buffer.from(psk)
  const endpoint = attributes.get(WGPEER_A_ENDPOINT)
  if (endpoint !== undefined) peer.endpoint = Buffer.from(endpoint)
  const keepalive = attributes.get(WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL)
  if (keepalive !== undefined) peer.keepalive = getU16(keepalive, 0)
  if (has(WGPEER_F_REPLACE_ALLOWEDIPS)) peer.allowedIps.clear()
  for (const bytes of listOf(attributes.get(WGPEER_A_ALLOWEDIPS) ?? new Uint8Array())) {
    const ip = attributesOf(bytes, 0)
    const address = Buffer.from(ip.get(WGALLOWEDIP_A_IPADDR) ?? NO_KEY).readUInt32BE()
    const subnet = formatSubnet({ address, length: ip.get(WGALLOWEDIP_A_CIDR_MASK)?.[0] ?? 0 })
    // An address is one peer's alone.
    for (const other of peers.values()) other.allowedIps.delete(subnet)
    peer.allowedIps.add(subnet)
  }
}

/** A device without peers in one part; else a part for each peer, and more for one with many addresses. */
function describe(index: number, device: Device): Uint8Array[] {
  const parts: Uint8Array[] = []
  const add = (peer?: (writer: MessageWriter) => void): void => {
    const part = encodePayload((writer) => {
      writer.u32(0).attributeU32(WGDEVICE_A_IFINDEX, index)
      if (parts.length === 0) {
        writer.attributeU16(WGDEVICE_A_LISTEN_PORT, device.listenPort)
        if (!device.privateKey.equals(NO_KEY)) {
          writer.attributeBytes(WGDEVICE_A_PRIVATE_KEY, device.privateKey)
          writer.attributeBytes(WGDEVICE_A_PUBLIC_KEY, publicKeyOf(device.privateKey))
        }
      }
      if (peer) writer.nested(WGDEVICE_A_PEERS | NLA_F_NESTED, () => writer.nested(NLA_F_NESTED, peer))
    })
    parts.push(part)
  }
  for (const [key, peer] of device.peers) {
    const ips = [...peer.allowedIps]
    for (let from = 0; from === 0 || from < ips.length; from += IPS_PER_MESSAGE) {
      add((writer) => {
        writer.attributeBytes(WGPEER_A_PUBLIC_KEY, Buffer.from(key, 'base64'))
        if (from === 0) describePeer(writer, peer)
        writer.nested(WGPEER_A_ALLOWEDIPS | NLA_F_NESTED, () => {
          for (const ip of ips.slice(from, from + IPS_PER_MESSAGE)) describeIp(writer, ip)
        })
      })
    }
  }
  if (parts.length === 0) add()
  return parts
}

function describePeer(writer: MessageWriter, peer: Peer): void {
  const time = Buffer.alloc(16)
  time.writeBigInt64LE(BigInt(peer.lastHandshake))
  writer
    .attributeBytes(WGPEER_A_PRESHARED_KEY, peer.presharedKey)
    .attributeBytes(WGPEER_A_LAST_HANDSHAKE_TIME, time)
    .attributeU16(WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL, peer.keepalive)
  if (peer.endpoint !== undefined) writer.attributeBytes(WGPEER_A_ENDPOINT, peer.endpoint)
}

function describeIp(writer: MessageWriter, ip: string): void {
  const [address = '', length] = ip.split('/')
  const octets = Uint8Array.from(address.split('.').map(Number))
  writer.nested(NLA_F_NESTED, () =>
    writer
      .attributeU16(WGALLOWEDIP_A_FAMILY, AF_INET)
      .attributeBytes(WGALLOWEDIP_A_IPADDR, octets)
      .attributeU8(WGALLOWEDIP_A_CIDR_MASK, Number(length)),
  )
}

/** Curve25519 (RFC 7748), by OpenSSL. */
function publicKeyOf(privateKey: Buffer): Buffer {
  const der = Buffer.concat([Buffer.from('302e020100300506032b656e04220420', 'hex'), privateKey])
  const { x = '' } = createPublicKey(createPrivateKey({ key: der, format: 'der', type: 'pkcs8' })).export({
    format: 'jwk',
  })
  return Buffer.from(x, 'base64url')
}
