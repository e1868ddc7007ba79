import { NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE } from '../../../src/netlink/constants.ts'
import type { Nexthop } from '../../../src/netlink/nexthop.ts'
import { Refusal } from './refusal.ts'

/** Nexthop objects (net/ipv4/nexthop.c), without groups. */
export class NexthopTable {
  readonly #objects = new Map<number, Nexthop>()

  /** Returns whether it took the place of another. */
  write(nexthop: Nexthop, flags: number): boolean {
    const exists = this.#objects.has(nexthop.id)
    if (exists && (flags & NLM_F_EXCL) !== 0) throw new Refusal('EEXIST')
    if (exists && (flags & NLM_F_REPLACE) === 0) throw new Refusal('EEXIST')
    if (!exists && (flags & NLM_F_CREATE) === 0)
      throw new Refusal('ENOENT', 'Replace specified without create and no entry exists')
    this.#objects.set(nexthop.id, nexthop)
    return exists
  }

  get(id: number): Nexthop | undefined {
    return this.#objects.get(id)
  }

  delete(id: number): Nexthop {
    const nexthop = this.#objects.get(id)
    if (nexthop === undefined) throw new Refusal('ENOENT')
    this.#objects.delete(id)
    return nexthop
  }

  /** The device is down or gone. Nobody is told. Returns the ids that went. */
  lose(oif: number): Set<number> {
    const lost = new Set<number>()
    for (const { id, oif: out } of this.#objects.values()) if (out === oif) lost.add(id)
    for (const id of lost) this.#objects.delete(id)
    return lost
  }

  list(oif = 0): Nexthop[] {
    return [...this.#objects.values()]
      .filter((nexthop) => oif === 0 || nexthop.oif === oif)
      .sort((a, b) => a.id - b.id)
  }
}
