import { formatIpv4, type Ipv4 } from '../../ip.ts'
import type { Rtnl } from '../../netlink/conn.ts'
import { NetlinkError } from '../../netlink/errors.ts'
import { createIpip, deleteLink, dumpLinks, type Link } from '../../netlink/link.ts'
import { ensureLink, findLink, findOwnLink, missingModule, newLink, renameLink } from '../device.ts'
import { DeviceError } from '../model.ts'

/** What `flannel.ipip` has to be. */
export interface IpipSpec {
  readonly name: string
  readonly local: Ipv4
  readonly mtu: number
  /** The subnet's first address, which the device holds as /32. */
  readonly address: Ipv4
}

/**
 * Brings the device to `spec` and says in words what it changed (`recreated`: what was wrong with the one it replaced). One of
 * that name and another kind belongs to somebody else: DeviceError. `known` is the index that it had before, which finds a
 * renamed one. Throws NetlinkError when the kernel refuses.
 */
export function ensureIpip(
  rtnl: Rtnl,
  spec: IpipSpec,
  known: number,
): {
  readonly index: number
  readonly recreated: string | undefined
  readonly changes: readonly string[]
} {
  const { name } = spec
  const changes: string[] = []
  let link = findOwnLink(rtnl, { name, kind: 'ipip' })
  const renamed = link === undefined && known !== 0 ? findLink(rtnl, { index: known }) : undefined
  if (renamed?.kind === 'ipip') {
    changes.push(renameLink(rtnl, renamed, name))
    link = findLink(rtnl, { name })
  }
  const recreated = link && difference(link, spec)
  if (link !== undefined && recreated !== undefined) {
    rtnl.execute(deleteLink(link))
    link = undefined
  }
  const created = link === undefined
  if (link === undefined) {
    link = create(rtnl, spec)
    changes.push(`created ${name}`)
  }
  changes.push(...ensureLink(rtnl, link, { ...spec, created }))
  return { index: link.index, recreated, changes }
}

/** What makes a device unusable as it stands, as `<what>: <wanted> vs <found>`, or undefined. */
export function difference({ ipip, parent = 0 }: Link, { local }: IpipSpec): string | undefined {
  if (ipip === undefined) return 'attributes: some vs none'
  // One that is bound to an interface sends, and takes, by that alone.
  if (parent !== 0) return `interface: any vs ${parent}`
  if (ipip.local !== local) return `local IP: ${formatIpv4(local)} vs ${formatIpv4(ipip.local)}`
  if (ipip.remote !== 0) return `remote IP: any vs ${formatIpv4(ipip.remote)}`
  if (ipip.ttl !== 0) return `ttl: inherit vs ${ipip.ttl}`
  return ipip.pathMtuDiscovery ? 'path MTU discovery: off vs on' : undefined
}

function create(rtnl: Rtnl, { name, local, mtu }: IpipSpec): Link {
  try {
    rtnl.execute(createIpip({ name, local, mtu, txQueueLength: 0 }))
  } catch (error) {
    if (!(error instanceof NetlinkError)) throw error
    if (error.code === 'ENOTSUP') throw missingModule('ipip', 'IPIP devices')
    if (error.code !== 'EEXIST') throw error
    const other = rtnl.dump(dumpLinks()).find(({ ipip }) => ipip?.local === local && ipip.remote === 0)
    throw new DeviceError(
      `another IPIP device, ${other?.name ?? 'unknown'}, takes what comes for ${formatIpv4(local)}; ` +
        `remove it (ip link del ${other?.name ?? 'NAME'}) or choose another -iface`,
    )
  }
  return newLink(rtnl, name)
}
