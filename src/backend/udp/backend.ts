import type { Backend, BackendContext } from '../backend.ts'
import { BackendOptions } from '../options.ts'
import { UdpNetwork } from './network.ts'
import { createTunnel } from './tunnel.ts'

/** flannel's port for udp. */
const DEFAULT_PORT = 8285

/** Throws a BackendError for options that are no good. */
export function openBackend(context: BackendContext): Backend {
  const { log, underlay, options } = context
  const port = new BackendOptions('UDP', options).integer('Port', 65_535) || DEFAULT_PORT
  if (Object.keys(options).length === 0) {
    log.warn(
      'the network config names no Backend, which means udp, the slowest one: every packet passes this process; ' +
        'where nothing holds you to it, write "Backend":{"Type":"vxlan"} into the config and restart all nodes',
    )
  }
  return {
    // Without a type, as flannel writes it.
    attributes: () => ({ publicIP: underlay.publicIP, backendType: '', backendData: undefined }),
    start: async (lease, hooks) => {
      const network = new UdpNetwork({
        ...context,
        ...hooks,
        tunnel: createTunnel(),
        port,
        address: lease.subnet.address,
      })
      network.start()
      return network
    },
  }
}
