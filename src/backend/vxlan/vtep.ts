import { formatSubnet, type Ipv4, type MacAddress, type Subnet } from '../../ip.ts'
import type { Lease } from '../../subnet/lease.ts'
import { UnusableLease } from '../model.ts'

/** A remote tunnel end, as a peer's lease describes it. */
export interface Vtep {
  /** The peer's pods. Its first address is the overlay address that routes go through. */
  readonly subnet: Subnet
  /** The inner MAC: the peer's own `flannel.<VNI>`. */
  readonly mac: MacAddress
  /** The outer address, where the encapsulated packet is sent. */
  readonly underlay: Ipv4
}

/** Reads the VTEP out of a lease; throws UnusableLease with the reason when there is none. */
export function vtepOf(lease: Lease): Vtep {
  const { subnet, attributes } = lease
  const { backendType, backendData, publicIP } = attributes
  if (backendType !== 'vxlan') {
    throw new UnusableLease(`ignoring non-vxlan subnet(${formatSubnet(subnet)}): type=${backendType}`)
  }
  const mac = vtepMac(backendData)
  if (mac === undefined) {
    const text = JSON.stringify(backendData)?.slice(0, 80) ?? 'nothing'
    throw new UnusableLease(
      `error decoding subnet lease JSON: ${formatSubnet(subnet)} has no usable VtepMAC in BackendData ${text}`,
    )
  }
  return { subnet, mac, underlay: publicIP }
}

/** The usable `VtepMAC` of a lease's BackendData, or undefined. */
export function vtepMac(backendData: unknown): MacAddress | undefined {
  return parseVtepMac(vtepMacField(backendData))
}

/** `VtepMAC` of BackendData, found as Go's decoder finds it: by name without regard to case, the last one wins. */
function vtepMacField(data: unknown): unknown {
  if (typeof data !== 'object' || data === null) return undefined
  let found: unknown
  for (const name in data) {
    if (name !== 'VtepMAC' && name.toLowerCase() !== 'vtepmac') continue
    // It is one of the object's own names.
    found = data[name as keyof typeof data]
  }
  return found
}

/**
 * A unicast MAC of six octets, in the three notations that Go's net.ParseMAC takes: `:`, `-`, or Cisco's dots.
 * A multicast or all-zero MAC is refused: the kernel would flood to it instead of forwarding.
 */
export function parseVtepMac(value: unknown): MacAddress | undefined {
  if (typeof value !== 'string') return undefined
  let hex: string
  if (/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i.test(value)) {
    hex = value
  } else if (/^[0-9a-f]{2}(-[0-9a-f]{2}){5}$/i.test(value)) {
    hex = value.replaceAll('-', ':')
  } else if (/^[0-9a-f]{4}(\.[0-9a-f]{4}){2}$/i.test(value)) {
    hex = value.replaceAll('.', '').replace(/..(?!$)/g, '$&:')
  } else {
    return undefined
  }
  const mac = hex.toLowerCase()
  const multicast = '13579bdf'.includes(mac.charAt(1))
  return multicast || mac === '00:00:00:00:00:00' ? undefined : mac
}
