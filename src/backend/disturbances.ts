import { readFileSync } from 'node:fs'
import { Backoff } from './backoff.ts'
import type { RepairCause } from './model.ts'
import type { TableName } from './operations.ts'

/** Repairs of one key that are made at once; from then on somebody is fighting us, and we slow down. */
const FREE_REPAIRS = 20
/** In the place of a port id: nobody told us, a complete compare did. */
const FOUND_BY_COMPARE = -1

/** What others changed and we have to put right, who they are, and how often it has been put right. */
export class Disturbances {
  /** Keys that are not as we left them, and who changed them: a netlink port id, 0 or less when unknown. */
  readonly #by = new Map<string, number>()
  readonly #fights = new Backoff<string>(FREE_REPAIRS)
  readonly repairs: Readonly<Record<TableName | 'device', Record<RepairCause, number>>> = {
    neighbour: none(),
    fdb: none(),
    nexthop: none(),
    route: none(),
    peer: none(),
    device: none(),
  }

  get size(): number {
    return this.#by.size
  }

  has(id: string): boolean {
    return this.#by.has(id)
  }

  /** A notification told of it; `portId` is its sender, 0 for the kernel. */
  note(id: string, portId: number): void {
    this.#by.set(id, portId)
  }

  /** A complete compare found it. */
  found(id: string): void {
    this.#by.set(id, FOUND_BY_COMPARE)
  }

  forget(id: string): void {
    this.#by.delete(id)
  }

  /** Forgets what the kernel did by itself. */
  forgetTheKernels(): void {
    for (const [id, by] of this.#by) if (by === 0) this.#by.delete(id)
  }

  /** Milliseconds until this may be repaired again; 0 when it may be at once. */
  wait(id: string, now: number): number {
    return this.#by.has(id) ? this.#fights.wait(id, now) : 0
  }

  /** Forgets all but those that wait: what is not repaired by now turned out to need no repair. */
  settle(now: number): void {
    for (const id of this.#by.keys()) if (this.#fights.wait(id, now) === 0) this.#by.delete(id)
  }

  /** Counts a repair; without a cause it is told by how we know. */
  count(table: TableName | 'device', id: string, cause?: RepairCause): void {
    const by = this.#by.get(id)
    const known = by === undefined || by === FOUND_BY_COMPARE ? 'compare' : 'notification'
    this.repairs[table][cause ?? known]++
  }

  /** Returns whether with this repair somebody is fighting us, so that the next ones wait. */
  slowDown(id: string, now: number): boolean {
    return this.#fights.note(id, now) === FREE_REPAIRS + 1
  }

  /** Who did it, as far as a netlink port id tells: most programs use their pid. */
  who(id: string): { readonly by?: string } {
    const portId = this.#by.get(id)
    if (portId === undefined || portId <= 0) return {}
    try {
      const name = readFileSync(`/proc/${portId}/comm`, 'utf8').trim()
      // systemd-networkd.socket: systemd makes networkd's socket, which therefore has systemd's pid.
      const socketOf = name === 'systemd' ? ', for systemd-networkd if that runs' : ''
      return { by: `${name} (pid ${portId}${socketOf})` }
    } catch {
      return { by: `pid ${portId}, gone by now` }
    }
  }
}

function none(): Record<RepairCause, number> {
  return { notification: 0, compare: 0, device: 0 }
}
