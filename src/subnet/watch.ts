/**
 * Watching the leases: one snapshot, then etcd's long poll, which gives one event for each answer.
 *
 * An answer also tells how far the store is ahead of its event. If it is, the events behind are asked for in
 * parallel, by consecutive `waitIndex`: several of these may name the same event, which is then taken once.
 * If it is far ahead, a new snapshot is cheaper. So is one when etcd's history (1,000 events of the whole store) no
 * longer reaches back, and it is the only safe thing when the store is another one, or older, than it was.
 */
import type { Clock } from '../clock.ts'
import { sameSubnet } from '../ip.ts'
import type { Logger } from '../log.ts'
import { EcodeEventIndexCleared, EcodeKeyNotFound, isEtcdCode } from './etcd/error.ts'
import type { Lease, LeaseEvent, LeaseWatchResult } from './lease.ts'
import { Outage, reasonOf } from './outage.ts'
import type { LeaseList, Registry, WatchStep } from './registry.ts'
import { sameAttributes } from './table.ts'

export interface WatchOptions {
  readonly registry: Registry
  readonly signal: AbortSignal
  readonly clock: Clock
  readonly log: Logger
  /** Where a list stood that was acted on already; the watch goes on behind it. Absent, it begins with a snapshot. */
  readonly from?: WatchStart
  /** Kept up to date while the watch goes on. */
  readonly progress?: WatchProgress
}

/** What a watch has to know of the list that it goes on from. */
export interface WatchStart {
  /** The list's own. */
  readonly index: number
  readonly clusterId: string
  /** The lease written last. */
  readonly witness: Lease | undefined
}

/** How far a watch has come, for those who look into the daemon. */
export interface WatchProgress {
  /** Everything in the store up to this index is known. */
  index: number
  /** Monotonic milliseconds when etcd last said something, be it that nothing had happened. */
  heardAt: number
  /** Monotonic milliseconds of the last round, successful or not. */
  triedAt: number
  /** Complete lists that were read since start. */
  snapshots: number
  /** Rounds that failed since start. */
  failures: number
  /** Why the last round failed, if it did. */
  lastError: string | undefined
}

/** Long polls under way at once while catching up. */
const PARALLEL_POLLS = 8
/** Events behind, from which on a snapshot is taken instead. */
const SNAPSHOT_BACKLOG = 500
/** Polls beyond the one that is needed are ended when that one has had nothing to give for this long. */
const SURPLUS_MS = 50
const FIRST_PAUSE_MS = 100
const PAUSE_MS = 1_000
/** How long silence is believed: a member that is cut off from its cluster keeps long polls open and never has news. */
const TRUST_MS = 5 * 60_000

/** Yields snapshots and events until the signal fires; nothing that etcd does or says makes it throw. */
export async function* watchLeases(options: WatchOptions): AsyncGenerator<LeaseWatchResult, void, undefined> {
  const watch = new LeaseWatch(options)
  try {
    while (!options.signal.aborted) {
      const result = await watch.next()
      if (result !== undefined) yield result
    }
  } finally {
    watch.close()
  }
}

interface Position {
  /** Everything up to this index is known. */
  index: number
  /** The newest index the store has told of. */
  storeIndex: number
  /** '' until an answer has told. */
  clusterId: string
  /**
   * The lease written last. If a store still holds it, at the same index, it is the one that was watched; one that was
   * lost and filled again may otherwise look the same, with the same name and a higher index.
   */
  witness: Lease | undefined
}

class LeaseWatch {
  readonly #options: WatchOptions
  readonly #outage: Outage
  readonly #polls: PollWindow
  #position: Position | undefined
  /** After a failure or a long silence it is asked first whether this still is the same store. */
  #doubt = false
  #heardAt: number
  /** What was known before the position was given up, for a snapshot to be compared with. */
  #lost: Position | undefined
  #lastSnapshot = Number.NEGATIVE_INFINITY
  #historyLost = false
  #emptyAnswers = 0

  constructor(options: WatchOptions) {
    const { from, clock, log } = options
    this.#options = options
    this.#outage = new Outage(log, clock)
    this.#polls = new PollWindow(options)
    this.#heardAt = clock.now()
    if (from !== undefined) this.#position = positionAt(from)
  }

  close(): void {
    this.#polls.close()
  }

  /** One snapshot, some events, or undefined when there was nothing to tell. */
  async next(): Promise<LeaseWatchResult | undefined> {
    const { signal, log } = this.#options
    try {
      const result =
        (this.#position !== undefined && this.#doubt ? await this.#verify(this.#position) : undefined) ??
        (this.#position === undefined ? await this.#snapshot() : await this.#events(this.#position))
      this.#note(undefined)
      return result
    } catch (error) {
      this.#polls.end()
      if (signal.aborted) return undefined
      this.#note(reasonOf(error))
      if (isEtcdCode(error, EcodeEventIndexCleared)) {
        if (!this.#historyLost) {
          log.warn('Watch of subnet leases failed because etcd index outside history window')
        }
        this.#historyLost = true
        this.#giveUp()
        return undefined
      }
      this.#doubt = true
      this.#outage.fail(`Watch subnets: ${reasonOf(error)}`)
      await this.#pause(this.#outage.failures === 1 ? FIRST_PAUSE_MS : PAUSE_MS)
      return undefined
    }
  }

  #note(failure: string | undefined): void {
    const { progress, clock } = this.#options
    if (progress === undefined) return
    progress.triedAt = clock.now()
    progress.lastError = failure
    if (failure !== undefined) progress.failures++
    else progress.heardAt = progress.triedAt
    if (this.#position !== undefined) progress.index = this.#position.index
  }

  async #snapshot(): Promise<LeaseWatchResult> {
    const { registry, signal, clock } = this.#options
    // The first is taken at once; a store that makes one necessary again and again is not asked without pause, and not by
    // a whole fleet at one time.
    const pause = PAUSE_MS * (1 + Math.random() / 2)
    await this.#pause(this.#lastSnapshot + pause - clock.now())
    this.#lastSnapshot = clock.now()
    const list = await registry.listLeases(signal)
    const replaced = this.#lost !== undefined && isOtherStore(list, this.#lost)
    this.#lost = undefined
    this.#position = positionAt(startOf(list))
    this.#heardAt = clock.now()
    if (this.#options.progress !== undefined) this.#options.progress.snapshots++
    this.#doubt = false
    this.#outage.recover('Watching subnet leases again')
    return { kind: 'snapshot', leases: list.leases, bad: list.bad, index: list.index, replaced }
  }

  /** Yields no events where etcd answers again: others wait for it too. */
  async #verify({ index, witness }: Position): Promise<LeaseWatchResult | undefined> {
    const { registry, signal, clock, log } = this.#options
    const found =
      witness === undefined ? await answers(registry, signal) : await find(registry, witness, index, signal)
    if (found === 'other') this.#resync('etcd no longer holds the lease seen last; it may be another store')
    else if (found > index) {
      log.info('Reading all subnet leases again: the lease seen last was written meanwhile')
      this.#giveUp()
    }
    const again = this.#outage.failures > 0
    this.#doubt = false
    this.#heardAt = clock.now()
    this.#outage.recover('Watching subnet leases again')
    return again && this.#position !== undefined ? { kind: 'events', events: [], index } : undefined
  }

  async #events(position: Position): Promise<LeaseWatchResult | undefined> {
    const asked = this.#options.clock.now()
    const events: LeaseEvent[] = []
    let step: WatchStep | undefined = await this.#polls.first(position)
    // The rest is what arrived meanwhile, in order and without a gap.
    for (; step !== undefined; step = this.#polls.take(position.index + 1)) {
      if (step.kind === 'resync') {
        this.#resync(step.reason)
        return undefined
      }
      position.clusterId ||= step.clusterId
      if (step.kind === 'idle') {
        this.#doubt = !step.waited || this.#options.clock.now() - this.#heardAt >= TRUST_MS
        position.index = Math.max(position.index, step.index)
        await this.#paceEmpty(asked)
        break
      } else {
        this.#heardAt = this.#options.clock.now()
        this.#emptyAnswers = 0
        this.#historyLost = false
        position.index = step.index
        position.storeIndex = Math.max(position.storeIndex, step.storeIndex)
        if (step.event !== undefined) {
          events.push(step.event)
          position.witness = witnessAfter(step.event, position.witness)
        }
      }
    }
    const behind = position.storeIndex - position.index
    if (behind > SNAPSHOT_BACKLOG && asked > this.#lastSnapshot + PAUSE_MS) this.#giveUp()
    return events.length === 0 ? undefined : { kind: 'events', events, index: position.index }
  }

  #resync(reason: string): void {
    this.#options.log.warn(`Reading all subnet leases again: ${reason}`)
    this.#giveUp()
  }

  /** Leaves the position for a snapshot. */
  #giveUp(): void {
    this.#polls.end()
    this.#lost ??= this.#position
    this.#position = undefined
  }

  /** etcd ends a long poll with an empty answer when it stops; a proxy that always does so is slowed down. */
  async #paceEmpty(asked: number): Promise<void> {
    const quick = this.#options.clock.now() - asked < PAUSE_MS
    this.#emptyAnswers = quick ? this.#emptyAnswers + 1 : 0
    if (this.#emptyAnswers > 1) await this.#pause(PAUSE_MS)
  }

  async #pause(ms: number): Promise<void> {
    if (ms > 0) await this.#options.clock.sleep(ms, this.#options.signal)
  }
}

interface Poll {
  readonly step: Promise<WatchStep>
  readonly controller: AbortController
  arrived: WatchStep | undefined
}

/** The long polls under way, by the index they wait for. */
class PollWindow {
  readonly #options: WatchOptions
  readonly #polls = new Map<number, Poll>()
  readonly #end = (): void => this.end()
  /** The poll that was waited for last with others behind it. */
  #head: { readonly poll: Poll; readonly waitIndex: number; readonly since: number } | undefined
  #watching = false

  constructor(options: WatchOptions) {
    this.#options = options
    options.signal.addEventListener('abort', this.#end)
  }

  /** Waits for what follows `position`, and asks for what is known to lie behind that. */
  async first({ index, storeIndex, clusterId }: Position): Promise<WatchStep> {
    for (const waitIndex of this.#polls.keys()) if (waitIndex <= index) this.#polls.delete(waitIndex)
    const poll = this.#ask(index + 1, clusterId)
    for (let i = index + 2; i <= Math.min(storeIndex, index + PARALLEL_POLLS); i++) this.#ask(i, clusterId)
    if (this.#polls.size > 1) {
      this.#head = { poll, waitIndex: index + 1, since: this.#options.clock.now() }
      this.#watchSurplus()
    }
    const step = await poll.step
    this.#polls.delete(index + 1)
    return step
  }

  /** Ends the polls behind one that has nothing to give. One timer for all: in a burst there is a poll for each event. */
  #watchSurplus(): void {
    if (this.#watching) return
    this.#watching = true
    const { clock, signal } = this.#options
    void clock.sleep(SURPLUS_MS, signal).then(() => {
      this.#watching = false
      const head = this.#head
      if (signal.aborted || head === undefined || this.#polls.size <= 1) return
      const silent = head.poll.arrived === undefined && clock.now() - head.since >= SURPLUS_MS
      if (silent) this.#endBeyond(head.waitIndex)
      else this.#watchSurplus()
    })
  }

  /** The answer to the poll for exactly this index, if it is there; each is given once. */
  take(waitIndex: number): WatchStep | undefined {
    const step = this.#polls.get(waitIndex)?.arrived
    if (step !== undefined) this.#polls.delete(waitIndex)
    return step
  }

  /** Gives up all polls. */
  end(): void {
    this.#endBeyond(-1)
  }

  close(): void {
    this.end()
    this.#options.signal.removeEventListener('abort', this.#end)
  }

  #ask(waitIndex: number, clusterId: string): Poll {
    const known = this.#polls.get(waitIndex)
    if (known !== undefined) return known
    const controller = new AbortController()
    const step = this.#options.registry.watch({ waitIndex, clusterId }, controller.signal)
    const poll: Poll = { step, controller, arrived: undefined }
    // A poll that fails is awaited when its turn comes, if it comes.
    step.then((value) => (poll.arrived = value)).catch(() => undefined)
    this.#polls.set(waitIndex, poll)
    return poll
  }

  #endBeyond(index: number): void {
    for (const [waitIndex, poll] of this.#polls) {
      if (waitIndex > index) {
        poll.controller.abort()
        this.#polls.delete(waitIndex)
      }
    }
  }
}

function positionAt(start: WatchStart): Position {
  return { ...start, storeIndex: start.index }
}

/** Where a watch goes on behind this list. */
export function startOf({ index, clusterId, leases }: LeaseList): WatchStart {
  let witness: Lease | undefined
  for (const lease of leases) if (lease.modifiedIndex > (witness?.modifiedIndex ?? 0)) witness = lease
  return { index, clusterId, witness }
}

function witnessAfter(event: LeaseEvent, witness: Lease | undefined): Lease | undefined {
  if (event.kind === 'put') return event.lease
  const gone = event.kind === 'delete' && witness !== undefined && sameSubnet(event.subnet, witness.subnet)
  return gone ? undefined : witness
}

/** The index at which the lease stands now, or `other` if it cannot be the one that was watched. */
async function find(
  registry: Registry,
  witness: Lease,
  index: number,
  signal: AbortSignal,
): Promise<number | 'other'> {
  const record = await registry.readLease(witness.subnet, signal)
  if (record.kind === 'absent') return 'other'
  const { modifiedIndex } = record.kind === 'lease' ? record.lease : record
  if (modifiedIndex > index) return modifiedIndex
  const same =
    record.kind === 'lease' &&
    modifiedIndex === witness.modifiedIndex &&
    sameAttributes(record.lease.attributes, witness.attributes)
  return same ? modifiedIndex : 'other'
}

/** A list that lies before what was known, or comes from elsewhere. */
function isOtherStore({ index, clusterId }: LeaseList, known: Position): boolean {
  return index < known.index || (clusterId !== '' && known.clusterId !== '' && clusterId !== known.clusterId)
}

/** Any answer of etcd's will do; one key is as good as another. */
async function answers(registry: Registry, signal: AbortSignal): Promise<number> {
  await registry.getConfig(signal).catch((error: unknown) => {
    if (!isEtcdCode(error, EcodeKeyNotFound)) throw error
  })
  return 0
}
