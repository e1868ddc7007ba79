/** What backends with a device of their own do with it, whatever its kind. */
import { formatIpv4, type Ipv4 } from '../ip.ts'
import { type Address, addAddress, deleteAddress, dumpAddresses } from '../netlink/address.ts'
import type { Rtnl } from '../netlink/conn.ts'
import { NetlinkError } from '../netlink/errors.ts'
import { changeLink, getLink, type Link } from '../netlink/link.ts'
import { DeviceError, type Doubt } from './model.ts'

/**
 * A device by name or by index, undefined when there is none. Throws NetlinkError, and DeviceError when the name is an
 * alternative one of another's.
 */
export function findLink(
  rtnl: Rtnl,
  by: { readonly name: string } | { readonly index: number },
): Link | undefined {
  let link: Link
  try {
    link = rtnl.get(getLink(by))
  } catch (error) {
    if (error instanceof NetlinkError && error.code === 'ENODEV') return undefined
    throw error
  }
  // The kernel looks among alternative names, too; who bears ours as such is no device of ours, and keeps us from making one.
  if ('name' in by && link.name !== by.name) {
    throw new DeviceError(
      `${by.name} is an alternative name of interface ${link.name}; ` +
        `take it away (ip link property del dev ${link.name} altname ${by.name})`,
    )
  }
  return link
}

/** Whether a device can have routes and neighbours. `index` is 0 while there is none. Throws NetlinkError. */
export function isUp(rtnl: Rtnl, index: number): boolean {
  return index !== 0 && findLink(rtnl, { index })?.up === true
}

/** The device of that name, if there is one. Throws NetlinkError, and DeviceError when it is of another kind: somebody else's. */
export function findOwnLink(
  rtnl: Rtnl,
  { name, kind, remedy = '' }: { readonly name: string; readonly kind: string; readonly remedy?: string },
): Link | undefined {
  const link = findLink(rtnl, { name })
  if (link === undefined || link.kind === kind) return link
  throw new DeviceError(
    `an interface ${name} of kind ${link.kind ?? 'unknown'} exists already and is not flannel's; ` +
      `rename or remove it (ip link del ${name})${remedy}`,
  )
}

/** A device that was made just now. Throws NetlinkError, and DeviceError when somebody has deleted it again. */
export function newLink(rtnl: Rtnl, name: string): Link {
  const link = findLink(rtnl, { name })
  if (link === undefined) throw new DeviceError(`${name} vanished while it was being set up; trying again`)
  return link
}

/** The kernel lacks what a backend needs. */
export function missingModule(module: string, what: string): DeviceError {
  return new DeviceError(
    `this kernel has no ${what}: load its module (modprobe ${module}), install a kernel that has ${module}, ` +
      'or choose another Backend.Type in the network config',
  )
}

/** Gives a device its name back and says so in words. Throws NetlinkError. */
export function renameLink(rtnl: Rtnl, link: Link, rename: string): string {
  const { index, name } = link
  try {
    rtnl.execute(changeLink({ index, name, rename }))
  } catch (error) {
    // Older kernels rename only what is down.
    if (!(error instanceof NetlinkError && error.code === 'EBUSY')) throw error
    rtnl.execute(changeLink({ index, name, up: false }))
    rtnl.execute(changeLink({ index, name, rename }))
  }
  return `renamed ${name} back to ${rename}`
}

/**
 * Brings MTU, IPv4 address and state of a device to what they have to be, and says in words what it changed. It is part of no
 * bridge or VRF, which would take what arrives by it. Throws NetlinkError, and DeviceError when the device has several addresses
 * and not the wanted one.
 */
export function ensureLink(
  rtnl: Rtnl,
  link: Link,
  wanted: {
    readonly name: string
    readonly mtu: number
    /** The one IPv4 address that it holds, as /32. */
    readonly address: Ipv4
    /** It is new: that it is down is no news. */
    readonly created: boolean
  },
): string[] {
  const changes: string[] = []
  const { index } = link
  const { name, mtu } = wanted
  if (link.master !== undefined) {
    rtnl.execute(changeLink({ index, name, master: 0 }))
    changes.push(`was part of interface ${link.master}, taken out`)
  }
  if (link.protoDown) {
    rtnl.execute(changeLink({ index, name, protoDown: false }))
    changes.push('was held down (protodown), let go')
  }
  if (link.mtu !== mtu) {
    rtnl.execute(changeLink({ index, name, mtu }))
    changes.push(`MTU ${link.mtu} -> ${mtu}`)
  }
  changes.push(...ensureAddress(rtnl, index, wanted))
  if (!link.up) {
    rtnl.execute(changeLink({ index, name, up: true }))
    if (!wanted.created) changes.push('was down, set up')
  }
  return changes
}

/** What a notification of the device puts in doubt, as far as `ensureLink` is what keeps it right. */
export function doubtOf(
  link: Link,
  deleted: boolean,
  { index, name, mtu }: Pick<Link, 'index' | 'name' | 'mtu'>,
): Doubt {
  // The kernel drops the routes and neighbours of a device that went down or away, and does not say so.
  if (deleted || !link.up || link.protoDown) return 'entries'
  const right = link.index === index && link.name === name && link.mtu === mtu && link.master === undefined
  return right ? 'nothing' : 'device'
}

/** Exactly one IPv4 address, the wanted /32. IPv6 ones, such as the kernel's link-local, are left alone. */
function ensureAddress(
  rtnl: Rtnl,
  index: number,
  { name, address: wanted }: { readonly name: string; readonly address: Ipv4 },
): string[] {
  const found = rtnl.dump(dumpAddresses({ family: 4, index }))
  const right = (a: Address): boolean => a.address === wanted && a.peer === wanted && a.length === 32
  const strays = found.filter((a) => !right(a))
  const changes: string[] = []
  if (strays.length >= 2 && strays.length === found.length) {
    throw new DeviceError(
      `failed to ensure address of interface ${name}: link has incompatible addresses ` +
        `${found.map((a) => `${formatIpv4(Number(a.address))}/${a.length}`).join(', ')}. ` +
        `Remove additional addresses and try again (ip addr flush dev ${name})`,
    )
  }
  if (!found.some(right)) {
    rtnl.execute(addAddress({ index, name, address: wanted, length: 32 }))
    changes.push(`added address ${formatIpv4(wanted)}/32`)
  }
  for (const { address, peer, length } of strays) {
    try {
      rtnl.execute(deleteAddress({ index, name, address, peer, length }))
    } catch (error) {
      // The kernel takes secondary addresses away with the first of their subnet.
      if (!(error instanceof NetlinkError && error.code === 'EADDRNOTAVAIL')) throw error
    }
    changes.push(`removed address ${formatIpv4(Number(address))}/${length}`)
  }
  return changes
}
