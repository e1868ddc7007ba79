import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { systemClock } from '../../src/clock.ts'
import type { CommandOptions, Runner } from '../../src/masq/exec.ts'
import { Firewall } from '../../src/masq/firewall.ts'
import { Guard } from '../netns/guard.ts'
import { Namespace } from '../netns/namespace.ts'
import { stop } from '../netns/process.ts'
import { waitFor } from '../netns/wait.ts'
import { cases, expand, picture, policy } from './chains.ts'
import { Variant, type VariantName } from './variant.ts'

const forward = ['-s 10.5.0.0/16 -j ACCEPT', '-d 10.5.0.0/16 -j ACCEPT']
const log = { trace() {}, debug() {}, info() {}, warn() {}, error() {} }

const guard = new Guard()
afterAll(() => guard.close())

function firewall(runner: Runner): Firewall {
  return new Firewall({ runner, clock: systemClock, log, resyncSeconds: 5 })
}

describe.each<VariantName>(['nft', 'legacy'])('iptables-%s', (name) => {
  let variant: Variant
  let namespace: Namespace

  beforeAll(async () => {
    const unique = `fw-${name}-${process.pid}`
    guard.add('namespace', unique)
    namespace = await Namespace.create(unique)
    variant = await Variant.create(name, namespace)
  })
  afterAll(() => variant.remove())

  beforeEach(async () => {
    await variant.fill('nat', 'POSTROUTING', [])
    await variant.fill('filter', 'FORWARD', [])
    variant.commands.length = 0
  })

  const nat = async () => picture(await variant.rules('nat', 'POSTROUTING'))

  it.each(cases)('$name: $before -> $after', async (c) => {
    await variant.fill('nat', 'POSTROUTING', expand(c.before))
    variant.commands.length = 0
    const wall = firewall(variant.run)
    await wall.start({ ...(c.policy ?? policy), forward: false }, c.previous)
    expect(wall.lastError).toBeUndefined()
    const writes = variant.commands.filter((line) => line.startsWith('iptables-restore'))
    expect(writes).toHaveLength(c.before === c.after ? 0 : 1)
    expect(await nat()).toBe(c.after)
  })

  it('takes over what flannel left, without a write, and then looks with one program', async () => {
    // The commands of flannel 0.11 with -ip-masq, from an strace of it.
    for (const rule of expand('1 2 3 4')) {
      await variant.run('iptables', ['-t', 'nat', '-A', 'POSTROUTING', ...rule.split(' '), '--wait'])
    }
    for (const rule of forward) {
      await variant.run('iptables', ['-t', 'filter', '-A', 'FORWARD', ...rule.split(' '), '--wait'])
    }
    variant.commands.length = 0
    const wall = firewall(variant.run)
    await wall.start(policy, policy)
    await wall.check()
    await wall.check()
    expect(variant.commands).toEqual(['iptables --version', ...Array(3).fill('iptables-save')])
    expect(wall.counters).toEqual({ checks: 3, repairs: 0, failures: 0 })
  })

  it('brings back flushed chains', async () => {
    const wall = firewall(variant.run)
    await wall.start(policy, undefined)
    await variant.iptables('-t', 'nat', '-F', 'POSTROUTING')
    await variant.iptables('-F', 'FORWARD')
    await variant.iptables('-A', 'FORWARD', '-j', 'DROP')
    await wall.check()
    expect(await nat()).toBe('1 2 3 4')
    expect(await variant.rules('filter', 'FORWARD')).toEqual(['-j DROP', ...forward])
    await variant.iptables('-D', 'FORWARD', '1')
    await variant.iptables('-A', 'FORWARD', '-j', 'DROP')
    await wall.check()
    await variant.iptables('-D', 'FORWARD', '1')
    await variant.iptables('-D', 'FORWARD', '1')
    await wall.check()
    expect(await variant.rules('filter', 'FORWARD')).toEqual([...forward, '-j DROP'])
  })

  it('deletes nothing of others when the chain changes under its hands', async () => {
    await variant.fill('nat', 'POSTROUTING', expand('1 D 2 4 F'))
    const run: Runner = async (command, args, options?: CommandOptions) => {
      if (command === 'iptables-restore' && wall.counters.failures === 0) {
        await variant.iptables('-t', 'nat', '-D', 'POSTROUTING', '1')
      }
      return variant.run(command, args, options)
    }
    const wall = firewall(run)
    await wall.start({ ...policy, forward: false }, undefined)
    expect(wall.lastError).toContain('iptables-restore')
    expect(await nat()).toBe('D 2 4 F')
    await wall.check()
    expect(await nat()).toBe('D 1 2 3 4 F')
    expect(wall.lastError).toBeUndefined()
  })

  it('loses nothing of somebody who writes at the same time', async () => {
    const wall = firewall(variant.run)
    await wall.start(policy, undefined)
    const theirs = Array.from({ length: 40 }, (_, i) => `-s 172.16.${i}.0/24 -j MASQUERADE`)
    let writing = true
    const writer = (async () => {
      for (const rule of theirs) await variant.iptables('-t', 'nat', '-A', 'POSTROUTING', ...rule.split(' '))
    })().finally(() => {
      writing = false
    })
    while (writing) {
      await variant.iptables('-t', 'nat', '-D', 'POSTROUTING', ...(expand('2')[0] ?? '').split(' '))
      await wall.check()
      await waitFor(() => wall.check().then(() => !wall.lastError), { what: 'a repair succeeds' })
    }
    await writer
    expect(await variant.rules('nat', 'POSTROUTING')).toEqual([...expand('1 2 3 4'), ...theirs])
  })

  it('repairs on a kick, and rests when nothing differs', async () => {
    const wall = firewall(variant.run)
    await wall.start(policy, undefined)
    const end = new AbortController()
    const running = wall.run(end.signal)
    try {
      await variant.iptables('-t', 'nat', '-D', 'POSTROUTING', '2')
      wall.kick()
      await waitFor(async () => (await nat()) === '1 2 3 4', { what: 'rule 2 is back' })
    } finally {
      end.abort()
      await running
    }
    expect(wall.counters.failures).toBe(0)
  })
})

describe('iptables-legacy beside others', () => {
  it('waits for the lock, gives up in words, and gets it in the end', async () => {
    const unique = `fw-lock-${process.pid}`
    guard.add('namespace', unique)
    const namespace = await Namespace.create(unique)
    const variant = await Variant.create('legacy', namespace)
    // `cat` holds the lock until its input ends.
    const holder = namespace.start(['flock', variant.lockFile, 'sh', '-c', 'echo locked; exec cat'], {
      stdio: ['pipe', 'pipe', 'ignore'],
    })
    try {
      await new Promise((resolve) => holder.stdout?.once('data', resolve))
      const wall = firewall(variant.run)
      await wall.start({ ...policy, forward: false }, undefined)
      expect(wall.lastError).toMatch(/xtables lock.*exit status 4/)
      const second = wall.check()
      holder.stdin?.end()
      await second
      expect(wall.lastError).toBeUndefined()
      expect(picture(await variant.rules('nat', 'POSTROUTING'))).toBe('1 2 3 4')
    } finally {
      await stop(holder)
      await variant.remove()
    }
  })
})

describe('iptables-nft beside others', () => {
  let variant: Variant
  let namespace: Namespace

  beforeEach(async () => {
    const unique = `fw-beside-${process.pid}`
    guard.add('namespace', unique)
    namespace = await Namespace.create(unique)
    variant = await Variant.create('nft', namespace)
  })
  afterEach(async () => {
    await variant.remove()
    await namespace.remove()
  })

  it('works in a table that only nft can list', async () => {
    await variant.fill('nat', 'POSTROUTING', expand('D'))
    await namespace.run('nft', 'add rule ip nat POSTROUTING ip saddr 10.1.0.0/16 masquerade fully-random')
    expect(await variant.run('iptables-save', [])).toMatchObject({
      stdout: expect.stringContaining('incompatible'),
    })
    const wall = firewall(variant.run)
    const listed = () => namespace.run('nft', 'list chain ip nat POSTROUTING')
    const order = new RegExp(
      ['10.1.0.0/16', 'daddr 10.5.0.0/16', '!= 224.0.0.0/4', 'daddr 10.5.1.0/24', 'daddr 10.5.0.0/16'].join(
        '[\\s\\S]*',
      ),
    )
    await wall.start(policy, undefined)
    expect(await listed()).toMatch(order)
    await variant.run('iptables', ['-t', 'nat', '-D', 'POSTROUTING', ...expand('2').join().split(' ')])
    expect(await listed()).not.toMatch(order)
    await wall.check()
    expect(await listed()).toMatch(order)
    await wall.check()
    expect(wall.counters).toEqual({ checks: 3, repairs: 2, failures: 0 })
  })

  it("is kept from nothing by somebody's rule elsewhere that ends every dump", async () => {
    await variant.fill('filter', 'FORWARD', [])
    await namespace.run('nft', 'add chain ip filter INPUT { type filter hook input priority 0; }')
    await namespace.run('nft', 'add rule ip filter INPUT meta mark set 5')
    await expect(variant.run('iptables-save', [])).rejects.toThrow('Parsing nftables rule failed')
    const wall = firewall(variant.run)
    await wall.start(policy, undefined)
    expect(await namespace.run('nft', 'list chain ip filter FORWARD')).toContain('10.5.0.0/16')
    expect(await namespace.run('nft', 'list chain ip nat POSTROUTING')).toContain('10.5.0.0/16')
    await wall.check()
    expect(wall.counters).toEqual({ checks: 2, repairs: 1, failures: 0 })
  })

  it('changes nothing in the kernel at rest', async () => {
    const wall = firewall(variant.run)
    await wall.start(policy, undefined)
    const monitor = namespace.start(['nft', 'monitor'], { stdio: ['ignore', 'pipe', 'ignore'] })
    let seen = ''
    monitor.stdout?.on('data', (chunk) => {
      seen += chunk
    })
    try {
      // The monitor listens once it shows a table of ours.
      let tries = 0
      await waitFor(
        async () => {
          await namespace.run('nft', `add table ip probe${tries++}`)
          return seen.includes('probe')
        },
        { what: 'nft monitor listens' },
      )
      for (let i = 0; i < 5; i++) await wall.check()
      await namespace.run('nft', 'add table ip last')
      await waitFor(() => seen.includes('last'), { what: 'nft monitor shows the last change' })
    } finally {
      await stop(monitor)
    }
    const changes = seen.split('\n').filter((l) => l && !l.startsWith('#'))
    expect(changes.filter((l) => !/^add table ip (probe\d+|last)$/.test(l))).toEqual([])
  })

  it('comes back after everything in the kernel was flushed', async () => {
    const wall = firewall(variant.run)
    await wall.start(policy, undefined)
    await namespace.run('nft', 'flush ruleset')
    await wall.check()
    expect(picture(await variant.rules('nat', 'POSTROUTING'))).toBe('1 2 3 4')
    expect(await variant.rules('filter', 'FORWARD')).toEqual(forward)
  })

  it('reads single chains beside thousands of rules', async () => {
    const many = Array.from({ length: 3_000 }, (_, i) => `-d 10.96.${i >> 8}.${i & 255}/32 -j RETURN`)
    await variant.fill('nat', 'PREROUTING', many)
    const wall = firewall(variant.run)
    await wall.start(policy, undefined)
    await variant.iptables('-t', 'nat', '-D', 'POSTROUTING', '3')
    variant.commands.length = 0
    await wall.check()
    expect(variant.commands.map((c) => c.split(' ').slice(0, 7).join(' '))).toEqual([
      'iptables -w 5 -t nat -S POSTROUTING',
      'iptables -w 5 -t filter -S FORWARD',
      'iptables-restore --noflush -w 5',
    ])
    expect(picture(await variant.rules('nat', 'POSTROUTING'))).toBe('1 2 3 4')
  })
})
