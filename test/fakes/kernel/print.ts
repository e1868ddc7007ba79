/** Kernel state as `ip` and `bridge` print it, so that a test compares text, and the same text for a real kernel. */
import { formatIpv4, formatSubnet } from '../../../src/ip.ts'
import { NUD_NOARP, NUD_PERMANENT, RT_TABLE_MAIN, RTPROT_BOOT } from '../../../src/netlink/constants.ts'
import type { FdbEntry } from '../../../src/netlink/fdb.ts'
import type { Neighbour } from '../../../src/netlink/neighbour.ts'
import type { Nexthop } from '../../../src/netlink/nexthop.ts'
import type { Route } from '../../../src/netlink/route.ts'
import { hopsOf } from './routes.ts'

/** Index to name. */
type NameOf = (index: number) => string

// iproute2's etc/rt_protos and etc/rt_scopes
const PROTOCOLS: Readonly<Record<number, string>> = { 2: 'kernel', 4: 'static', 16: 'dhcp', 186: 'bgp' }
const SCOPES: Readonly<Record<number, string>> = { 253: 'link', 254: 'host' }

/** More than one line for a route with several gateways. */
export function printRoute(route: Route, nameOf: NameOf): string {
  const { destination, gateway, nexthopId, oif, table, protocol, scope, source, metric, onlink } = route
  const name = destination.length === 0 ? 'default' : formatSubnet(destination)
  return words(
    destination.length === 32 ? formatIpv4(destination.address) : name,
    route.tos !== 0 && `tos 0x${route.tos.toString(16).padStart(2, '0')}`,
    nexthopId !== undefined && `nhid ${nexthopId}`,
    gateway !== undefined && `via ${formatIpv4(gateway)}`,
    oif !== undefined && `dev ${nameOf(oif)}`,
    table !== RT_TABLE_MAIN && `table ${table}`,
    protocol !== RTPROT_BOOT && `proto ${PROTOCOLS[protocol] ?? protocol}`,
    scope !== 0 && `scope ${SCOPES[scope] ?? scope}`,
    source !== undefined && `src ${formatIpv4(source)}`,
    metric !== 0 && `metric ${metric}`,
    onlink && 'onlink',
    ...hopsOf(route).map((hop) => {
      const flags = hop.onlink ? ' onlink' : ''
      return `\n\tnexthop via ${formatIpv4(hop.gateway)} dev ${nameOf(hop.oif)} weight 1${flags}`
    }),
  )
}

export function printNeighbour({ index, address, mac, state }: Neighbour, nameOf: NameOf): string {
  const word = (state & NUD_PERMANENT) !== 0 ? 'PERMANENT' : (state & NUD_NOARP) !== 0 ? 'NOARP' : 'STALE'
  return words(
    formatIpv4(Number(address)),
    `dev ${nameOf(index)}`,
    mac !== undefined && `lladdr ${mac}`,
    word,
  )
}

export function printFdbEntry({ index, mac, destination, state }: FdbEntry, nameOf: NameOf): string {
  const permanent = (state & NUD_PERMANENT) !== 0
  return words(
    mac,
    `dev ${nameOf(index)}`,
    destination !== undefined && `dst ${formatIpv4(destination)}`,
    'self',
    permanent && 'permanent',
  )
}

export function printNexthop({ id, gateway, oif, onlink, protocol }: Nexthop, nameOf: NameOf): string {
  return words(
    `id ${id}`,
    gateway !== undefined && `via ${formatIpv4(gateway)}`,
    `dev ${nameOf(oif)}`,
    'scope link',
    protocol !== 0 && `proto ${protocol === RTPROT_BOOT ? 'boot' : (PROTOCOLS[protocol] ?? protocol)}`,
    onlink && 'onlink',
  )
}

function words(...parts: (string | false)[]): string {
  return parts.filter((part) => part !== false).join(' ')
}
