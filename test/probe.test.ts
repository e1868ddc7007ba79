import { describe, expect, it, onTestFinished } from 'vitest'
import type { EchoAnswer, EchoSocket } from '../src/icmp.ts'
import type { Ipv4 } from '../src/ip.ts'
import type { Logger } from '../src/log.ts'
import { LOST_IN_A_ROW, Prober } from '../src/probe.ts'
import { ManualClock } from './masq/manual-clock.ts'

const INTERVAL = 10_000
const ROUND = INTERVAL

/** A network in which every address answers in 5 ms, but for those that are cut off. */
class FakeNetwork implements EchoSocket {
  readonly cut = new Set<Ipv4>()
  readonly sent: { at: number; to: Ipv4 }[] = []
  readonly #clock: ManualClock
  readonly #queue: EchoAnswer[] = []
  #readable = (): void => undefined
  /** What the event loop does not get to while it is busy. */
  busy = false

  constructor(clock: ManualClock) {
    this.#clock = clock
  }

  send({ to, sequence }: { readonly to: Ipv4; readonly sequence: number }): boolean {
    this.sent.push({ at: this.#clock.now(), to })
    if (this.cut.has(to)) return true
    void this.#clock.sleep(5).then(() => this.answer({ from: to, sequence }))
    return true
  }

  answer(answer: EchoAnswer): void {
    this.#queue.push(answer)
    if (!this.busy) this.#readable()
  }

  receive(): EchoAnswer | undefined {
    return this.#queue.shift()
  }

  onReadable(callback: () => void): void {
    this.#readable = callback
  }

  closed = false
  close(): void {
    this.closed = true
  }
}

function run(count: number, interval = INTERVAL) {
  const clock = new ManualClock()
  const network = new FakeNetwork(clock)
  const lines: string[] = []
  const note =
    (level: string) =>
    (message: string): number =>
      lines.push(`${level} ${message}`)
  const log = { warn: note('warn'), info: note('info') } as unknown as Logger
  const peers = Array.from({ length: count }, (_, n) => ({
    subnet: { address: 0x0a010000 + 256 * n, length: 24 },
    publicIP: 0xc0000200 + n,
  }))
  const list = { peers }
  const stop = new AbortController()
  const prober = new Prober({
    ...{ socket: network, clock, log, interval },
    peers: () => list.peers,
    addressOf: ({ subnet }) => subnet.address,
  })
  const running = prober.run(stop.signal)
  onTestFinished(async () => {
    stop.abort()
    await running
    expect(network.closed).toBe(true)
  })
  const address = (n: number): Ipv4 => 0x0a010000 + 256 * n
  return { clock, network, lines, prober, list, address, peers }
}

it('tells of each peer whether it answers, and how fast', async () => {
  const { clock, network, prober, peers, address } = run(3)
  network.cut.add(address(1))
  await clock.advance(1_000)
  expect(peers.map((peer) => prober.of(peer).reachable)).toEqual([true, undefined, undefined])
  await clock.advance(LOST_IN_A_ROW * ROUND + ROUND)
  expect(peers.map((peer) => prober.of(peer))).toMatchObject([
    { reachable: true, rtt: 5 },
    { reachable: false, rtt: undefined },
    { reachable: true, rtt: 5 },
  ])
  expect(prober.summary).toEqual({
    ...{ reachable: 2, unreachable: 1, pending: 0 },
    rtt: { least: 5, median: 5, most: 5 },
  })
  expect(prober.lost).toBeGreaterThanOrEqual(LOST_IN_A_ROW)
  expect(prober.rtts.count + prober.lost).toBeGreaterThanOrEqual(network.sent.length - 3)
})

it('says once that a peer is gone, and once that it is back', async () => {
  const { clock, network, lines, address } = run(3)
  await clock.advance(2 * ROUND)
  network.cut.add(address(1))
  await clock.advance((LOST_IN_A_ROW - 1) * ROUND)
  expect(lines).toEqual([])
  await clock.advance(5 * ROUND)
  const gone = 'warn Peers no longer answer pings: 10.1.1.0/24 (192.0.2.1); 1 of 3 do not answer'
  expect(lines).toEqual([gone])
  network.cut.clear()
  await clock.advance(5 * ROUND)
  expect(lines).toEqual([
    gone,
    'info Peers answer pings again: 10.1.1.0/24 (192.0.2.1); 0 of 3 do not answer',
  ])
})

it('makes few lines of a network that fails', async () => {
  const { clock, network, lines, peers, prober } = run(2_000)
  await clock.advance(2 * ROUND)
  for (const { subnet } of peers) network.cut.add(subnet.address)
  await clock.advance((LOST_IN_A_ROW + 2) * ROUND)
  expect(prober.summary).toMatchObject({ reachable: 0, unreachable: 2_000 })
  expect(lines.at(-1)).toMatch(/ and \d+ more; 2000 of 2000 do not answer$/)
  expect(lines.length).toBeLessThanOrEqual(2)
})

it('takes an answer to an earlier ping, or from another, for none', async () => {
  const { clock, network, prober, address } = run(1, 1_000)
  await clock.advance(500)
  network.cut.add(address(0))
  await clock.advance(1_000)
  const late = network.sent.length - 1
  expect(late).toBeGreaterThan(0)
  const before = prober.rtts.count
  network.answer({ from: address(0), sequence: late })
  network.answer({ from: address(9), sequence: late + 1 })
  expect(prober.rtts.count).toBe(before)
  network.answer({ from: address(0), sequence: late + 1 })
  expect(prober.rtts.count).toBe(before + 1)
})

it('counts nothing as lost that came while the daemon was busy', async () => {
  const { clock, network, prober } = run(2, 1_000)
  await clock.advance(2_000)
  network.busy = true
  await clock.advance(10_000)
  expect(prober.lost).toBe(0)
  expect(prober.summary.reachable).toBe(2)
})

it('follows the list of peers', async () => {
  const { clock, network, lines, list, prober, peers, address } = run(3)
  network.cut.add(address(2))
  await clock.advance((LOST_IN_A_ROW + 2) * ROUND)
  expect(prober.summary).toMatchObject({ reachable: 2, unreachable: 1 })
  list.peers = peers.slice(0, 1)
  await clock.advance(2 * ROUND)
  expect(prober.summary).toMatchObject({ reachable: 1, unreachable: 0, pending: 0 })
  list.peers = peers
  network.cut.clear()
  await clock.advance(2 * ROUND)
  expect(prober.summary).toMatchObject({ reachable: 3, unreachable: 0, pending: 0 })
  expect(lines).toHaveLength(1)
  list.peers = []
  await clock.advance(2 * ROUND)
  expect(prober.summary).toMatchObject({ reachable: 0, rtt: undefined })
})

function countBy(keys: readonly number[]): number[] {
  const counts = new Map<number, number>()
  for (const key of keys) counts.set(key, (counts.get(key) ?? 0) + 1)
  return [...counts.values()]
}

describe.each([
  { count: 1, interval: 1_000 },
  { count: 10, interval: 60_000 },
  { count: 3_000, interval: 10_000 },
  { count: 6_000, interval: 1_000 },
])('$count peers every $interval ms', ({ count, interval }) => {
  it('are pinged in turn, spread over the interval, at most 5,000 a second', async () => {
    const { clock, network } = run(count, interval)
    const round = Math.max(interval, count / 5)
    await clock.advance(3 * round)
    const most = Math.min(5_000, (1_100 * count) / interval + 2)
    for (const pings of countBy(network.sent.map(({ at }) => Math.floor(at / 1_000))))
      expect(pings).toBeLessThanOrEqual(most)
    const byPeer = countBy(network.sent.map(({ to }) => to))
    expect(byPeer).toHaveLength(count)
    for (const pings of byPeer) expect([2, 3, 4]).toContain(pings)
  })
})
