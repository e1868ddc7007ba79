import { createHash } from 'node:crypto'
import type { RemoteNode, Row } from './backendnode.ts'
import { ip } from './operator.ts'

/** A row for every backend that reaches its peers by the kernel's means. */

export const HOST_GW: Row = {
  type: 'host-gw',
  attributes: (peer) => ({ publicIP: ip(peer.ip), backendType: 'host-gw', backendData: undefined }),
  lines: (peer) => ({ routes: [`${peer.subnet} via ${peer.ip} dev eth0`] }),
  mtu: 1500,
}

const ipip = {
  type: 'ipip',
  device: 'flannel.ipip',
  attributes: (peer: RemoteNode) => ({ publicIP: ip(peer.ip), backendType: 'ipip', backendData: undefined }),
  own: { addresses: ['flannel.ipip 10.244.0.0/32'] },
  mtu: 1480,
}

export const IPIP: Row = {
  ...ipip,
  lines: (peer) => ({ routes: [`${peer.subnet} via ${peer.ip} dev flannel.ipip onlink`] }),
}

/** All peers of the suites are on the link. */
export const IPIP_DIRECT: Row = {
  ...ipip,
  options: { DirectRouting: true },
  lines: (peer) => ({ routes: [`${peer.subnet} via ${peer.ip} dev eth0 onlink`] }),
}

/** The key of a node that was made for this subnet. */
export function keyOf(peer: RemoteNode): string {
  return createHash('sha256').update(peer.subnet).digest('base64')
}

export const WIREGUARD: Row = {
  type: 'wireguard',
  device: 'flannel-wg',
  options: { PersistentKeepaliveInterval: 25 },
  attributes: (peer) => ({
    publicIP: ip(peer.ip),
    backendType: 'wireguard',
    backendData: { PublicKey: keyOf(peer), Port: 51_820 },
  }),
  own: {
    routes: ['10.240.0.0/12 dev flannel-wg scope link'],
    addresses: ['flannel-wg 10.244.0.0/32'],
  },
  lines: () => ({}),
  peer: (peer) => `flannel-wg ${keyOf(peer)} (none) ${peer.ip}:51820 ${peer.subnet} 25`,
  mtu: 1420,
}
