import { type RemoteNode, type Row, remote } from './backendnode.ts'
import { ip } from './operator.ts'

export { remote }

export const HOST_GW = {
  type: 'host-gw',
  attributes: (peer: RemoteNode) => ({
    publicIP: ip(peer.ip),
    backendType: 'host-gw',
    backendData: undefined,
  }),
  lines: (peer: RemoteNode) => ({ routes: [`${peer.subnet} via ${peer.ip} dev eth0`] }),
  through: (peer: RemoteNode) => `via ${peer.ip} dev eth0`,
  mtu: 1500,
} satisfies Row & { through: unknown }
