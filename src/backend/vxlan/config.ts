import { BackendError } from '../backend.ts'
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
}

const MAX_VNI = 9_999_999

/** Reads the options, whose names Go matches without regard to case. Throws a BackendError. */
export function parseVxlanConfig(backend: Readonly<Record<string, unknown>>): VxlanConfig {
  const field = (name: string): unknown => {
    let found: unknown
    for (const [key, value] of Object.entries(backend))
      if (key.toLowerCase() === name.toLowerCase()) found = value
    return found ?? undefined
  }
  const integer = (name: string, max: number): number | undefined => {
    const value = field(name)
    if (value === undefined) return undefined
    if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= max) return value
    throw wrong(name, value, `a whole number from 0 to ${max}`)
  }
  const boolean = (name: string): boolean => {
    const value = field(name) ?? false
    if (typeof value === 'boolean') return value
    throw wrong(name, value, 'true or false')
  }
  return {
    vni: integer('VNI', MAX_VNI) ?? 1,
    port: integer('Port', 65_535) || DEFAULT_PORT,
    gbp: boolean('GBP'),
    directRouting: boolean('DirectRouting'),
  }
}

function wrong(name: string, value: unknown, expected: string): BackendError {
  return new BackendError(
    `Error registering network: error decoding VXLAN backend config: ${name} must be ${expected}, not ${JSON.stringify(value)}`,
  )
}
