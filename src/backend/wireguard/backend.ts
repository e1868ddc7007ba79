import type { Rtnl } from '../../netlink/conn.ts'
import { NetlinkError } from '../../netlink/errors.ts'
import { getFamily } from '../../netlink/genl.ts'
import { WG_GENL_NAME } from '../../netlink/wireguard.ts'
import type { Backend, BackendContext } from '../backend.ts'
import { missingModule } from '../device.ts'
import { parseWireGuardConfig } from './config.ts'
import { KEY_FILE, loadKeyPair } from './key.ts'
import { DEVICE, WireGuardNetwork } from './network.ts'

/** Throws a BackendError for options or a key that are no good, a DeviceError when the kernel has no WireGuard. */
export function openBackend(context: BackendContext): Backend {
  const { log, underlay, env } = context
  const config = parseWireGuardConfig(context.options)
  const generic = context.generic()
  const family = findFamily(generic)
  const keys = loadKeyPair(env.WIREGUARD_KEY_FILE || KEY_FILE, log)
  return {
    device: DEVICE,
    attributes: () => ({
      publicIP: underlay.publicIP,
      backendType: 'wireguard',
      backendData: { PublicKey: keys.publicKey, Port: config.listenPort },
    }),
    start: async (lease, hooks) => {
      const { address } = lease.subnet
      const network = new WireGuardNetwork({
        ...context,
        ...hooks,
        config,
        keys,
        family,
        address,
        connection: generic,
      })
      network.start()
      return network
    },
  }
}

function findFamily(generic: Rtnl): number {
  try {
    return generic.get(getFamily(WG_GENL_NAME))
  } catch (error) {
    if (error instanceof NetlinkError && error.notFound) throw missingModule('wireguard', 'WireGuard devices')
    throw error
  }
}
