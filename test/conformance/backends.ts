import { createHash } from 'node:crypto'
import type { MacAddress } from '../../src/ip.ts'
import type { RemoteNode, Row } from './backendnode.ts'
import { ip } from './operator.ts'

/** A row for every backend. What is left open here, `suites.ts` says. */

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

function macOf(peer: RemoteNode): MacAddress {
  const [, second = 0, third = 0] = peer.subnet.split('.').map(Number)
  return `02:00:00:01:${[second, third].map((n) => n.toString(16).padStart(2, '0')).join(':')}`
}

const vxlan = {
  type: 'vxlan',
  device: 'flannel.1',
  attributes: (peer: RemoteNode) => ({
    publicIP: ip(peer.ip),
    backendType: 'vxlan',
    backendData: { VtepMAC: macOf(peer) },
  }),
  own: { addresses: ['flannel.1 10.244.0.0/32'] },
  mtu: 1450,
}

export const VXLAN: Row = {
  ...vxlan,
  lines: (peer) => {
    const gateway = peer.subnet.replace(/\/.*/, '')
    return {
      routes: [`${peer.subnet} via ${gateway} dev flannel.1 onlink`],
      neighbours: [`${gateway} dev flannel.1 lladdr ${macOf(peer)} PERMANENT`],
      fdb: [`${macOf(peer)} dev flannel.1 dst ${peer.ip} self permanent`],
    }
  },
}

export const VXLAN_DIRECT: Row = {
  ...vxlan,
  options: { DirectRouting: true },
  lines: HOST_GW.lines,
}

/** Carries packets by itself: nothing of a peer is in the kernel. On a real one only. */
export const UDP: Row = {
  type: 'udp',
  options: { Port: 8285 },
  device: 'flannel0',
  attributes: (peer) => ({ publicIP: ip(peer.ip), backendType: '', backendData: undefined }),
  own: { routes: ['10.240.0.0/12 dev flannel0'], addresses: ['flannel0 10.244.0.0/32'] },
  lines: () => ({}),
  mtu: 1472,
}

export const ALLOC: Row = {
  type: 'alloc',
  attributes: (peer) => ({ publicIP: ip(peer.ip), backendType: '', backendData: undefined }),
  lines: () => ({}),
  mtu: 1500,
}

const extension = {
  type: 'extension',
  commands: true as const,
  attributes: (peer: RemoteNode) => ({
    publicIP: ip(peer.ip),
    backendType: 'extension',
    backendData: undefined,
  }),
  mtu: 1500,
}

/** Its commands do what host-gw does; on a real kernel only. */
export const EXTENSION: Row = {
  ...extension,
  options: {
    SubnetAddCommand: 'ip route replace $SUBNET via $PUBLIC_IP',
    SubnetRemoveCommand: 'ip route del $SUBNET via $PUBLIC_IP',
    // What they have made is theirs to take away.
    ShutdownCommand: 'ip route flush dev eth0 proto boot root $NETWORK',
  },
  lines: HOST_GW.lines,
}

/** Of commands that leave the kernel alone nothing is there. */
export const EXTENSION_IDLE: Row = {
  ...extension,
  options: { SubnetAddCommand: 'read data', SubnetRemoveCommand: 'read data' },
  lines: () => ({}),
}
