import type { Backend, BackendContext } from '../backend.ts'
import { BackendOptions } from '../options.ts'
import { DEVICE, IpipNetwork } from './network.ts'

/** Throws a BackendError for options that are no good. */
export function openBackend(context: BackendContext): Backend {
  const { log, underlay, options } = context
  const directRouting = new BackendOptions('IPIP', options).boolean('DirectRouting')
  log.info(`IPIP config: DirectRouting=${directRouting}`)
  return {
    device: DEVICE,
    attributes: () => ({ publicIP: underlay.publicIP, backendType: 'ipip', backendData: undefined }),
    start: async (lease, hooks) => {
      const { address } = lease.subnet
      const network = new IpipNetwork({ ...context, ...hooks, directRouting, address })
      network.start()
      return network
    },
  }
}
