import type { Ipv4, MacAddress } from '../../../src/ip.ts'
import {
  NLM_F_APPEND,
  NLM_F_CREATE,
  NLM_F_EXCL,
  NLM_F_REPLACE,
  NTF_SELF,
  NUD_NOARP,
  NUD_PERMANENT,
  NUD_REACHABLE,
} from '../../../src/netlink/constants.ts'
import type { FdbEntry } from '../../../src/netlink/fdb.ts'
import { Refusal } from './refusal.ts'

interface Entry {
  readonly index: number
  readonly mac: MacAddress
  state: number
  readonly destinations: Ipv4[]
}

/**
 * Forwarding entries of VXLAN devices (drivers/net/vxlan/vxlan_core.c). Only a multicast or the all-zero MAC may
 * have several destinations: they come with APPEND. REPLACE puts a unicast MAC's first one in another's place, and
 * what is there already is no change and no error.
 */
export class ForwardingTable {
  readonly #entries = new Map<string, Entry>()

  /** Returns the entry as notified, undefined when nothing changed. */
  write({ index, mac, destination, state }: FdbEntry, flags: number): FdbEntry | undefined {
    if ((state & (NUD_PERMANENT | NUD_REACHABLE)) === 0) throw new Refusal('EINVAL')
    if (destination === undefined) throw new Refusal('EINVAL')
    const group = isGroup(mac)
    const entry = this.#entries.get(`${index} ${mac}`)
    if (entry === undefined) {
      if ((flags & NLM_F_CREATE) === 0) throw new Refusal('ENOENT')
      if (group && (flags & NLM_F_REPLACE) !== 0) {
        throw new Refusal('EOPNOTSUPP', 'Cannot replace non-unicast fdb entries')
      }
      this.#entries.set(`${index} ${mac}`, { index, mac, state, destinations: [destination] })
      return notice(index, mac, state, destination)
    }
    if ((flags & NLM_F_EXCL) !== 0) {
      throw new Refusal('EEXIST')
    }
    let changed = entry.state !== state
    entry.state = state
    let told = entry.destinations[0] as Ipv4
    const has = entry.destinations.includes(destination)
    if ((flags & NLM_F_REPLACE) !== 0) {
      if (group) throw new Refusal('EOPNOTSUPP', 'Cannot replace non-unicast fdb entries')
      if (!has) {
        entry.destinations[0] = destination
        told = destination
        changed = true
      }
    } else if ((flags & NLM_F_APPEND) !== 0 && group && !has) {
      entry.destinations.push(destination)
      told = destination
      changed = true
    }
    return changed ? notice(index, mac, state, told) : undefined
  }

  /** Returns what went, undefined when the MAC leads elsewhere: that is no error. */
  delete({ index, mac, destination }: FdbEntry): FdbEntry | undefined {
    const key = `${index} ${mac}`
    const entry = this.#entries.get(key)
    if (entry === undefined) throw new Refusal('ENOENT')
    const at = destination === undefined ? 0 : entry.destinations.indexOf(destination)
    if (at < 0) return undefined
    const gone = entry.destinations[at] as Ipv4
    if (destination !== undefined && entry.destinations.length > 1) entry.destinations.splice(at, 1)
    else this.#entries.delete(key)
    return notice(index, mac, entry.state, gone)
  }

  /** The device went down, and with it what ages; or it is gone. Returns what went. */
  lose(index: number, all: boolean): FdbEntry[] {
    const lost: FdbEntry[] = []
    for (const [key, entry] of this.#entries) {
      if (entry.index !== index) continue
      if (!all && (entry.state & (NUD_PERMANENT | NUD_NOARP)) !== 0) continue
      this.#entries.delete(key)
      lost.push(...entry.destinations.map((d) => notice(index, entry.mac, entry.state, d)))
    }
    return lost
  }

  list(index = 0): FdbEntry[] {
    return [...this.#entries.values()]
      .filter((entry) => index === 0 || entry.index === index)
      .flatMap((entry) => entry.destinations.map((d) => notice(entry.index, entry.mac, entry.state, d)))
  }
}

function notice(index: number, mac: MacAddress, state: number, destination: Ipv4): FdbEntry {
  return { index, mac, destination, state, flags: NTF_SELF, port: undefined, vni: undefined, via: undefined }
}

function isGroup(mac: MacAddress): boolean {
  return (Number.parseInt(mac.slice(0, 2), 16) & 1) === 1 || mac === '00:00:00:00:00:00'
}
