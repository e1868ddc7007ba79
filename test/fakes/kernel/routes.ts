import { isDeepStrictEqual } from 'node:util'
import { type Ipv4, netmask, type Subnet } from '../../../src/ip.ts'
import {
  NLM_F_APPEND,
  NLM_F_CREATE,
  NLM_F_EXCL,
  NLM_F_REPLACE,
  RT_TABLE_MAIN,
  RTNH_F_ONLINK,
} from '../../../src/netlink/constants.ts'
import type { Route } from '../../../src/netlink/route.ts'
import { getU16, getU32 } from '../../../src/netlink/wire.ts'
import { Refusal } from './refusal.ts'

/**
 * IPv4 routing tables (net/ipv4/fib_trie.c). Under one prefix routes stand by TOS and metric, and those that have
 * both in common stand in a row of which only the first is used: REPLACE takes that one's place, APPEND goes
 * behind the row, and anything else goes before it.
 */
export class RouteTables {
  readonly #prefixes = new Map<string, Route[]>()
  readonly #tables = new Set<number>()

  /** fib_table_insert: returns the flags of the notification, undefined when nothing changed. */
  write(route: Route, flags: number): number | undefined {
    this.#tables.add(route.table)
    const key = prefixKey(route.table, route.destination)
    const aliases = this.#prefixes.get(key) ?? []
    const at = aliases.findIndex(
      (r) => r.tos < route.tos || (r.tos === route.tos && r.metric >= route.metric),
    )
    let first = at < 0 ? aliases.length : at
    let notification = 0
    const inRow = (r: Route | undefined) =>
      r !== undefined && r.tos === route.tos && r.metric === route.metric
    if (inRow(aliases[first])) {
      if ((flags & NLM_F_EXCL) !== 0) throw new Refusal('EEXIST')
      let end = first
      while (inRow(aliases[end])) end++
      const match = aliases.findIndex((r, i) => i >= first && i < end && sameInfo(r, route))
      if ((flags & NLM_F_REPLACE) !== 0) {
        if (match === first) return undefined
        if (match >= 0) throw new Refusal('EEXIST')
        aliases[first] = route
        return NLM_F_REPLACE
      }
      if (match >= 0) throw new Refusal('EEXIST')
      if ((flags & NLM_F_APPEND) !== 0) {
        notification |= NLM_F_APPEND
        first = end
      }
    }
    if ((flags & NLM_F_CREATE) === 0) throw new Refusal('ENOENT')
    aliases.splice(first, 0, route)
    this.#prefixes.set(key, aliases)
    return notification | NLM_F_CREATE
  }

  /** fib_table_delete: the first that has all of what is given; what is 0 or absent is not asked for. */
  delete(wanted: Route): Route {
    if (!this.#tables.has(wanted.table)) throw new Refusal('ESRCH', 'FIB table does not exist')
    const key = prefixKey(wanted.table, wanted.destination)
    const aliases = this.#prefixes.get(key) ?? []
    const at = aliases.findIndex((r) => matches(wanted, r))
    const [found] = at < 0 ? [] : aliases.splice(at, 1)
    if (found === undefined) throw new Refusal('ESRCH')
    if (aliases.length === 0) this.#prefixes.delete(key)
    return found
  }

  /** Takes away all that `gone` says, without a word to anybody. */
  flush(gone: (route: Route) => boolean): void {
    for (const [key, aliases] of this.#prefixes) {
      const rest = aliases.filter((route) => !gone(route))
      if (rest.length === aliases.length) continue
      if (rest.length === 0) this.#prefixes.delete(key)
      else this.#prefixes.set(key, rest)
    }
  }

  /** In the order of the trie: by address, longer prefixes first. */
  list(table?: number): Route[] {
    if (table !== undefined && !this.#tables.has(table)) {
      throw new Refusal('ENOENT', 'FIB table does not exist')
    }
    return [...this.#prefixes.values()]
      .flat()
      .filter((route) => table === undefined || route.table === table)
      .sort(
        (a, b) =>
          a.table - b.table ||
          a.destination.address - b.destination.address ||
          b.destination.length - a.destination.length,
      )
  }

  /** The route that a packet to `address` takes in the main table. */
  lookUp(address: Ipv4, fits: (route: Route) => boolean = () => true): Route | undefined {
    for (let length = 32; length >= 0; length--) {
      const destination = { address: (address & netmask(length)) >>> 0, length }
      const found = this.#prefixes.get(prefixKey(RT_TABLE_MAIN, destination))?.find((r) => fits(r))
      if (found !== undefined) return found
    }
    return undefined
  }

  through(nexthopId: number): Route[] {
    return [...this.#prefixes.values()].flat().filter((route) => route.nexthopId === nexthopId)
  }
}

function prefixKey(table: number, { address, length }: Subnet): string {
  return `${table} ${address}/${length}`
}

/** Whether the kernel keeps one fib_info for both, and their types are the same. */
function sameInfo(a: Route, b: Route): boolean {
  return (
    a.type === b.type &&
    a.protocol === b.protocol &&
    a.scope === b.scope &&
    a.source === b.source &&
    a.nexthopId === b.nexthopId &&
    a.gateway === b.gateway &&
    a.oif === b.oif &&
    a.onlink === b.onlink &&
    isDeepStrictEqual(a.multipath, b.multipath)
  )
}

function matches(wanted: Route, route: Route): boolean {
  if (route.tos !== wanted.tos) return false
  if (wanted.type !== 0 && route.type !== wanted.type) return false
  // RT_SCOPE_NOWHERE asks for any scope.
  if (wanted.scope !== 255 && route.scope !== wanted.scope) return false
  if (wanted.source !== undefined && route.source !== wanted.source) return false
  if (wanted.protocol !== 0 && route.protocol !== wanted.protocol) return false
  if (wanted.metric !== 0 && route.metric !== wanted.metric) return false
  if (wanted.nexthopId !== undefined) return route.nexthopId === wanted.nexthopId
  if (route.nexthopId !== undefined)
    return wanted.oif === undefined && wanted.gateway === undefined && wanted.multipath === undefined
  // fib_nh_match: of a route with several gateways only the first counts when one is asked for, and when several are, only
  // as many as the route has.
  const hops = route.multipath === undefined ? [route] : hopsOf(route)
  if (wanted.multipath === undefined) return reaches(wanted, hops[0] ?? route)
  const asked = hopsOf(wanted)
  return asked.length >= hops.length && hops.every((hop, i) => reaches(asked[i] ?? {}, hop))
}

type Hop = Pick<Route, 'gateway' | 'oif'>

function reaches(wanted: Partial<Hop>, hop: Hop): boolean {
  return (
    (wanted.oif === undefined || wanted.oif === hop.oif) &&
    (wanted.gateway === undefined || wanted.gateway === hop.gateway)
  )
}

/** The gateways of RTA_MULTIPATH: for each a struct rtnexthop { u16 len; u8 flags, hops; u32 ifindex; } and an RTA_GATEWAY. */
export function hopsOf({ multipath }: Route): { gateway: Ipv4; oif: number; onlink: boolean }[] {
  const hops = []
  for (let at = 0; multipath !== undefined && at < multipath.length; at += getU16(multipath, at)) {
    const onlink = ((multipath[at + 2] ?? 0) & RTNH_F_ONLINK) !== 0
    hops.push({
      gateway: Buffer.from(multipath).readUInt32BE(at + 12),
      oif: getU32(multipath, at + 4),
      onlink,
    })
  }
  return hops
}
