import { isIPv6 } from 'node:net'
import { formatIpv4, type Ipv4, parseIpv4 } from './ip.ts'
import type { Logger } from './log.ts'
import { type Address, dumpAddresses } from './netlink/address.ts'
import type { Rtnl } from './netlink/conn.ts'
import { RT_TABLE_MAIN } from './netlink/constants.ts'
import { dumpLinks, type Link } from './netlink/link.ts'
import { dumpRoutes, getRoute, type Route } from './netlink/route.ts'

/** The interface that carries traffic between hosts, as it was when it was chosen; `UnderlayWatcher` chooses again. */
export interface ExternalInterface {
  readonly name: string
  readonly index: number
  readonly mtu: number
  /** Local end of the tunnels. */
  readonly address: Ipv4
  /** What the lease publishes: -public-ip, else `address`. */
  readonly publicIP: Ipv4
  /** Why this one, for people: `-iface eth0`, `default route`. */
  readonly reason: string
}

/** What the operator asked for; all empty means the default route's interface. */
export interface InterfaceChoice {
  /** Names or addresses, in the order to try. */
  readonly ifaces: readonly string[]
  /** Regular expressions, tried after every `ifaces`. */
  readonly ifaceRegexes: readonly string[]
  readonly publicIP: Ipv4 | undefined
}

/** The parts of the kernel's tables that the choice looks at, in the kernel's order. */
export interface NetworkView {
  readonly links: readonly Pick<Link, 'name' | 'index' | 'mtu' | 'up'>[]
  /** IPv4 only. */
  readonly addresses: readonly { readonly index: number; readonly address: Ipv4 }[]
  /** Reads the IPv4 default routes of the main table. Throws NetlinkError. */
  defaultRoutes(): readonly Pick<Route, 'metric' | 'oif'>[]
}

/** No interface can be used; the message is the whole line for the operator. */
export class InterfaceError extends Error {
  override readonly name = 'InterfaceError'
}

/** Reads links and IPv4 addresses from the kernel. Throws NetlinkError. */
export function readNetworkView(rtnl: Pick<Rtnl, 'dump' | 'get'>): NetworkView {
  return {
    links: rtnl.dump(dumpLinks()),
    addresses: rtnl.dump(dumpAddresses({ family: 4 })).flatMap(ofIpv4),
    // An earlier run may have left thousands of routes, and who named an interface need not wait for them.
    defaultRoutes: () =>
      rtnl
        .dump(dumpRoutes({ table: RT_TABLE_MAIN, length: 0 }))
        .map((r) => (r.multipath === undefined ? r : { ...r, oif: aGatewayOf(rtnl) })),
  }
}

/**
 * The device that the kernel would use now, out of the several gateways of a default route. The address is of the
 * reserved 240.0.0.0/4 (RFC 1112), for which there is no other route.
 */
function aGatewayOf(rtnl: Pick<Rtnl, 'get'>): number | undefined {
  try {
    return rtnl.get(getRoute(0xf0000001)).oif
  } catch {
    // All gateways are dead. Whoever names an interface does not need to know.
    return undefined
  }
}

function ofIpv4({ index, address }: Address): { index: number; address: Ipv4 }[] {
  return typeof address === 'number' ? [{ index, address }] : []
}

type NetworkLink = NetworkView['links'][number]

/** One candidate's outcome; `reason` is why it cannot be used. */
type Found =
  | { readonly kind: 'found'; readonly link: NetworkLink; readonly address: Ipv4 }
  | { readonly kind: 'none'; readonly reason: string }

const none = (reason: string): Found => ({ kind: 'none', reason })

/**
 * Chooses as flannel does: each -iface in order, then each -iface-regex, the first that yields an interface wins;
 * with neither, the default route's interface. Candidates that fail are logged. Throws InterfaceError.
 */
export function chooseInterface(view: NetworkView, choice: InterfaceChoice, log: Logger): ExternalInterface {
  const candidates = [
    ...choice.ifaces.map((text) => ({ text, reason: `-iface ${text}`, find: () => find(view, text, log) })),
    ...choice.ifaceRegexes.map((text) => ({
      text,
      reason: `-iface-regex ${text}`,
      find: () => byRegex(view, text),
    })),
  ]
  if (candidates.length === 0) {
    const found = byDefaultRoute(view, log)
    if (found.kind === 'found') return settle(found, choice, 'default route', log)
    throw new InterfaceError(
      `Failed to find any valid interface to use: ${found.reason}; name one with -iface (${describeAll(view)})`,
    )
  }
  for (const candidate of candidates) {
    const found = candidate.find()
    if (found.kind === 'found') return settle(found, choice, candidate.reason, log)
    log.info(`Could not find valid interface matching ${candidate.text}: ${found.reason}`)
  }
  throw new InterfaceError(
    'Failed to find interface to use that matches the interfaces and/or regexes provided ' +
      `(${candidates.map((c) => c.reason).join(', ')}); there is ${describeAll(view)}`,
  )
}

function settle(
  { link, address }: { readonly link: NetworkLink; readonly address: Ipv4 },
  choice: InterfaceChoice,
  reason: string,
  log: Logger,
): ExternalInterface {
  log.info(`Using interface with name ${link.name} and address ${formatIpv4(address)}`, { chosen: reason })
  if (!link.up) log.warn(`Interface ${link.name} is down: no traffic passes until it is up`)
  if (choice.publicIP === undefined) {
    log.info(`Defaulting external address to interface address (${formatIpv4(address)})`)
  } else {
    log.info(`Using ${formatIpv4(choice.publicIP)} as external address`)
  }
  const { name, index, mtu } = link
  return { name, index, mtu, address, publicIP: choice.publicIP ?? address, reason }
}

/** One -iface value: an address, a name, or empty for the default route. */
function find(view: NetworkView, text: string, log: Logger): Found {
  if (text === '') return byDefaultRoute(view, log)
  const address = parseIpv4(text)
  // The colon is looked for first: compiling Node's pattern for IPv6 addresses takes 7 ms of a start.
  if (address === undefined && !(text.includes(':') && isIPv6(text))) return byName(view, text)

  log.info(`Searching for interface using ${text}`)
  if (address === undefined) return none('an IPv6 address; the tunnels need an IPv4 one')
  const owners = view.addresses.filter((a) => a.address === address).map((a) => a.index)
  const link = byIndex(view).find((l) => owners.includes(l.index))
  return link === undefined ? none('no interface has this address') : usable(link, address)
}

function byName(view: NetworkView, name: string): Found {
  const link = view.links.find((l) => l.name === name)
  return link === undefined ? none('there is no such interface') : withOwnAddress(view, link)
}

/** First pass over the address of each interface, second over the names, both in index order. */
function byRegex(view: NetworkView, text: string): Found {
  let regex: RegExp
  try {
    regex = compileRe2(text)
  } catch (error) {
    return none(error instanceof Error ? error.message : String(error))
  }
  const links = byIndex(view)
  for (const link of links) {
    const address = pickAddress(view, link.index)
    if (address !== undefined && regex.test(formatIpv4(address))) return usable(link, address)
  }
  const link = links.find((l) => regex.test(l.name))
  return link === undefined ? none(`matches none of ${describeAll(view)}`) : withOwnAddress(view, link)
}

/**
 * Go's regular expressions (RE2) are JavaScript's but for a few spellings: flags in front, \A, \z and (?P<name>.
 * Character classes such as [:alpha:] would silently mean something else, so they are refused.
 */
function compileRe2(text: string): RegExp {
  if (/\[:\^?[a-z]+:\]/.test(text)) throw new Error('classes such as [:alpha:] are not supported here')
  const [all = '', flags = ''] = /^\(\?([ims]+)\)/.exec(text) ?? []
  const spellings: Readonly<Record<string, string>> = { '\\A': '(?<![^])', '\\z': '(?![^])', '(?P<': '(?<' }
  const source = text.slice(all.length).replace(/\\.|\(\?P</g, (found) => spellings[found] ?? found)
  return new RegExp(source, [...new Set(flags)].join(''))
}

function byDefaultRoute(view: NetworkView, log: Logger): Found {
  log.info('Determining IP address of default interface')
  let route: ReturnType<NetworkView['defaultRoutes']>[number] | undefined
  for (const r of view.defaultRoutes()) if (route === undefined || r.metric < route.metric) route = r
  if (route === undefined) return none('Unable to find default route')
  const link = view.links.find((l) => l.index === route.oif)
  if (link === undefined) return none('Found default route but could not determine interface')
  return withOwnAddress(view, link)
}

function withOwnAddress(view: NetworkView, link: NetworkLink): Found {
  const address = pickAddress(view, link.index)
  if (address === undefined) return none(`failed to find IPv4 address for interface ${link.name}`)
  return usable(link, address)
}

function usable(link: NetworkLink, address: Ipv4): Found {
  if (link.mtu <= 0) return none(`interface ${link.name} has MTU ${link.mtu}`)
  return { kind: 'found', link, address }
}

/**
 * The first global unicast address, else the last link-local one. As Go's IsGlobalUnicast has it, private ranges
 * are global, and so is 0.0.0.0/8 save 0.0.0.0 itself; scope and secondary flag do not matter.
 */
function pickAddress(view: NetworkView, index: number): Ipv4 | undefined {
  const addresses = view.addresses.filter((a) => a.index === index).map((a) => a.address)
  return addresses.find(isGlobalUnicast) ?? addresses.findLast(isLinkLocal)
}

function isGlobalUnicast(address: Ipv4): boolean {
  const first = address >>> 24
  const multicast = first >= 224 && first < 240
  return address !== 0 && address !== 0xffffffff && first !== 127 && !multicast && !isLinkLocal(address)
}

function isLinkLocal(address: Ipv4): boolean {
  return address >>> 16 === 0xa9fe
}

function byIndex(view: NetworkView): NetworkLink[] {
  return view.links.toSorted((a, b) => a.index - b.index)
}

/** `lo:<nil>, eth0:192.0.2.1`, what flannel prints when nothing matched. */
function describeAll(view: NetworkView): string {
  const pairs = byIndex(view).map((link) => {
    const address = pickAddress(view, link.index)
    return `${link.name}:${address === undefined ? '<nil>' : formatIpv4(address)}`
  })
  return pairs.join(', ')
}
