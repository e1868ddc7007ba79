import { BackendOptions } from '../options.ts'
import { DEFAULT_PORT } from './device.ts'

/** The `Backend` object of the network config, for Type vxlan. */
export interface VxlanConfig {
  /** VXLAN network identifier, 0..9,999,999: beyond that `flannel.<VNI>` is too long for an interface name. */
  readonly vni: number
  /** UDP destination port, 1..65535. */
  readonly port: number
  /** Group Based Policy extension (VXLAN-GBP). */
  readonly gbp: boolean
  /** Plain routes, without the tunnel, to peers on the same link. */
  readonly directRouting: boolean
  /** Bytes that a packet between nodes may have, if less than the interface's MTU; newer flannel has it. */
  readonly mtu: number | undefined
}

const MAX_VNI = 9_999_999

/** Throws a BackendError. */
export function parseVxlanConfig(options: Readonly<Record<string, unknown>>): VxlanConfig {
  const read = new BackendOptions('VXLAN', options)
  return {
    vni: read.integer('VNI', MAX_VNI) ?? 1,
    port: read.integer('Port', 65_535) || DEFAULT_PORT,
    gbp: read.boolean('GBP'),
    directRouting: read.boolean('DirectRouting'),
    mtu: read.mtu(),
  }
}
