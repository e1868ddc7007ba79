/** The interface under the overlay, watched: what it is told, what it notices by itself, and what it must not take for news. */
import { afterEach, beforeEach, expect, it } from 'vitest'
import { chooseInterface, readNetworkView } from '../../src/iface.ts'
import { formatIpv4 } from '../../src/ip.ts'
import type { Logger } from '../../src/log.ts'
import { Rtnl } from '../../src/netlink/conn.ts'
import { IFF_RUNNING } from '../../src/netlink/constants.ts'
import { Monitor } from '../../src/netlink/monitor.ts'
import { UnderlayWatcher } from '../../src/underlay.ts'
import { ManualClock } from '../masq/manual-clock.ts'
import { waitFor } from '../netns/wait.ts'
import type { Machine } from './machine.ts'
import { prepare } from './node.ts'
import { Operator } from './operator.ts'

const PERIOD = 60_000
const SOON = 100

export function underlaySuite(make: () => Machine): void {
  let machine: Machine
  let op: Operator
  let clock: ManualClock
  let monitor: Monitor
  let watcher: UnderlayWatcher
  let running: Promise<void>
  let stop: AbortController
  /** As `<level> <message>`, as the interface that was followed, or `returned`. */
  let logged: string[]
  let happened: string[]
  /** While it is deaf, it hears nothing of what happens. */
  let deaf: boolean
  /** The network view was read this often. */
  let routesRead: number

  const defaultRoute = () => op.route('replace', { to: '0.0.0.0/0', via: '192.0.2.254', dev: 'eth0' })
  /** The kernel tells of a carrier in its own time. */
  const carrier = async (there: boolean, name = 'eth0'): Promise<void> => {
    const running = (): boolean => (op.link(name).flags & IFF_RUNNING) !== 0
    await waitFor(() => running() === there, { what: 'the carrier' })
  }
  const pass = async (ms: number): Promise<void> => {
    monitor.drain()
    await clock.advance(ms)
  }

  beforeEach(async () => {
    machine = make()
    op = new Operator(machine.open())
    prepare(op)
    op.do(defaultRoute())
    await carrier(true)
    clock = new ManualClock()
    stop = new AbortController()
    logged = []
    happened = []
    deaf = false
    routesRead = 0
    const rtnl = new Rtnl(machine.open())
    const at =
      (level: string): Logger['info'] =>
      (message) => {
        logged.push(`${level} ${message}`)
      }
    const silent = (): void => undefined
    const log: Logger = { trace: silent, debug: silent, info: at('I'), warn: at('W'), error: at('E') }
    const choice = { ifaces: [], ifaceRegexes: [], publicIP: undefined }
    const current = chooseInterface(readNetworkView(rtnl), choice, { ...log, info: silent })
    watcher = new UnderlayWatcher({
      rtnl: {
        dump: (request) => {
          if (request.operation().includes('routes')) routesRead++
          return rtnl.dump(request)
        },
        get: (request) => rtnl.get(request),
      },
      ...{ choice, log, clock, current, period: PERIOD },
      onChange: () => {
        const { name, mtu, address } = watcher.current
        happened.push(`${name} ${formatIpv4(address)} ${mtu}`)
      },
      onReturn: () => happened.push('returned'),
    })
    monitor = new Monitor(
      machine.monitor(),
      (notifications) => deaf || watcher.observe(notifications),
      () => deaf || watcher.observeOverrun(),
    )
    running = watcher.run(stop.signal)
    await pass(SOON)
  })
  afterEach(async () => {
    stop.abort()
    await running
    monitor.close()
    machine.close()
  })

  it('is left alone, and so are the routes, as long as it stays what it was', async () => {
    op.do(op.bridge('other0'))
    op.do(op.set('other0', { up: true }))
    op.do(op.address('add', 'other0', '198.51.100.1/24'))
    op.do(op.address('add', 'eth0', '192.0.2.77/24'))
    await pass(3 * PERIOD)
    expect({ logged, happened, routesRead }).toEqual({ logged: [], happened: [], routesRead: 0 })
  })

  it.each(['heard of', 'lost in an overrun', 'never told'])('has another MTU, which is %s', async (how) => {
    deaf = how !== 'heard of'
    op.do(op.set('eth0', { mtu: 1400 }))
    monitor.drain()
    if (how === 'lost in an overrun') watcher.observeOverrun()
    await clock.advance(how === 'never told' ? PERIOD : SOON)
    expect(happened).toEqual(['eth0 192.0.2.1 1400'])
    expect(logged).toEqual([
      'W the interface for inter-host traffic changed from eth0 192.0.2.1 mtu 1500 to eth0 192.0.2.1 mtu 1400; following it',
    ])
  })

  it('has changed before anybody listened', async () => {
    stop.abort()
    await running
    op.do(op.set('eth0', { mtu: 1300 }))
    const { current } = watcher
    const happenedThen: number[] = []
    const again = new UnderlayWatcher({
      rtnl: new Rtnl(machine.open()),
      choice: { ifaces: ['eth0'], ifaceRegexes: [], publicIP: undefined },
      log: { trace() {}, debug() {}, info() {}, warn() {}, error() {} },
      ...{ clock, current, period: PERIOD },
      onChange: () => happenedThen.push(again.current.mtu),
      onReturn: () => undefined,
    })
    const end = new AbortController()
    const runs = again.run(end.signal)
    await clock.advance(SOON)
    end.abort()
    await runs
    expect(happenedThen).toEqual([1300])
  })

  it('cannot be chosen for a while, and changes meanwhile: followed when the route that leads to it is back', async () => {
    op.do(op.set('eth0', { up: false }))
    op.do(op.set('eth0', { mtu: 1400 }))
    op.do(op.set('eth0', { up: true }))
    await pass(SOON)
    expect(happened).toEqual([])
    expect(logged).toEqual([
      expect.stringMatching(
        /^W Failed to find any valid interface to use: Unable to find default route; .*keeping eth0 as it was$/,
      ),
    ])
    logged.length = 0
    op.do(defaultRoute())
    await pass(SOON)
    expect(happened).toContain('eth0 192.0.2.1 1400')
    expect(logged[0]).toBe('I interface eth0 can be used again')
  })

  it('changes again and again: is looked at all the same', async () => {
    for (let i = 0; i < 40; i++) {
      op.do(op.set('eth0', { mtu: 1400 + i }))
      await pass(10)
    }
    expect(happened.length).toBeGreaterThan(0)
    await pass(SOON)
    expect(happened.at(-1)).toBe('eth0 192.0.2.1 1439')
  })

  it('goes away, and the one that is chosen then has a carrier', async () => {
    op.do(op.veth('eth1', 'far1'))
    op.do(op.set('far1', { up: true }))
    op.do(op.set('eth1', { up: true }))
    op.do(op.address('add', 'eth1', '198.51.100.1/24'))
    op.do(op.route('add', { to: '0.0.0.0/0', via: '198.51.100.254', dev: 'eth1', metric: 100 }))
    await carrier(true, 'eth1')
    await pass(SOON)
    op.do(op.unlink('eth0'))
    await pass(SOON)
    expect(happened.at(-1)).toBe('eth1 198.51.100.1 1500')
    expect(watcher.up).toBe(true)
    expect(logged).toEqual([expect.stringMatching(/^W .* changed from eth0 .* to eth1 .*; following it$/)])
  })

  it.each(['heard of', 'never told'])('loses its carrier and has it again, which is %s', async (how) => {
    deaf = how === 'never told'
    const wait = deaf ? PERIOD : SOON
    op.do(op.set('far0', { up: false }))
    await carrier(false)
    await pass(wait)
    expect(watcher.up).toBe(false)
    expect(logged).toEqual([
      'W eth0 is down or has no carrier: nothing passes to other nodes until it is back',
    ])
    op.do(op.set('far0', { up: true }))
    await carrier(true)
    await pass(wait)
    expect(watcher.up).toBe(true)
    expect(happened).toEqual(['returned'])
    expect(logged.at(-1)).toBe('I eth0 is up again')
  })
}
