import type { Ipv4, MacAddress } from '../../ip.ts'
import { NTF_SELF, NUD_PERMANENT } from '../../netlink/constants.ts'
import type { FdbEntry } from '../../netlink/fdb.ts'
import type { Neighbour } from '../../netlink/neighbour.ts'
import type { Path } from '../routes.ts'
import type { Vtep } from './vtep.ts'

export type WantedNeighbour = Neighbour & { readonly address: Ipv4; readonly mac: MacAddress }
export type WantedFdbEntry = FdbEntry & { readonly destination: Ipv4 }

/** What carries a peer's packets through the tunnel, below its route. A direct peer has none of it. */
export interface TunnelEntries {
  readonly neighbour: WantedNeighbour
  readonly fdb: WantedFdbEntry
  /** Of the FDB entry, made once: thousands are looked up by it. */
  readonly fdbKey: string
}

/** Interface indexes of `flannel.<VNI>` and of the interface under it. */
export interface Links {
  readonly device: number
  readonly parent: number
}

/** Pure: the entries for one peer, exactly as flannel writes them (RTM_NEWNEIGH twice). */
export function tunnelEntries(vtep: Vtep, { device }: Links): TunnelEntries {
  const { subnet, mac, underlay } = vtep
  const fdb = {
    index: device,
    mac,
    destination: underlay,
    state: NUD_PERMANENT,
    flags: NTF_SELF,
    port: undefined,
    vni: undefined,
  }
  return {
    neighbour: { index: device, address: subnet.address, mac, state: NUD_PERMANENT, flags: 0 },
    fdb,
    fdbKey: fdbKey(fdb),
  }
}

/**
 * Pure: how a peer's subnet is reached. Through the tunnel it is the line that flannel's users know, `10.1.2.0/24 via
 * 10.1.2.0 dev flannel.1 onlink`; a direct peer, on the same link, is routed to on the underlay.
 */
export function pathTo(vtep: Vtep, direct: boolean, { device, parent }: Links): Path {
  return direct
    ? { gateway: vtep.underlay, oif: parent, onlink: false }
    : { gateway: vtep.subnet.address, oif: device, onlink: true }
}

/** What RTM_DELNEIGH finds an FDB entry by: one MAC may have several destinations. */
export function fdbKey({ mac, destination, port, vni }: FdbEntry): string {
  const rest = port === undefined && vni === undefined ? '' : ` ${port ?? ''} ${vni ?? ''}`
  return `${mac} ${destination ?? ''}${rest}`
}
