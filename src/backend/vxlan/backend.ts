import type { MacAddress } from '../../ip.ts'
import type { Lease } from '../../subnet/lease.ts'
import type { Backend, BackendContext } from '../backend.ts'
import { ROUTE_DUMPS } from '../routes.ts'
import { parseVxlanConfig } from './config.ts'
import { findDevice } from './device.ts'
import { VxlanNetwork } from './network.ts'
import { dumpsOf } from './tables.ts'
import { vtepMac } from './vtep.ts'

/** Throws a BackendError for options that are no good, a DeviceError when the device's name is somebody else's. */
export function openBackend(context: BackendContext): Backend {
  const { rtnl, log, underlay } = context
  const { vni, port, gbp, directRouting, mtu } = parseVxlanConfig(context.options)
  log.info(`VXLAN config: VNI=${vni} Port=${port} GBP=${gbp} DirectRouting=${directRouting}`)
  const name = `flannel.${vni}`
  // What an earlier run left is kept, so that peers need learn nothing; what the lease says they know already.
  const device = findDevice(rtnl, name)
  const mac = device?.mac ?? randomMac()
  return {
    device: name,
    left: device && { device: device.index, tables: [...dumpsOf(device.index), ...ROUTE_DUMPS] },
    attributes: (own) => ({
      publicIP: underlay.publicIP,
      backendType: 'vxlan',
      backendData: { VtepMAC: leasedMac(own) ?? mac },
    }),
    start: async (lease, hooks) => {
      const network = new VxlanNetwork({
        ...context,
        ...hooks,
        directRouting,
        maxMtu: mtu,
        device: { name, vni, port, gbp, mac: leasedMac(lease) ?? mac, address: lease.subnet.address },
      })
      network.start()
      return network
    },
  }
}

function leasedMac(lease: Lease | undefined): MacAddress | undefined {
  return lease?.attributes.backendType === 'vxlan' ? vtepMac(lease.attributes.backendData) : undefined
}

/**
 * A locally administered unicast MAC. Chosen here and not by the kernel, so that udev takes it for deliberate. It is
 * no secret, and loading node:crypto takes 7 ms of a start.
 */
function randomMac(): MacAddress {
  const octets = Array.from({ length: 6 }, () => Math.floor(Math.random() * 256))
  octets[0] = ((octets[0] ?? 0) & 0xfe) | 0x02
  return octets.map((octet) => octet.toString(16).padStart(2, '0')).join(':')
}
