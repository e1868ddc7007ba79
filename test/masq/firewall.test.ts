import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { CommandError } from '../../src/masq/exec.ts'
import { Firewall } from '../../src/masq/firewall.ts'
import { expand, picture, policy, subnet } from './chains.ts'
import { FakeIptables } from './fake-iptables.ts'
import { ManualClock } from './manual-clock.ts'

const NAT = 'nat POSTROUTING'
const FORWARD = 'filter FORWARD'
const forward = ['-s 10.5.0.0/16 -j ACCEPT', '-d 10.5.0.0/16 -j ACCEPT']
const missing = new CommandError('iptables', 'missing', 'not found in PATH')
const locked = new CommandError('iptables-restore', 'failed', 'Another app is holding the xtables lock', 4)

let kernel: FakeIptables
let clock: ManualClock
let logged: string[]
let stop: AbortController
let running: Promise<void>

beforeEach(() => {
  kernel = new FakeIptables()
  clock = new ManualClock()
  logged = []
  stop = new AbortController()
  running = Promise.resolve()
})

afterEach(async () => {
  stop.abort()
  await running
})

function firewall(resyncSeconds = 5, generation?: () => number | undefined): Firewall {
  const at = (level: string) => (message: string) => void logged.push(`${level} ${message}`)
  const log = { trace: () => {}, debug: () => {}, info: at('I'), warn: at('W'), error: at('E') }
  return new Firewall({ runner: kernel.run, clock, log, resyncSeconds, ...(generation && { generation }) })
}

async function started(resyncSeconds?: number): Promise<Firewall> {
  const wall = firewall(resyncSeconds)
  await wall.start(policy, undefined, stop.signal)
  running = wall.run(stop.signal)
  await clock.settle()
  return wall
}

function commands(): string[] {
  return kernel.calls.map((c) => [c.command, ...c.args].join(' '))
}

function inPlace(): boolean {
  return picture(kernel.chain(NAT)) === '1 2 3 4' && kernel.chain(FORWARD).join() === forward.join()
}

describe('first synchronisation', () => {
  it('installs both groups and says so in words that operators look for', async () => {
    await firewall().start(policy, undefined)
    expect(inPlace()).toBe(true)
    expect(commands()).toEqual(['iptables --version', 'iptables-save', 'iptables-restore --noflush -w 5'])
    expect(logged.slice(0, 2)).toEqual([
      'I Some iptables rules are missing; deleting and recreating rules',
      'I Adding iptables rule: -s 10.5.0.0/16 -d 10.5.0.0/16 -j RETURN',
    ])
  })

  it('only looks when all is right', async () => {
    kernel.chain(NAT).push(...expand('D 1 2 3 4'))
    kernel.chain(FORWARD).push(...forward)
    const wall = firewall()
    await wall.start(policy, undefined)
    expect(commands()).toEqual(['iptables --version', 'iptables-save'])
    expect(logged).toEqual([])
    expect(wall.counters).toEqual({ checks: 1, repairs: 0, failures: 0 })
  })

  it('writes nothing before the network is known', async () => {
    const wall = firewall()
    wall.kick()
    await wall.check()
    expect(kernel.writes).toEqual([])
  })

  it('logs what it takes away', async () => {
    kernel.chain(NAT).push(...expand('1 2 c 4'))
    await firewall().start(policy, { network: policy.network, subnet: subnet('10.5.9.0/24') })
    expect(picture(kernel.chain(NAT))).toBe('1 2 3 4')
    expect(logged).toContain('I Deleting iptables rule: ! -s 10.5.0.0/16 -d 10.5.9.0/24 -j RETURN')
  })

  it('runs nothing at all when nothing is asked for', async () => {
    await firewall().start({ ...policy, masquerade: false, forward: false }, undefined)
    expect(kernel.calls).toEqual([])
  })

  it('leaves the forward chain alone without -iptables-forward-rules', async () => {
    kernel.chain(FORWARD).push(...forward, ...forward)
    await firewall().start({ ...policy, forward: false }, { network: policy.network, subnet: policy.subnet })
    expect(kernel.chain(FORWARD)).toEqual([...forward, ...forward])
  })

  it('uses neither lock options nor random ports that iptables does not know', async () => {
    kernel.version = 'iptables v1.4.21\n'
    await firewall().start(policy, undefined)
    expect(commands().at(-1)).toBe('iptables-restore --noflush')
    expect(kernel.chain(NAT)).toEqual(expand('1 b 3 4').with(3, (expand('4')[0] ?? '').slice(0, -15)))
  })
})

describe('while running', () => {
  it('looks every period with one program, and writes nothing', async () => {
    const wall = await started()
    const before = kernel.calls.length
    await clock.advance(60_000)
    expect(commands().slice(before)).toEqual(Array(12).fill('iptables-save'))
    expect(wall.counters).toEqual({ checks: 13, repairs: 1, failures: 0 })
  })

  describe('by the generation of the ruleset', () => {
    let generation: number | undefined
    let asked: number
    const startedBy = async (): Promise<Firewall> => {
      ;[generation, asked] = [7, 0]
      const wall = firewall(5, () => {
        asked++
        return generation
      })
      await wall.start(policy, undefined, stop.signal)
      // Our own write was a change as any other.
      generation = 8
      running = wall.run(stop.signal)
      await clock.advance(5_000)
      kernel.calls.length = 0
      return wall
    }

    it('runs no program as long as nothing has changed', async () => {
      const wall = await startedBy()
      const before = { ...wall.counters, asked }
      await clock.advance(60_000)
      expect(commands()).toEqual([])
      expect(asked).toBe(before.asked + 12)
      expect(wall.counters).toEqual({ checks: before.checks + 12, repairs: 1, failures: 0 })
    })

    it('looks until a look has found nothing to do', async () => {
      await startedBy()
      kernel.chain(NAT).splice(1, 1)
      generation = 9
      await clock.advance(5_000)
      expect(inPlace()).toBe(true)
      await clock.advance(5_000)
      expect(commands()).toEqual(['iptables-save', 'iptables-restore --noflush -w 5', 'iptables-save'])
    })

    it('looks again when something changes during a look', async () => {
      await startedBy()
      kernel.delay = async () => {
        generation = 10
      }
      generation = 9
      await clock.advance(5_000)
      kernel.delay = undefined
      await clock.advance(10_000)
      expect(commands()).toEqual(['iptables-save', 'iptables-save'])
    })

    it('looks every time when nobody can tell, and when the rules are not those of nf_tables', async () => {
      await startedBy()
      generation = undefined
      await clock.advance(15_000)
      expect(commands()).toEqual(Array(3).fill('iptables-save'))
      stop.abort()
      await running
      stop = new AbortController()
      kernel.version = 'iptables v1.8.9 (legacy)\n'
      await startedBy()
      await clock.advance(15_000)
      expect(commands().filter((command) => command.startsWith('iptables-save'))).toHaveLength(3)
    })
  })

  it('repairs within a period', async () => {
    await started()
    kernel.chain(NAT).splice(1, 1)
    await clock.advance(5_000)
    expect(inPlace()).toBe(true)
  })

  it('puts all of ours back before a rule that came after them', async () => {
    await started()
    kernel.chain(FORWARD).push('-j REJECT --reject-with icmp-host-prohibited')
    await clock.advance(5_000)
    kernel.chain(FORWARD).splice(0, 2)
    await clock.advance(5_000)
    expect(kernel.chain(FORWARD)).toEqual([...forward, '-j REJECT --reject-with icmp-host-prohibited'])
  })

  it('repairs soon after a kick, once for many kicks', async () => {
    const wall = await started()
    await clock.advance(1_000)
    const checks = wall.counters.checks
    kernel.chain(NAT).splice(1, 1)
    for (let i = 0; i < 50; i++) wall.kick()
    await clock.advance(100)
    expect(inPlace()).toBe(true)
    expect(wall.counters.checks).toBe(checks + 1)
  })

  it('does not look all the time when kicked all the time', async () => {
    const wall = await started()
    const checks = wall.counters.checks
    for (let i = 0; i < 1_000; i++) {
      wall.kick()
      await clock.advance(1)
    }
    expect(wall.counters.checks - checks).toBeLessThanOrEqual(10)
  })

  it('looks once a period, kicked or not, when looking takes long', async () => {
    kernel.delay = () => clock.sleep(4_000)
    const wall = firewall()
    void wall.start(policy, undefined, stop.signal)
    await clock.advance(60_000)
    running = wall.run(stop.signal)
    await clock.settle()
    kernel.delay = undefined
    wall.kick()
    await clock.advance(5_000)
    expect(wall.counters.checks).toBe(2)
  })

  it('becomes slower, and says so once, when something fights it; and quick again afterwards', async () => {
    const wall = await started()
    for (let i = 0; i < 2_000; i++) {
      if (inPlace()) kernel.chain(NAT).pop()
      wall.kick()
      await clock.advance(10)
    }
    const fought = wall.counters.repairs
    expect(fought).toBeGreaterThan(5)
    expect(fought).toBeLessThan(20)
    expect(logged.filter((l) => l.startsWith('W Something keeps changing'))).toHaveLength(1)
    await clock.advance(600_000)
    kernel.chain(NAT).pop()
    wall.kick()
    await clock.advance(100)
    expect(inPlace()).toBe(true)
  })

  it('clears away the rules of an earlier run with another subnet', async () => {
    await started()
    stop.abort()
    await running
    stop = new AbortController()
    const wall = firewall()
    await wall.start({ ...policy, subnet: subnet('10.5.9.0/24') }, policy, stop.signal)
    running = wall.run(stop.signal)
    await clock.settle()
    expect(picture(kernel.chain(NAT))).toBe('1 2 c 4')
    // Cleared away once; what somebody adds later is theirs.
    kernel.chain(NAT).push(...expand('3'))
    await clock.advance(5_000)
    expect(picture(kernel.chain(NAT))).toBe('1 2 c 4 3')
  })

  it('stops without touching the rules', async () => {
    await started()
    stop.abort()
    await running
    expect(inPlace()).toBe(true)
    expect(clock.next).toBeUndefined()
  })
})

describe('trouble', () => {
  it('says the same trouble once, and another at once', async () => {
    const wall = firewall()
    const waited = (ms: number) => new CommandError('iptables-save', 'failed', `locked for ${ms} us`, 4)
    kernel.faults.push(waited(17), waited(4711), missing, waited(3))
    for (let i = 0; i < 4; i++) {
      await wall.start(policy, undefined)
    }
    expect(logged).toHaveLength(3)
    expect(wall.counters.failures).toBe(4)
  })

  it('says once that iptables is missing, and looks again', async () => {
    const wall = firewall()
    kernel.faults.push(...Array(20).fill(missing))
    await wall.start(policy, undefined, stop.signal)
    running = wall.run(stop.signal)
    await clock.advance(30_000)
    expect(logged).toHaveLength(1)
    expect(logged[0]).toContain('E Failed to setup IPTables. iptables binary was not found: ')
    expect(wall.counters.failures).toBeGreaterThan(5)
    expect(wall.lastError).toContain('not found in PATH')
    await clock.advance(120_000)
    expect(inPlace()).toBe(true)
    expect(wall.lastError).toBeUndefined()
    expect(logged.at(-1)).toBe('I iptables rules are in place again')
  })

  it.each([0, 1, 2])('recovers from a failure of call %i', async (call) => {
    const wall = firewall()
    kernel.faults.push(...Array(call).fill(undefined), locked)
    await wall.start(policy, undefined, stop.signal)
    expect(kernel.faults).toEqual([])
    expect(wall.counters.failures).toBe(1)
    expect(logged.filter((l) => l.startsWith('E'))).toEqual([
      'E Failed to ensure iptables rules: iptables-restore: Another app is holding the xtables lock; trying again',
    ])
    running = wall.run(stop.signal)
    await clock.advance(250)
    expect(inPlace()).toBe(true)
  })

  it('does not let one table wait for the other', async () => {
    const wall = firewall()
    // The first run for both, then after a look the one for nat.
    kernel.faults.push(undefined, undefined, locked, undefined, locked)
    await wall.start(policy, undefined)
    await wall.check()
    expect(kernel.chain(NAT)).toEqual([])
    expect(kernel.chain(FORWARD)).toEqual(forward)
    expect(wall.lastError).toContain('xtables lock')
    await wall.check()
    expect(inPlace()).toBe(true)
  })

  it('checks rule by rule, and says so once, where the table cannot be listed', async () => {
    kernel.hidden.add('nat')
    const wall = await started()
    expect(inPlace()).toBe(true)
    kernel.chain(NAT).splice(1, 1)
    await clock.advance(20_000)
    expect(inPlace()).toBe(true)
    expect(wall.counters).toEqual({ checks: 5, repairs: 2, failures: 0 })
    expect(logged.filter((l) => l.startsWith('W'))).toHaveLength(1)
  })

  it('writes nothing where not even that can be answered, and to the other chain what it needs', async () => {
    kernel.hidden.add('nat')
    const parsing = new CommandError('iptables', 'failed', 'Parsing nftables rule failed', 3)
    kernel.faults.push(undefined, undefined, parsing)
    const wall = firewall()
    await wall.start(policy, undefined)
    expect(kernel.chain(NAT)).toEqual([])
    expect(kernel.chain(FORWARD)).toEqual(forward)
    expect(wall.lastError).toContain('Parsing nftables rule failed')
  })

  it.each([
    {
      variant: 'nf_tables',
      reads: ['iptables -w 5 -t nat -S POSTROUTING', 'iptables -w 5 -t filter -S FORWARD'],
    },
    { variant: 'legacy', reads: ['iptables-save'] },
  ])('reads a long ruleset of the $variant variant its own way', async ({ variant, reads }) => {
    kernel.version = `iptables v1.8.9 (${variant})\n`
    kernel.preamble = '-A KUBE-SERVICES -j KUBE-SVC\n'.repeat(5_000)
    await started()
    const before = kernel.calls.length
    await clock.advance(5_000)
    expect(commands().slice(before)).toEqual(reads)
    kernel.chain(NAT).splice(1, 1)
    await clock.advance(5_000)
    expect(inPlace()).toBe(true)
    kernel.hidden.add('nat')
    kernel.chain(NAT).splice(1, 1)
    await clock.advance(5_000)
    expect(inPlace()).toBe(true)
  })
})
