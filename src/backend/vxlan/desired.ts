import type { Ipv4, MacAddress } from '../../ip.ts'
import { NTF_SELF, NUD_PERMANENT } from '../../netlink/constants.ts'
import type { FdbEntry } from '../../netlink/fdb.ts'
import type { Neighbour } from '../../netlink/neighbour.ts'
import type { Path } from '../routes.ts'
import type { Vtep } from './vtep.ts'

export type WantedNeighbour = Neighbour & { readonly address: Ipv4; readonly mac: MacAddress }
export type WantedFdbEntry = FdbEntry & { readonly destination: Ipv4 }

/** Interface indexes of `flannel.<VNI>` and of the interface under it. */
export interface Links {
  readonly device: number
  readonly parent: number
}

/** Pure: the neighbour of one peer, exactly as flannel writes it (RTM_NEWNEIGH). */
export function wantedNeighbour({ subnet, mac }: Vtep, { device }: Links): WantedNeighbour {
  return { index: device, address: subnet.address, mac, state: NUD_PERMANENT, flags: 0 }
}

/** Pure: the FDB entry of one peer, exactly as flannel writes it (RTM_NEWNEIGH of family AF_BRIDGE). */
export function wantedFdbEntry({ mac, underlay }: Vtep, { device }: Links): WantedFdbEntry {
  return {
    index: device,
    mac,
    destination: underlay,
    state: NUD_PERMANENT,
    flags: NTF_SELF,
    port: undefined,
    vni: undefined,
    via: undefined,
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
