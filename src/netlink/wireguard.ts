/**
 * WireGuard devices and their peers (linux/wireguard.h), by generic netlink.
 *
 * One message configures one peer, so that a batch of them tells which one the kernel refuses; a datagram of 64 KiB holds
 * some 400. The kernel tells nobody what changes here.
 *
 * Keys are base64 text of 32 bytes, as `wg` prints them. What holds a private or preshared key must not be logged: the
 * words of the requests do not have them, and a connection for this is opened without a trace.
 */
import type { IpAddress, Ipv4, Subnet } from '../ip.ts'
import {
  AF_INET,
  NLA_F_NESTED,
  NLM_F_DUMP,
  WG_CMD_GET_DEVICE,
  WG_CMD_SET_DEVICE,
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
} from './constants.ts'
import { GENL_HDRLEN, genlHeader } from './genl.ts'
import type { DumpRequest, NetlinkRequest } from './request.ts'
import { AttributeReader, type MessageWriter } from './wire.ts'

/** The name of the generic netlink family. */
export const WG_GENL_NAME = 'wireguard'
const WG_GENL_VERSION = 1

/** 32 bytes in base64, 44 characters. */
export type WireGuardKey = string

export interface Endpoint {
  readonly address: Ipv4
  /** UDP port. */
  readonly port: number
}

export interface WireGuardPeer {
  readonly publicKey: WireGuardKey
  /** Undefined for none. */
  readonly presharedKey: WireGuardKey | undefined
  /** Undefined for one that has to come to us first, or that is not of IPv4. */
  readonly endpoint: Endpoint | undefined
  /** Seconds between packets that keep a NAT's mapping alive; 0 for none. */
  readonly keepalive: number
  /** What the peer may send, and what is sent to it; IPv4 only. */
  readonly allowedIps: readonly Subnet[]
}

/** A peer as the kernel has it. */
export interface ConfiguredPeer extends WireGuardPeer {
  /** Whether it has something allowed that is not of IPv4. */
  readonly more: boolean
  /** Seconds since the epoch; 0 for never. */
  readonly lastHandshake: number
}

/** One part of the answer to `dumpWireGuard`: a device with many peers comes in several. */
export interface WireGuardPart {
  /** Undefined when the device has no key yet, and in every part but the first. */
  readonly publicKey: WireGuardKey | undefined
  readonly listenPort: number
  readonly peers: readonly ConfiguredPeer[]
}

/** How to address a device: the family's number and the device's index; `name` is for errors. */
export interface WireGuardDevice {
  readonly family: number
  readonly index: number
  readonly name: string
}

function begin(writer: MessageWriter, { index }: WireGuardDevice, command: number): MessageWriter {
  return genlHeader(writer, command, WG_GENL_VERSION).attributeU32(WGDEVICE_A_IFINDEX, index)
}

/** Gives a device its key and port; EADDRINUSE when another socket has the port. Peers stay. */
export function setWireGuard(
  device: WireGuardDevice,
  { privateKey, listenPort }: { readonly privateKey: WireGuardKey; readonly listenPort: number },
): NetlinkRequest {
  const key = keyBytes(privateKey)
  return {
    type: device.family,
    flags: 0,
    encode: (writer) =>
      begin(writer, device, WG_CMD_SET_DEVICE)
        .attributeBytes(WGDEVICE_A_PRIVATE_KEY, key)
        .attributeU16(WGDEVICE_A_LISTEN_PORT, listenPort),
    operation: () => `configure WireGuard device ${device.name} (UDP port ${listenPort})`,
  }
}

/**
 * Writes a peer in the place of the one with the same key. Addresses that another peer has move over to this one. Without
 * an endpoint the one it has stays.
 */
export function replacePeer(device: WireGuardDevice, peer: WireGuardPeer): NetlinkRequest {
  const { publicKey, presharedKey, endpoint, keepalive, allowedIps } = peer
  return withPeer(device, publicKey, `write WireGuard peer ${publicKey}`, (writer) => {
    writer.attributeU32(WGPEER_A_FLAGS, WGPEER_F_REPLACE_ALLOWEDIPS)
    // All zero is none.
    writer.attributeBytes(
      WGPEER_A_PRESHARED_KEY,
      presharedKey === undefined ? new Uint8Array(KEY_LENGTH) : keyBytes(presharedKey),
    )
    if (endpoint !== undefined) writer.attributeBytes(WGPEER_A_ENDPOINT, sockaddr(endpoint))
    writer.attributeU16(WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL, keepalive)
    writer.nested(WGPEER_A_ALLOWEDIPS | NLA_F_NESTED, () => {
      for (const { address, length } of allowedIps) {
        writer.nested(NLA_F_NESTED, () =>
          writer
            .attributeU16(WGALLOWEDIP_A_FAMILY, AF_INET)
            .attributeIp(WGALLOWEDIP_A_IPADDR, address)
            .attributeU8(WGALLOWEDIP_A_CIDR_MASK, length),
        )
      }
    })
  })
}

/** Removes a peer; one that is not there is no error. */
export function deletePeer(device: WireGuardDevice, publicKey: WireGuardKey): NetlinkRequest {
  return withPeer(device, publicKey, `delete WireGuard peer ${publicKey}`, (writer) =>
    writer.attributeU32(WGPEER_A_FLAGS, WGPEER_F_REMOVE_ME),
  )
}

function withPeer(
  device: WireGuardDevice,
  publicKey: WireGuardKey,
  words: string,
  write: (writer: MessageWriter) => void,
): NetlinkRequest {
  return {
    type: device.family,
    flags: 0,
    encode: (writer) =>
      begin(writer, device, WG_CMD_SET_DEVICE).nested(WGDEVICE_A_PEERS | NLA_F_NESTED, () =>
        writer.nested(NLA_F_NESTED, () => {
          writer.attributeBytes(WGPEER_A_PUBLIC_KEY, keyBytes(publicKey))
          write(writer)
        }),
      ),
    operation: () => `${words} on ${device.name}`,
  }
}

/** The device and all its peers; ENODEV when it is gone, EOPNOTSUPP when it is none of WireGuard's. */
export function dumpWireGuard(device: WireGuardDevice): DumpRequest<WireGuardPart> {
  return {
    type: device.family,
    flags: NLM_F_DUMP,
    encode: (writer) => begin(writer, device, WG_CMD_GET_DEVICE),
    operation: () => `read WireGuard device ${device.name}`,
    decode: decodeWireGuard,
  }
}

/** All peers of an answer. One whose addresses did not fit is told of again in the next part, with the rest of them. */
export function peersOf(parts: readonly WireGuardPart[]): ConfiguredPeer[] {
  const peers = new Map<WireGuardKey, ConfiguredPeer>()
  for (const peer of parts.flatMap((part) => part.peers)) {
    const begun = peers.get(peer.publicKey)
    peers.set(
      peer.publicKey,
      begun === undefined
        ? peer
        : { ...begun, allowedIps: [...begun.allowedIps, ...peer.allowedIps], more: begun.more || peer.more },
    )
  }
  return [...peers.values()]
}

/** Undefined when it cannot be read. */
export function decodeWireGuard(bytes: Uint8Array, start = 0, end = bytes.length): WireGuardPart | undefined {
  const attributes = new AttributeReader().begin(bytes, start + GENL_HDRLEN, end)
  let publicKey: WireGuardKey | undefined
  let listenPort = 0
  const peers: ConfiguredPeer[] = []
  while (attributes.next()) {
    switch (attributes.type) {
      case WGDEVICE_A_PUBLIC_KEY:
        publicKey = readKey(attributes)
        break
      case WGDEVICE_A_LISTEN_PORT:
        listenPort = attributes.u16()
        break
      case WGDEVICE_A_PEERS: {
        const list = attributes.nested()
        while (list.next()) {
          const peer = decodePeer(list)
          if (peer !== undefined) peers.push(peer)
        }
        attributes.join(list)
        break
      }
    }
  }
  return attributes.failed ? undefined : { publicKey, listenPort, peers }
}

function decodePeer(list: AttributeReader): ConfiguredPeer | undefined {
  const attributes = list.nested()
  let publicKey: WireGuardKey | undefined
  let presharedKey: WireGuardKey | undefined
  let endpoint: Endpoint | undefined
  let keepalive = 0
  let lastHandshake = 0
  let more = false
  const allowedIps: Subnet[] = []
  while (attributes.next()) {
    switch (attributes.type) {
      case WGPEER_A_PUBLIC_KEY:
        publicKey = readKey(attributes)
        break
      case WGPEER_A_PRESHARED_KEY:
        presharedKey = readKey(attributes)
        break
      case WGPEER_A_ENDPOINT:
        endpoint = readEndpoint(attributes.bytes())
        break
      case WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL:
        keepalive = attributes.u16()
        break
      case WGPEER_A_LAST_HANDSHAKE_TIME:
        lastHandshake = readSeconds(attributes.bytes())
        break
      case WGPEER_A_ALLOWEDIPS: {
        const ips = attributes.nested()
        while (ips.next()) {
          const allowed = decodeAllowedIp(ips)
          if (allowed === undefined) more = true
          else allowedIps.push(allowed)
        }
        attributes.join(ips)
        break
      }
    }
  }
  list.join(attributes)
  if (publicKey === undefined) return undefined
  return { publicKey, presharedKey, endpoint, keepalive, allowedIps, more, lastHandshake }
}

function decodeAllowedIp(list: AttributeReader): Subnet | undefined {
  const attributes = list.nested()
  let address: IpAddress | undefined
  let length = 0
  while (attributes.next()) {
    if (attributes.type === WGALLOWEDIP_A_IPADDR) address = attributes.ip()
    else if (attributes.type === WGALLOWEDIP_A_CIDR_MASK) length = attributes.u8()
  }
  list.join(attributes)
  return typeof address === 'number' ? { address, length } : undefined
}

const KEY_LENGTH = 32

/** Throws a RangeError for what is no key. */
function keyBytes(key: WireGuardKey): Uint8Array {
  const bytes = Buffer.from(key, 'base64')
  if (bytes.length !== KEY_LENGTH) throw new RangeError('a WireGuard key has 32 bytes')
  return bytes
}

/** Undefined for all zero, which is none. */
function readKey(attributes: AttributeReader): WireGuardKey | undefined {
  const bytes = attributes.bytes()
  return bytes.length !== KEY_LENGTH || bytes.every((octet) => octet === 0)
    ? undefined
    : Buffer.from(bytes).toString('base64')
}

// struct sockaddr_in { sa_family_t sin_family; __be16 sin_port; struct in_addr sin_addr; unsigned char pad[8]; }
function sockaddr({ address, port }: Endpoint): Uint8Array {
  const bytes = Buffer.alloc(16)
  bytes.writeUInt16LE(AF_INET, 0)
  bytes.writeUInt16BE(port, 2)
  bytes.writeUInt32BE(address, 4)
  return bytes
}

function readEndpoint(raw: Uint8Array): Endpoint | undefined {
  const bytes = Buffer.from(raw)
  if (bytes.length < 8 || bytes.readUInt16LE(0) !== AF_INET) return undefined
  return { port: bytes.readUInt16BE(2), address: bytes.readUInt32BE(4) }
}

// struct __kernel_timespec { __kernel_time64_t tv_sec; long long tv_nsec; }
function readSeconds(raw: Uint8Array): number {
  return raw.length < 8 ? 0 : Number(Buffer.from(raw).readBigInt64LE(0))
}
