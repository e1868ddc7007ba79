import { contains, parseCidr, parseIpv4 } from '../ip.ts'
import type { PeerLine } from '../status.ts'

/**
 * How a peer stands; `ok` is all that it needs, `none` is that another peer has its place, `unreachable` that all is in the kernel
 * and yet its pings are lost.
 */
export type PeerState = 'ok' | 'missing' | 'differs' | 'none' | 'unreachable'

export const PEER_STATES: readonly PeerState[] = ['ok', 'missing', 'differs', 'none', 'unreachable']

/** The worst of a peer's entries, then what the pings say. */
export function stateOf({ route, entries, probe }: Pick<PeerLine, 'route' | 'entries' | 'probe'>): PeerState {
  if (route === 'none') return 'none'
  const states = Object.values(entries)
  if (states.includes('missing')) return 'missing'
  if (!states.every((state) => state === 'ok')) return 'differs'
  return probe?.reachable === false ? 'unreachable' : 'ok'
}

/** What is asked of the table of peers, out of the query of a URL. */
export interface Query {
  /** Part of a subnet, address, MAC or route kind; or an address, which finds the subnet that it is in. */
  readonly text: string
  readonly state: 'all' | 'ok' | 'amiss'
  /** From 1. */
  readonly page: number
}

/** Longer than any address; the rest of what is typed is left out. */
const LONGEST_TEXT = 64

export function readQuery(url: string): Query {
  const found = new URLSearchParams(url.split('?')[1] ?? '')
  const state = found.get('state')
  const page = found.get('page') ?? ''
  return {
    text: (found.get('q') ?? '').trim().slice(0, LONGEST_TEXT),
    state: state === 'ok' || state === 'amiss' ? state : 'all',
    page: /^[1-9][0-9]{0,5}$/.test(page) ? Number(page) : 1,
  }
}

/** The query of a URL that `readQuery` reads back; empty when nothing is asked. */
export function writeQuery({ text, state, page }: Query): string {
  const query = new URLSearchParams()
  if (text !== '') query.set('q', text)
  if (state !== 'all') query.set('state', state)
  if (page !== 1) query.set('page', String(page))
  return query.size === 0 ? '' : `?${query}`
}

/** Rows of a page of the table. */
export const PAGE_SIZE = 25

export interface Selection {
  readonly query: Query
  readonly rows: readonly PeerLine[]
  /** Peers that fit, on all pages. */
  readonly found: number
  /** At least 1. */
  readonly pages: number
}

/** Those with something amiss come first, both sorts in the order they are given in. */
export function select(peers: readonly PeerLine[], query: Query): Selection {
  const fitting = peers.filter(matcher(query))
  const sound = (peer: PeerLine): boolean => stateOf(peer) === 'ok'
  const found = [...fitting.filter((peer) => !sound(peer)), ...fitting.filter(sound)]
  const pages = Math.max(1, Math.ceil(found.length / PAGE_SIZE))
  const page = Math.min(query.page, pages)
  const rows = found.slice((page - 1) * PAGE_SIZE, page * PAGE_SIZE)
  return { query: { ...query, page }, rows, found: found.length, pages }
}

function matcher({ text, state }: Query): (peer: PeerLine) => boolean {
  const inState = (peer: PeerLine): boolean =>
    state === 'all' || (stateOf(peer) === 'ok') === (state === 'ok')
  if (text === '') return inState
  const wanted = text.toLowerCase()
  const address = parseIpv4(text)
  const holds = ({ subnet }: PeerLine): boolean => {
    if (address === undefined) return false
    const parsed = parseCidr(subnet)
    return parsed !== undefined && contains(parsed, address)
  }
  return (peer) =>
    inState(peer) &&
    ([peer.subnet, peer.publicIP, peer.mac ?? '', peer.route].some((field) => field.includes(wanted)) ||
      holds(peer))
}
