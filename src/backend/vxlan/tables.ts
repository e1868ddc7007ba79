import { type MacAddress, smallKey } from '../../ip.ts'
import type { Rtnl } from '../../netlink/conn.ts'
import { NUD_NOARP, NUD_PERMANENT } from '../../netlink/constants.ts'
import { dumpFdb, type FdbEntry } from '../../netlink/fdb.ts'
import type { Notification } from '../../netlink/monitor.ts'
import { dumpNeighbours, type Neighbour } from '../../netlink/neighbour.ts'
import { passing } from '../../netlink/request.ts'
import { DeltaTracker } from '../delta.ts'
import type { Surprised } from '../model.ts'
import type { TableKey } from '../operations.ts'
import type { Links, WantedFdbEntry, WantedNeighbour } from './desired.ts'

/** What `Tables.load` reads, of the device with that index. */
export function dumpsOf(index: number) {
  return [dumpNeighbours({ family: 4, index }), dumpFdb({ index })] as const
}

/**
 * The kernel's neighbours and FDB entries of one VXLAN network, each as a DeltaTracker that holds only what is ours: all on
 * `flannel.<VNI>` that are permanent, since the device is ours alone. Its routes are `PeerRoutes`' business.
 */
export class Tables {
  readonly neighbours = new DeltaTracker<number, Neighbour, WantedNeighbour>(
    (a, b) => a.mac === b.mac && a.state === b.state,
  )
  readonly fdb = new DeltaTracker<string, FdbEntry, WantedFdbEntry>(
    (a, b) => a.state === b.state && leadsToOne(a, b),
  )

  /** Reads both tables whole and tells of the keys that were not as believed. Throws NetlinkError. */
  load(rtnl: Rtnl, links: Links, surprised: Surprised): void {
    const [neighbourDump, fdbDump] = dumpsOf(links.device)
    const neighbours = this.neighbours.holdExactly((begin) => {
      const ours = (n: Neighbour): boolean => this.#ownsNeighbour(n, links)
      rtnl.each(neighbourDump, () => passing(ours, begin()))
    }, neighbourKey)
    for (const key of neighbours) surprised({ table: 'neighbour', key })
    const fdb = this.fdb.holdExactly((begin) => {
      rtnl.each(fdbDump, () => passing((f) => ownsFdbEntry(f, links), begin()))
    }, fdbKey)
    for (const key of fdb) surprised({ table: 'fdb', key })
  }

  /** Takes in what somebody else did. Returns the keys that changed. */
  observe(notification: Notification, links: Links): TableKey[] {
    const { deleted } = notification
    switch (notification.kind) {
      case 'neighbour': {
        const { value } = notification
        if (typeof value.address !== 'number' || value.index !== links.device) return []
        const key = neighbourKey(value)
        const gone = deleted || !this.#ownsNeighbour(value, links)
        const news = gone ? this.neighbours.lose(key) : this.neighbours.hold(key, value)
        return news ? [{ table: 'neighbour', key }] : []
      }
      case 'fdb': {
        const { value } = notification
        if (!ownsFdbEntry(value, links)) return []
        const key = fdbKey(value)
        const held = this.fdb.held(key)
        // It may have been replaced since, by us.
        if (deleted && held !== undefined && !leadsToOne(held, value)) return []
        const news = deleted ? this.fdb.lose(key) : this.fdb.hold(key, value)
        return news ? [{ table: 'fdb', key }] : []
      }
      default:
        return []
    }
  }

  /** The kernel's own entries (multicast, failed look-ups) are left alone unless they stand where a peer's belongs. */
  #ownsNeighbour(n: Neighbour, links: Links): boolean {
    if (n.index !== links.device || typeof n.address !== 'number') return false
    return (
      ((n.state & NUD_PERMANENT) !== 0 && (n.state & NUD_NOARP) === 0) ||
      this.neighbours.wanted(smallKey(n.address)) !== undefined
    )
  }
}

function ownsFdbEntry(f: FdbEntry, links: Links): boolean {
  return f.index === links.device && f.destination !== undefined
}

function leadsToOne(a: FdbEntry, b: FdbEntry): boolean {
  return a.destination === b.destination && a.port === b.port && a.vni === b.vni && a.via === b.via
}

function neighbourKey(n: Neighbour): number {
  return smallKey(Number(n.address))
}

/** A MAC has one destination, which a write replaces; only to a multicast or the all-zero one the kernel gives several. */
function fdbKey({ mac, destination, port, vni, via }: FdbEntry): string {
  return isGroup(mac) ? `${mac} ${destination ?? ''} ${port ?? ''} ${vni ?? ''} ${via ?? ''}` : mac
}

function isGroup(mac: MacAddress): boolean {
  return (Number.parseInt(mac.charAt(1), 16) & 1) === 1 || mac === '00:00:00:00:00:00'
}
