import { describe, expect, test } from 'vitest'
import type { Clock } from '../src/clock.ts'
import type { Logger } from '../src/log.ts'
import { Systemd } from '../src/systemd.ts'

/** A clock whose sleeps end at once and are written down; after `turns` of them it aborts. */
function clockOf(turns: number): { clock: Clock; slept: number[]; signal: AbortSignal } {
  const slept: number[] = []
  const controller = new AbortController()
  const sleep = async (ms: number): Promise<void> => {
    slept.push(ms)
    if (slept.length >= turns) controller.abort()
  }
  return { clock: { now: () => 0, wall: () => 0, sleep }, slept, signal: controller.signal }
}

function systemd(
  env: Record<string, string>,
  options: { send?: (address: string, message: string) => void; turns?: number } = {},
) {
  const sent: string[] = []
  const logged: string[] = []
  const write = (message: string): void => void logged.push(message)
  const log: Logger = { trace: write, debug: () => {}, info: write, warn: write, error: write }
  const send = options.send ?? ((address: string, message: string) => sent.push(`${address} ${message}`))
  const { clock, slept, signal } = clockOf(options.turns ?? 3)
  return { systemd: new Systemd({ env, send, clock, log }), sent, logged, slept, signal }
}

const failure = (code: string): Error => Object.assign(new Error(`notify /run/n: ${code}`), { code })

test('ready, status in one line, stopping', async () => {
  const { systemd: s, sent } = systemd({ NOTIFY_SOCKET: '@n' })
  await s.ready()
  s.status('3 peers\nSTOPPING=1')
  s.stopping()
  expect(sent).toEqual(['@n READY=1', '@n STATUS=3 peers STOPPING=1', '@n STOPPING=1'])
})

test.each([{}, { NOTIFY_SOCKET: '' }])('nothing is sent with %j', async (env) => {
  const { systemd: s, sent, logged } = systemd(env)
  await s.ready()
  s.status('x')
  s.stopping()
  expect([sent, logged]).toEqual([[], []])
})

test('an unusable socket is a warning, once, and no error', async () => {
  const send = (): void => {
    throw failure('ECONNREFUSED')
  }
  const { systemd: s, logged, slept } = systemd({ NOTIFY_SOCKET: '/run/n' }, { send })
  s.status('x')
  await s.ready()
  s.stopping()
  expect(logged).toEqual(['Cannot tell systemd that flanneld is ready: notify /run/n: ECONNREFUSED'])
  expect(slept).toEqual([])
})

describe('a full socket', () => {
  test('gets READY=1 again until it is taken', async () => {
    let calls = 0
    const send = (): void => {
      if (++calls < 4) throw failure('EAGAIN')
    }
    const { systemd: s, logged, slept } = systemd({ NOTIFY_SOCKET: '/run/n' }, { send })
    await s.ready()
    expect([calls, slept, logged]).toEqual([4, [100, 100, 100], []])
  })

  test('is given up after 5 seconds', async () => {
    const send = (): void => {
      throw failure('EAGAIN')
    }
    const { systemd: s, logged, slept } = systemd({ NOTIFY_SOCKET: '/run/n' }, { send })
    await s.ready()
    expect(slept.reduce((sum, ms) => sum + ms, 0)).toBe(5000)
    expect(logged).toHaveLength(1)
  })

  test('is given up when the daemon stops, and READY=1 does not follow STOPPING=1', async () => {
    let calls = 0
    const send = (): void => {
      if (++calls < 3) throw failure('EAGAIN')
    }
    const { systemd: s, logged, slept, signal } = systemd({ NOTIFY_SOCKET: '/run/n' }, { send, turns: 2 })
    await s.ready(signal)
    expect([calls, slept.length, logged]).toEqual([2, 2, []])
  })
})

describe('watchdog', () => {
  const pid = 4711

  test.each([{ WATCHDOG_USEC: '60000000' }, { WATCHDOG_USEC: '60000000', WATCHDOG_PID: '4711' }])(
    'pings at half the period with %j',
    async (env) => {
      const { systemd: s, sent, slept, signal } = systemd({ NOTIFY_SOCKET: '/n', ...env })
      await s.watchdog({ healthy: () => true, pid, signal })
      expect(slept).toEqual([30_000, 30_000, 30_000])
      expect(sent).toEqual(Array(3).fill('/n WATCHDOG=1'))
    },
  )

  test('no ping while the daemon is not healthy', async () => {
    const health = [true, false, true]
    const { systemd: s, sent, signal } = systemd({ NOTIFY_SOCKET: '/n', WATCHDOG_USEC: '1000' })
    await s.watchdog({ healthy: () => health.shift() ?? false, pid, signal })
    expect(sent).toHaveLength(2)
  })

  test.each([
    {},
    { WATCHDOG_USEC: '' },
    { WATCHDOG_USEC: '0' },
    { WATCHDOG_USEC: '-5' },
    { WATCHDOG_USEC: 'soon' },
    { WATCHDOG_USEC: '1000', WATCHDOG_PID: '1' },
  ])('none with %j', async (env) => {
    const { systemd: s, sent, slept, signal } = systemd({ NOTIFY_SOCKET: '/n', ...env })
    await s.watchdog({ healthy: () => true, pid, signal })
    expect([sent, slept]).toEqual([[], []])
  })

  test('a period beyond what a timer holds does not make it spin', async () => {
    const {
      systemd: s,
      slept,
      signal,
    } = systemd({ NOTIFY_SOCKET: '/n', WATCHDOG_USEC: '18446744073709551615' })
    await s.watchdog({ healthy: () => true, pid, signal })
    expect(slept[0]).toBe((2 ** 31 - 1) / 2)
  })
})
