import { formatIpv4, formatSubnet, type Ipv4, type Subnet } from './ip.ts'
import type { Level } from './log.ts'

/** Something that happened, as `/events` and the page show it. */
export interface Event {
  /** Counts from 1; a gap means that older ones were overwritten. */
  readonly seq: number
  /** Milliseconds since the epoch. */
  readonly at: number
  readonly kind: Level | 'lease'
  readonly text: string
}

/** What was done to another node's lease, in etcd's own words. */
export type LeaseChange = 'put' | 'delete'

interface Slot {
  at: number
  kind: Level | 'lease'
  text: string
  subnet: Subnet | undefined
  publicIP: Ipv4 | undefined
}

/**
 * The last events, oldest first. The slots are made once and written over, and a lease's change becomes text only when it is
 * read, so that a storm of thousands of joins costs next to nothing.
 */
export class EventRing {
  readonly #slots: Slot[]
  readonly #wall: () => number
  #next = 1

  constructor({ wall, capacity = 256 }: { readonly wall: () => number; readonly capacity?: number }) {
    this.#wall = wall
    this.#slots = Array.from({ length: capacity }, () => ({
      at: 0,
      kind: 'info',
      text: '',
      subnet: undefined,
      publicIP: undefined,
    }))
  }

  /** A line of the log. */
  note(level: Level, message: string): void {
    const slot = this.#take()
    slot.kind = level
    slot.text = message
    slot.subnet = undefined
  }

  lease(change: LeaseChange, subnet: Subnet, publicIP?: Ipv4): void {
    const slot = this.#take()
    slot.kind = 'lease'
    slot.text = change
    slot.subnet = subnet
    slot.publicIP = publicIP
  }

  /** Those after number `seq`, oldest first; all that are left when `seq` is 0. */
  *since(seq: number): Generator<Event> {
    const size = this.#slots.length
    for (let n = Math.max(seq + 1, this.#next - size); n < this.#next; n++) {
      const slot = this.#slots[n % size]
      if (slot !== undefined) yield { seq: n, at: slot.at, kind: slot.kind, text: textOf(slot) }
    }
  }

  #take(): Slot {
    const seq = this.#next++
    const slot = this.#slots[seq % this.#slots.length] as Slot
    slot.at = this.#wall()
    return slot
  }
}

function textOf({ text, subnet, publicIP }: Slot): string {
  if (subnet === undefined) return text
  return `${text} lease ${formatSubnet(subnet)}${publicIP === undefined ? '' : ` of ${formatIpv4(publicIP)}`}`
}
