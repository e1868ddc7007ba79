import { decodeDone, decodeError } from './ack.ts'
import { decodeAddress } from './address.ts'
import * as constants from './constants.ts'
import { errnoName } from './errors.ts'
import { decodeFdbEntry } from './fdb.ts'
import { formatIp } from './format.ts'
import { decodeLink } from './link.ts'
import { decodeNeighbour } from './neighbour.ts'
import { decodeNexthop } from './nexthop.ts'
import { decodeRoute } from './route.ts'
import { type NetlinkMessage, readMessages } from './wire.ts'

/** Takes one line for every message sent or received; what FLANNELD_DEBUG_NETLINK=1 turns on. */
export type Trace = (line: string) => void

/** Asked at every datagram, so that tracing can be switched on and off: undefined when nobody wants to read it. */
export type Tracing = () => Trace | undefined

export const noTrace: Tracing = () => undefined

/** Traces every message of a datagram; `>` is sent, `<` received. */
export function traceDatagram(trace: Trace, direction: '>' | '<', datagram: Uint8Array): void {
  for (const message of readMessages(datagram)) trace(`${direction} ${describeMessage(message)}`)
}

const typeNames = new Map<number, string>(
  Object.entries(constants).flatMap(([name, value]) =>
    /^(RTM_[A-Z]*|NLMSG_[A-Z]*)$/.test(name) ? [[value, name]] : [],
  ),
)

/** One message in words: `RTM_NEWNEIGH flags=0x505 seq=3 port=0 {"index":4,"mac":...}`. Never throws. */
export function describeMessage(message: NetlinkMessage): string {
  const { type, flags, sequence, portId } = message
  const name = typeNames.get(type) ?? `type ${type}`
  return `${name} flags=0x${flags.toString(16)} seq=${sequence} port=${portId} ${describePayload(message)}`
}

function describePayload(message: NetlinkMessage): string {
  const { type, payload } = message
  if (type === constants.NLMSG_ERROR || type === constants.NLMSG_DONE) {
    const { errno, text } = type === constants.NLMSG_ERROR ? decodeError(message) : decodeDone(message)
    return `${errno === 0 ? 'ok' : errnoName(errno)}${text === undefined ? '' : `: ${text}`}`
  }
  const value = decodeAny(type, payload)
  return value === undefined ? `${payload.length} bytes` : JSON.stringify(value, readable)
}

function decodeAny(type: number, payload: Uint8Array): object | undefined {
  // Types come in fours: new, delete, get, set.
  switch (type & ~3) {
    case constants.RTM_NEWLINK:
      return decodeLink(payload)
    case constants.RTM_NEWADDR:
      return decodeAddress(payload)
    case constants.RTM_NEWROUTE:
      return decodeRoute(payload)
    case constants.RTM_NEWNEIGH:
      return payload[0] === constants.AF_BRIDGE ? decodeFdbEntry(payload) : decodeNeighbour(payload)
    case constants.RTM_NEWNEXTHOP:
      return decodeNexthop(payload)
    default:
      return undefined
  }
}

const addresses = new Set(['address', 'broadcast', 'destination', 'gateway', 'group', 'local', 'source'])

function readable(key: string, value: unknown): unknown {
  const isAddress = typeof value === 'bigint' || (typeof value === 'number' && addresses.has(key))
  return isAddress ? formatIp(value) : value
}
