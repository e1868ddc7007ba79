import { formatIpv4 } from '../../ip.ts'
import { type Backend, type BackendContext, BackendError } from '../backend.ts'
import { HostGwNetwork } from './network.ts'

/** host-gw has no options. Throws a BackendError when the address that the lease publishes is not the interface's. */
export function openBackend(context: BackendContext): Backend {
  const { underlay } = context
  const { name, address, publicIP } = underlay
  if (publicIP !== address) {
    throw new BackendError(
      `Error fetching backend: your PublicIP ${formatIpv4(publicIP)} differs from interface IP ${formatIpv4(address)} ` +
        `of ${name}, meaning that probably you're on a NAT, which would break host-gw backend; ` +
        'drop -public-ip, name another -iface, or use vxlan',
    )
  }
  return {
    attributes: () => ({ publicIP: underlay.publicIP, backendType: 'host-gw', backendData: undefined }),
    start: async (_lease, hooks) => {
      const network = new HostGwNetwork({ ...context, ...hooks })
      network.start()
      return network
    },
  }
}
