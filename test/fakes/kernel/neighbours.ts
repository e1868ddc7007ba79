import {
  NLM_F_CREATE,
  NLM_F_EXCL,
  NLM_F_REPLACE,
  NUD_FAILED,
  NUD_NOARP,
} from '../../../src/netlink/constants.ts'
import type { Neighbour } from '../../../src/netlink/neighbour.ts'
import { Refusal } from './refusal.ts'

/** IPv4 neighbours (net/core/neighbour.c). Time does not pass: what is STALE or REACHABLE stays so. */
export class NeighbourTable {
  readonly #entries = new Map<string, Neighbour>()

  /** Returns the entry as notified, undefined when nothing changed. */
  write(entry: Neighbour, flags: number): Neighbour | undefined {
    const key = `${entry.index} ${entry.address}`
    const before = this.#entries.get(key)
    if (before === undefined) {
      if ((flags & NLM_F_CREATE) === 0) throw new Refusal('ENOENT')
      // Without a MAC there is nothing that could be permanent or reachable.
      if (entry.mac === undefined && (entry.state & ~(NUD_NOARP | NUD_FAILED)) !== 0)
        throw new Refusal('EINVAL')
    } else {
      if ((flags & NLM_F_EXCL) !== 0) throw new Refusal('EEXIST')
      // Without REPLACE another MAC is not taken over, and that is no error.
      if ((flags & NLM_F_REPLACE) === 0 && before.mac !== entry.mac) return undefined
      if (before.mac === entry.mac && before.state === entry.state) return undefined
    }
    this.#entries.set(key, entry)
    return entry
  }

  delete(index: number, address: Neighbour['address']): Neighbour {
    const key = `${index} ${address}`
    const entry = this.#entries.get(key)
    if (entry === undefined) throw new Refusal('ENOENT')
    this.#entries.delete(key)
    return { ...entry, mac: undefined, state: NUD_FAILED }
  }

  /** The device is down, gone, without an address, or has another MAC: even what is permanent goes. */
  lose(index: number): Neighbour[] {
    const lost: Neighbour[] = []
    for (const [key, entry] of this.#entries) {
      if (entry.index !== index) continue
      this.#entries.delete(key)
      lost.push(entry)
    }
    return lost
  }

  list(): Neighbour[] {
    return [...this.#entries.values()]
  }
}
