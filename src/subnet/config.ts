import {
  contains,
  formatIpv4,
  formatSubnet,
  type Ipv4,
  netmask,
  parseCidr,
  parseIpv4,
  type Subnet,
  subnetOf,
  subnetSize,
} from '../ip.ts'
import { jsonDepth, jsonFields, jsonKind, oneLine, parseJson } from './gojson.ts'

/** What `<prefix>/config` says, with every default filled in. */
export interface NetworkConfig {
  readonly network: Subnet
  /** Prefix length of every lease, 2..30. */
  readonly subnetLen: number
  /** First and last subnet that may be leased; multiples of the subnet size inside the network, min <= max. */
  readonly subnetMin: Ipv4
  readonly subnetMax: Ipv4
  /** Lower-cased; 'udp' when the config names no backend, as in flannel. */
  readonly backendType: string
  /** The `Backend` object as parsed JSON, `{}` when absent; each backend reads its own options from it. */
  readonly backend: Readonly<Record<string, unknown>>
}

/** A network config that cannot be used; the message is one line that names field, value, reason and remedy. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError'
  readonly field: string

  constructor(field: string, message: string) {
    super(message)
    this.field = field
  }
}

/**
 * Reads the JSON of `<prefix>/config` by flannel v0.11's rules, with two differences: `Network` is required
 * (flannel takes `{}` for 0.0.0.0/0 and opens the firewall for everything) and SubnetMin may not exceed SubnetMax.
 */
export function parseNetworkConfig(text: string): NetworkConfig {
  const fields = readFields(text)
  const network = readNetwork(fields.Network)
  const subnetLen = readSubnetLen(fields.SubnetLen, network)
  const size = subnetSize(subnetLen)
  const subnetMin = readBound('SubnetMin', fields.SubnetMin, network, network.address + size)
  const last = network.address + subnetSize(network.length) - size
  const subnetMax = readBound('SubnetMax', fields.SubnetMax, network, last)
  for (const [field, value] of [
    ['SubnetMin', subnetMin],
    ['SubnetMax', subnetMax],
  ] as const) {
    if ((value & netmask(subnetLen)) >>> 0 !== value) {
      throw new ConfigError(
        field,
        `${field} is not on a SubnetLen boundary: ${formatIpv4(value)}; with SubnetLen ${subnetLen} use for ` +
          `example ${formatIpv4(subnetOf(value, subnetLen).address)}`,
      )
    }
  }
  if (subnetMin > subnetMax) {
    throw new ConfigError(
      'SubnetMin',
      `SubnetMin ${formatIpv4(subnetMin)} is above SubnetMax ${formatIpv4(subnetMax)}, which leaves no subnet to lease; ` +
        'swap them or drop one',
    )
  }
  const { type, backend } = readBackend(fields.Backend)
  return { network, subnetLen, subnetMin, subnetMax, backendType: type.toLowerCase(), backend }
}

const MOST_DEPTH = 100
const FIELDS = ['Network', 'SubnetLen', 'SubnetMin', 'SubnetMax', 'Backend'] as const

function readFields(text: string): Partial<Record<(typeof FIELDS)[number], string>> {
  try {
    const fields = jsonFields(text, FIELDS)
    if (jsonDepth(text) > MOST_DEPTH) throw new TypeError(`is nested more than ${MOST_DEPTH} deep`)
    return fields
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    throw new ConfigError('', `the network config ${reason}; expected for example {"Network":"10.5.0.0/16"}`)
  }
}

function readNetwork(raw: string | undefined): Subnet {
  if (raw === undefined) {
    throw new ConfigError(
      'Network',
      'the network config has no Network; add for example "Network":"10.5.0.0/16"',
    )
  }
  const text = readString('Network', raw)
  const cidr = parseCidr(text)
  if (cidr === undefined) {
    throw new ConfigError(
      'Network',
      `Network: invalid CIDR address: ${oneLine(text)}; expected an IPv4 network such as 10.5.0.0/16`,
    )
  }
  // People's own notation: 10.3.0.0/8 means 10.0.0.0/8.
  const network = subnetOf(cidr.address, cidr.length)
  if (network.length === 0) {
    throw new ConfigError(
      'Network',
      `Network ${formatSubnet(network)} is every address there is; name a smaller one`,
    )
  }
  return network
}

function readSubnetLen(raw: string | undefined, network: Subnet): number {
  const given = raw === undefined || raw === 'null' ? '0' : raw
  if (!/^[0-9]+$/.test(given)) {
    throw new ConfigError(
      'SubnetLen',
      `SubnetLen ${oneLine(given)} is not a whole number; expected for example 24`,
    )
  }
  const subnetLen = Number(given)
  if (subnetLen > 30) throw new ConfigError('SubnetLen', `SubnetLen must be less than /31, not ${given}`)
  if (subnetLen > 0) {
    if (subnetLen >= network.length + 2) return subnetLen
    throw new ConfigError(
      'SubnetLen',
      `SubnetLen ${subnetLen}: Network ${formatSubnet(network)} must be able to accommodate at least four subnets; ` +
        'use a longer SubnetLen or a wider Network',
    )
  }
  if (network.length > 28) {
    throw new ConfigError(
      'Network',
      `Network ${formatSubnet(network)} is too small; the minimum useful network prefix is /28`,
    )
  }
  return network.length <= 22 ? 24 : network.length + 2
}

function readBound(field: string, raw: string | undefined, network: Subnet, byDefault: Ipv4): Ipv4 {
  if (raw === undefined) return byDefault
  const text = readString(field, raw)
  const value = parseIpv4(text)
  if (value === undefined) {
    throw new ConfigError(
      field,
      `${field}: invalid IP address format: ${JSON.stringify(oneLine(text))}; expected an IPv4 address without a length`,
    )
  }
  if (value === 0) return byDefault
  if (contains(network, value)) return value
  throw new ConfigError(
    field,
    `${field} ${formatIpv4(value)} is not in the range of the Network ${formatSubnet(network)}`,
  )
}

function readBackend(raw: string | undefined): { type: string; backend: Readonly<Record<string, unknown>> } {
  if (raw === undefined) return { type: 'udp', backend: {} }
  const value = parseJson(raw)
  // Go reads null as a Backend without a Type, which no backend answers to.
  if (value === null) return { type: '', backend: {} }
  if (typeof value !== 'object' || Array.isArray(value)) {
    throw new ConfigError(
      'Backend',
      `error decoding Backend property of config: it is ${jsonKind(value)}; expected an object such as {"Type":"vxlan"}`,
    )
  }
  const type = jsonFields(raw, ['Type']).Type ?? 'null'
  if (type !== 'null' && !type.startsWith('"')) {
    throw new ConfigError(
      'Backend',
      `error decoding Backend property of config: Type ${oneLine(type)} is no string; expected for example "vxlan"`,
    )
  }
  return { type: type === 'null' ? '' : JSON.parse(type), backend: { ...value } }
}

function readString(field: string, raw: string): string {
  const value = parseJson(raw)
  if (typeof value === 'string') return value
  throw new ConfigError(field, `${field} is ${jsonKind(value)}; expected a string in quotes`)
}
