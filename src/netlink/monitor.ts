/**
 * What the kernel says has changed, by us or by others.
 *
 * It does not say everything: a device that goes down or away takes its IPv4 routes along without a word
 * about each. And it does not keep everything: when its queue is full, what follows is lost. Both call for a
 * dump. An entry that is written again as it was, route, neighbour or FDB entry, is no change and not told.
 */
import { type Address, decodeAddress } from './address.ts'
import {
  AF_BRIDGE,
  NLM_F_REPLACE,
  RTM_DELADDR,
  RTM_DELLINK,
  RTM_DELNEIGH,
  RTM_DELNEXTHOP,
  RTM_DELROUTE,
  RTM_NEWADDR,
  RTM_NEWLINK,
  RTM_NEWNEIGH,
  RTM_NEWNEXTHOP,
  RTM_NEWROUTE,
} from './constants.ts'
import { NetlinkError } from './errors.ts'
import { decodeFdbEntry, type FdbEntry } from './fdb.ts'
import { decodeLink, type Link } from './link.ts'
import { decodeNeighbour, type Neighbour } from './neighbour.ts'
import { decodeNexthop, type Nexthop } from './nexthop.ts'
import { decodeRoute, type Route } from './route.ts'
import type { NetlinkSocket } from './socket.ts'
import { noTrace, type Tracing, traceDatagram } from './trace.ts'
import { type NetlinkMessage, readMessages } from './wire.ts'

interface Change<Kind extends string, Value> {
  readonly kind: Kind
  readonly deleted: boolean
  /**
   * The entry took the place of another (NLM_F_REPLACE). The kernel says so of routes only; of a nexthop it says
   * whether that was allowed.
   */
  readonly replaced: boolean
  /** The socket whose request caused it (`Rtnl.portId`); 0 for the kernel itself, for any FDB entry and any link. */
  readonly portId: number
  readonly value: Value
}

export type Notification =
  | Change<'link', Link>
  | Change<'address', Address>
  | Change<'route', Route>
  | Change<'neighbour', Neighbour>
  | Change<'fdb', FdbEntry>
  | Change<'nexthop', Nexthop>

/** Datagrams, of one message each as a rule, taken in one turn of the event loop. */
const PER_TURN = 256

const MAX_RECEIVE_ERRORS = 8

export class Monitor {
  /** Totals since start: changes that were told, and times that some were lost. */
  readonly counters = { notifications: 0, overruns: 0 }
  readonly #socket: NetlinkSocket
  readonly #onChange: (changes: Notification[]) => void
  readonly #onOverrun: () => void
  readonly #trace: Tracing
  #closed = false

  /** `onChange` gets what has changed, in order, never an empty list; `onOverrun` says that some of it was lost. */
  constructor(
    socket: NetlinkSocket,
    onChange: (changes: Notification[]) => void,
    onOverrun: () => void,
    options: { readonly trace?: Tracing } = {},
  ) {
    this.#socket = socket
    this.#onChange = onChange
    this.#onOverrun = onOverrun
    this.#trace = options.trace ?? noTrace
    socket.onReadable(() => this.#take())
  }

  /** Handles now all that is queued now, such as what our own requests have just caused. */
  drain(): void {
    while (!this.#closed && this.#take()) {}
  }

  close(): void {
    this.#closed = true
    this.#socket.close()
  }

  /** Handles one turn's worth and returns whether there may be more. */
  #take(): boolean {
    const changes: Notification[] = []
    let failures = 0
    let more = true
    for (let i = 0; i < PER_TURN && more; i++) {
      try {
        const datagram = this.#socket.receive()
        if (datagram === undefined) more = false
        else this.#read(datagram, changes)
      } catch (error) {
        if (!(error instanceof NetlinkError)) throw error
        if (++failures === MAX_RECEIVE_ERRORS) more = false
      }
    }
    this.counters.notifications += changes.length
    if (changes.length > 0) this.#onChange(changes)
    if (failures > 0) {
      this.counters.overruns++
      this.#onOverrun()
    }
    return more
  }

  #read(datagram: Uint8Array, changes: Notification[]): void {
    const trace = this.#trace()
    if (trace !== undefined) traceDatagram(trace, '<', datagram)
    for (const message of readMessages(datagram)) {
      const change = decodeNotification(message)
      if (change !== undefined) changes.push(change)
    }
  }
}

/** Undefined for a message of another type, and for one that cannot be read. Never throws. */
export function decodeNotification(message: NetlinkMessage): Notification | undefined {
  const { type, flags, portId, payload } = message
  const replaced = (flags & NLM_F_REPLACE) !== 0
  switch (type) {
    case RTM_NEWLINK:
    case RTM_DELLINK: {
      const value = decodeLink(payload)
      return value && { kind: 'link', deleted: type === RTM_DELLINK, replaced, portId, value }
    }
    case RTM_NEWADDR:
    case RTM_DELADDR: {
      const value = decodeAddress(payload)
      return value && { kind: 'address', deleted: type === RTM_DELADDR, replaced, portId, value }
    }
    case RTM_NEWROUTE:
    case RTM_DELROUTE: {
      const value = decodeRoute(payload)
      return value && { kind: 'route', deleted: type === RTM_DELROUTE, replaced, portId, value }
    }
    case RTM_NEWNEIGH:
    case RTM_DELNEIGH: {
      const deleted = type === RTM_DELNEIGH
      if (payload[0] === AF_BRIDGE) {
        const value = decodeFdbEntry(payload)
        return value && { kind: 'fdb', deleted, replaced, portId, value }
      }
      const value = decodeNeighbour(payload)
      return value && { kind: 'neighbour', deleted, replaced, portId, value }
    }
    case RTM_NEWNEXTHOP:
    case RTM_DELNEXTHOP: {
      const value = decodeNexthop(payload)
      return value && { kind: 'nexthop', deleted: type === RTM_DELNEXTHOP, replaced, portId, value }
    }
    default:
      return undefined
  }
}
