import {
  contains,
  formatIpv4,
  type Ipv4,
  isUnicastHost,
  parseIpv4,
  parsePrefixLength,
  type Subnet,
  subnetOf,
} from '../ip.ts'
import { jsonDepth, jsonFields, jsonKind, oneLine, parseJson } from './gojson.ts'
import type { LeaseAttributes } from './lease.ts'

/** A lease's key below `subnets`: 10.5.33.0/24 is leased under `10.5.33.0-24`. */
export function leaseKey(subnet: Subnet): string {
  return `${formatIpv4(subnet.address)}-${subnet.length}`
}

/** What could be read, or, as a text, why not: a bad value is an everyday answer here, not an exception. */
export type Decoded<T extends object> = T | string

/**
 * Reads the last element of a key path as a subnet. Prefix lengths are 0..31, as in flannel. Unlike flannel's
 * search, which takes the first such thing anywhere in the path, this one is anchored; host bits are an error,
 * because two keys would then name one subnet.
 */
export function parseLeaseKey(key: string): Decoded<Subnet> {
  const written = readKey(key)
  if (written === undefined) return 'the key is not of the form a.b.c.d-len'
  const { address, length } = written
  // A prefix without host bits holds its address as it is written.
  if (contains(written, address)) return written
  return `the key has host bits set; ${leaseKey(subnetOf(address, length))} would be right`
}

/** The subnet a key lays claim to even if it is written wrongly: nobody else should be given that range. */
export function claimedSubnet(key: string): Subnet | undefined {
  const written = readKey(key)
  return written && subnetOf(written.address, written.length)
}

/** Host bits are kept. */
function readKey(key: string): { readonly address: Ipv4; readonly length: number } | undefined {
  const start = key.lastIndexOf('/') + 1
  const dash = key.indexOf('-', start)
  const length = parsePrefixLength(key, dash + 1)
  if (dash < 0 || length === undefined || length > 31) return undefined
  const address = parseIpv4(key, start, dash)
  return address === undefined ? undefined : { address, length }
}

/** The lease value as Go writes it: compact, in this order, empty fields left out, HTML characters escaped. */
export function encodeLeaseValue(attributes: LeaseAttributes): string {
  const { publicIP, backendType, backendData } = attributes
  const json = JSON.stringify({
    PublicIP: formatIpv4(publicIP),
    BackendType: backendType === '' ? undefined : backendType,
    BackendData: backendData,
  })
  // Outside of strings JSON has none of these characters, so they may be replaced anywhere.
  return json.replace(/[<>&\u2028\u2029]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`)
}

/** Reads a lease value the lenient way Go does, but never accepts an address that can be no tunnel end. */
export function decodeLeaseValue(text: string): Decoded<LeaseAttributes> {
  let fields: LeaseFields
  try {
    fields = readFields(text)
  } catch (error) {
    return `the value ${error instanceof Error ? error.message : String(error)}`
  }
  // JSON.parse takes any depth, but whoever compares or prints the value later calls itself for each.
  if (text.length > LONG_VALUE && jsonDepth(text) > MOST_DEPTH) {
    return `the value is nested more than ${MOST_DEPTH} deep`
  }
  const { PublicIP, BackendType, BackendData } = fields
  const publicIP = readPublicIP(PublicIP)
  if (typeof publicIP === 'string') return publicIP
  if (BackendType !== undefined && BackendType !== null && typeof BackendType !== 'string') {
    return `BackendType is ${jsonKind(BackendType)}, not a string`
  }
  return { publicIP, backendType: BackendType ?? '', backendData: BackendData }
}

/** Characters; what is shorter cannot be deep enough to do harm. */
const LONG_VALUE = 1_000
const MOST_DEPTH = 100

interface LeaseFields {
  readonly PublicIP?: unknown
  readonly BackendType?: unknown
  readonly BackendData?: unknown
}

const NAMES = ['PublicIP', 'BackendType', 'BackendData'] as const

/** JSON.parse alone where names are spelled our way, which is nearly always: there may be 65,000 leases. */
function readFields(text: string): LeaseFields {
  const value = parseJson(text)
  if (value !== null && typeof value === 'object' && !Array.isArray(value)) {
    let plain = true
    for (const name in value)
      plain &&= name === 'PublicIP' || name === 'BackendType' || name === 'BackendData'
    if (plain) return value
  }
  return Object.fromEntries(
    Object.entries(jsonFields(text, NAMES)).map(([name, raw]) => [name, JSON.parse(raw)]),
  )
}

function readPublicIP(value: unknown): Ipv4 | string {
  if (value === undefined) return 'PublicIP is missing'
  if (typeof value !== 'string') return `PublicIP is ${jsonKind(value)}, not a string`
  const address = parseIpv4(value)
  if (address === undefined)
    return `PublicIP ${JSON.stringify(oneLine(value.slice(0, 60)))} is not an IPv4 address`
  return isUnicastHost(address) ? address : `PublicIP ${value} is not the address of a host`
}
