import { formatIpv4, type Ipv4, type MacAddress } from '../../ip.ts'
import type { Rtnl } from '../../netlink/conn.ts'
import { NetlinkError } from '../../netlink/errors.ts'
import { changeLink, createVxlan, deleteLink, dumpLinks, type Link } from '../../netlink/link.ts'
import { ensureLink, findLink, findOwnLink, missingModule, newLink, renameLink } from '../device.ts'
import { DeviceError } from '../model.ts'

/** The kernel's own port for VXLAN on Linux, which flannel uses when the config names none. */
export const DEFAULT_PORT = 8472

/** What `flannel.<VNI>` has to be. */
export interface DeviceSpec {
  readonly name: string
  readonly vni: number
  /** UDP destination port, 1..65535. */
  readonly port: number
  readonly gbp: boolean
  /** The interface that carries the encapsulated packets. */
  readonly parent: { readonly index: number; readonly name: string }
  readonly local: Ipv4
  readonly mtu: number
  readonly mac: MacAddress
  /** The subnet's first address, which the device holds as /32. */
  readonly address: Ipv4
}

/** The VXLAN device of that name, if there is one. Throws DeviceError when the name is somebody else's. */
export function findDevice(rtnl: Rtnl, name: string): Link | undefined {
  return findOwnLink(rtnl, { name, kind: 'vxlan', remedy: ', or choose another VNI' })
}

/**
 * Brings the device to `spec` with as few changes as possible and says in words what it changed (`recreated`: what was wrong
 * with the one it replaced); nothing, when all was right. One that differs in what the kernel can't change is made anew with the
 * same MAC, so that peers need learn nothing. `known` is the index it had before, which finds a renamed device. Throws
 * DeviceError when the name is somebody else's, and NetlinkError when the kernel refuses.
 */
export function ensureDevice(
  rtnl: Rtnl,
  spec: DeviceSpec,
  known: number | undefined,
): {
  readonly index: number
  readonly recreated: string | undefined
  readonly changes: readonly string[]
} {
  const changes: string[] = []
  let link = findDevice(rtnl, spec.name) ?? takeBackName(rtnl, spec, known, changes)
  const different = link && difference(link, spec)
  if (link !== undefined && different !== undefined) {
    rtnl.execute(deleteLink(link))
    link = undefined
  }
  const created = link === undefined
  if (link === undefined) {
    link = create(rtnl, spec)
    changes.push(`created ${spec.name}`)
  }
  const { index } = link
  const { name } = spec
  if (link.mac !== spec.mac) {
    rtnl.execute(changeLink({ index, name, mac: spec.mac }))
    changes.push(`MAC ${link.mac} -> ${spec.mac}`)
  }
  changes.push(...ensureLink(rtnl, link, { ...spec, created }))
  return { index, recreated: different, changes }
}

/** What makes a device unusable as it stands, as `<what>: <wanted> vs <found>`, or undefined. */
export function difference(link: Link, spec: DeviceSpec): string | undefined {
  const { vxlan } = link
  if (vxlan === undefined) return `link type: vxlan vs ${link.kind ?? 'none'}`
  const wanted = {
    vni: spec.vni,
    parent: spec.parent.index,
    local: spec.local,
    port: spec.port,
    gbp: spec.gbp,
  }
  for (const [what, want, found] of [
    ['vni', wanted.vni, vxlan.vni],
    ['vtep (external) interface', wanted.parent, vxlan.parent],
    [
      'vtep (external) IP',
      formatIpv4(wanted.local),
      vxlan.local === undefined ? 'none' : formatIpv4(vxlan.local),
    ],
    ['group address', 'none', vxlan.group === undefined ? 'none' : String(vxlan.group)],
    ['port', wanted.port, vxlan.port],
    ['gbp', wanted.gbp, vxlan.gbp],
    ['learning', false, vxlan.learning],
    ['l2miss', false, vxlan.l2miss],
    ['l3miss', false, vxlan.l3miss],
    ['proxy', false, vxlan.proxy],
    ['rsc', false, vxlan.rsc],
  ] as const) {
    if (want !== found) return `${what}: ${want} vs ${found}`
  }
  return undefined
}

/**
 * Our device under another name: it has the index that it had before or, at a start, the VNI, port and MAC that would be given
 * to it now.
 */
function takeBackName(
  rtnl: Rtnl,
  spec: DeviceSpec,
  known: number | undefined,
  changes: string[],
): Link | undefined {
  const link =
    known === undefined
      ? rtnl.dump(dumpLinks()).find(({ mac, vxlan }) => mac === spec.mac && vxlan?.port === spec.port)
      : findLink(rtnl, { index: known })
  if (link?.vxlan?.vni !== spec.vni) return undefined
  changes.push(renameLink(rtnl, link, spec.name))
  return findLink(rtnl, { index: link.index })
}

function create(rtnl: Rtnl, spec: DeviceSpec): Link {
  try {
    rtnl.execute(createVxlan({ ...spec, parent: spec.parent.index, txQueueLength: 0 }))
  } catch (error) {
    if (!(error instanceof NetlinkError)) throw error
    if (error.code === 'ENOTSUP') throw missingModule('vxlan', 'VXLAN devices')
    if (error.code !== 'EEXIST') throw error
    const other = rtnl.dump(dumpLinks()).find((l) => l.vxlan?.vni === spec.vni && l.vxlan.port === spec.port)
    throw new DeviceError(
      `VNI ${spec.vni} on UDP port ${spec.port} is in use by another device${other ? `, ${other.name}` : ''}; ` +
        `remove it (ip link del ${other?.name ?? 'NAME'}) or choose another VNI in the network config`,
    )
  }
  return newLink(rtnl, spec.name)
}
