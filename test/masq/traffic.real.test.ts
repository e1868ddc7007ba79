/**
 * What the rules do to packets.
 *
 *   pod 10.5.1.2 --- 10.5.1.1 node 192.0.2.1 --- 192.0.2.2 world, and there too: a remote pod 10.5.2.2
 *                   lo 198.51.100.1, 10.5.1.3 beside 192.0.2.1
 *
 * Every answer is the source address that the other end saw.
 */
import type { ChildProcess } from 'node:child_process'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { systemClock } from '../../src/clock.ts'
import { Firewall } from '../../src/masq/firewall.ts'
import { Guard } from '../netns/guard.ts'
import { Namespace } from '../netns/namespace.ts'
import { stop } from '../netns/process.ts'
import { expand, policy } from './chains.ts'
import { Variant, type VariantName } from './variant.ts'

const UDP = new URL('udp.py', import.meta.url).pathname
const PORT = '7777'
const GROUP = '239.1.2.3'
const log = { trace() {}, debug() {}, info() {}, warn() {}, error() {} }

const guard = new Guard()
afterAll(() => guard.close())

describe.each<VariantName>(['nft', 'legacy'])('traffic under iptables-%s', (name) => {
  let pod: Namespace
  let node: Namespace
  let world: Namespace
  let variant: Variant
  const servers: ChildProcess[] = []

  beforeAll(async () => {
    const make = (part: string) => {
      const unique = `tr-${name}-${part}-${process.pid}`
      guard.add('namespace', unique)
      return Namespace.create(unique)
    }
    pod = await make('pod')
    node = await make('node')
    world = await make('world')
    await node.ipBatch([
      `link add pod type veth peer name eth0 netns ${pod.name}`,
      `link add out type veth peer name eth0 netns ${world.name}`,
      'addr add 10.5.1.1/24 dev pod',
      'addr add 192.0.2.1/24 dev out',
      // The kernel sends multicast out of the device that has the source address.
      'addr add 10.5.1.3/32 dev out',
      'addr add 198.51.100.1/32 dev lo',
      'link set pod up',
      'link set out up',
      'route add 10.5.2.0/24 via 192.0.2.2',
    ])
    await pod.ipBatch(['addr add 10.5.1.2/24 dev eth0', 'link set eth0 up', 'route add default via 10.5.1.1'])
    await world.ipBatch([
      'addr add 192.0.2.2/24 dev eth0',
      'addr add 10.5.2.2/32 dev eth0',
      'link set eth0 up',
      'route add default via 192.0.2.1',
    ])
    await node.run('sh', '-c', 'echo 1 > /proc/sys/net/ipv4/ip_forward')
    await Promise.all([
      serve(world, '192.0.2.2'),
      serve(world, '10.5.2.2'),
      serve(world, '192.0.2.2', GROUP),
      serve(pod, '10.5.1.2'),
    ])
    variant = await Variant.create(name, node)
  })
  afterAll(async () => {
    for (const server of servers) await stop(server)
    await variant.remove()
  })

  async function serve(at: Namespace, ...args: string[]): Promise<void> {
    const [address = '', ...group] = args
    const child = at.start(['python3', UDP, 'serve', address, PORT, ...group], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    servers.push(child)
    await new Promise((resolve) => child.stdout?.once('data', resolve))
  }

  async function ask(from: Namespace, source: string, target: string, count = 1): Promise<string> {
    return (await from.run('python3', UDP, 'ask', source, target, PORT, String(count))).trim()
  }

  function firewall(): Firewall {
    return new Firewall({ runner: variant.run, clock: systemClock, log, resyncSeconds: 5 })
  }

  it('shows every source as it is without rules', async () => {
    expect(await ask(pod, '10.5.1.2', '192.0.2.2')).toBe('10.5.1.2 1')
    expect(await ask(node, '198.51.100.1', '10.5.2.2')).toBe('198.51.100.1 1')
  })

  it('masquerades what leaves the network, and nothing else', async () => {
    const wall = firewall()
    await wall.start(policy, undefined)
    expect(wall.lastError).toBeUndefined()
    const seen = {
      'pod to remote pod': await ask(pod, '10.5.1.2', '10.5.2.2'),
      'pod to world': await ask(pod, '10.5.1.2', '192.0.2.2'),
      'bridge to world': await ask(node, '10.5.1.1', '192.0.2.2'),
      'node to world': await ask(node, '10.5.1.3', '192.0.2.2'),
      'node to multicast': await ask(node, '10.5.1.3', GROUP),
      'world to pod': await ask(world, '192.0.2.2', '10.5.1.2'),
      'host to own pod': await ask(node, '198.51.100.1', '10.5.1.2'),
      'host to remote pod': await ask(node, '198.51.100.1', '10.5.2.2'),
    }
    expect(seen).toEqual({
      'pod to remote pod': '10.5.1.2 1',
      'pod to world': '192.0.2.1 1',
      'bridge to world': '192.0.2.1 1',
      'node to world': '192.0.2.1 1',
      'node to multicast': '10.5.1.3 1',
      'world to pod': '192.0.2.2 1',
      'host to own pod': '198.51.100.1 1',
      'host to remote pod': '192.0.2.1 1',
    })
  })

  it('forwards pods where the policy is to drop', async () => {
    await variant.iptables('-P', 'FORWARD', 'DROP')
    await variant.iptables('-F', 'FORWARD')
    const wall = firewall()
    try {
      await wall.start(policy, undefined)
      expect(await ask(pod, '10.5.1.2', '192.0.2.2')).toBe('192.0.2.1 1')
      expect(await ask(world, '192.0.2.2', '10.5.1.2')).toBe('192.0.2.2 1')
    } finally {
      await variant.iptables('-P', 'FORWARD', 'ACCEPT')
    }
  })

  it('lets no new connection out with its own address while rules are repaired', async () => {
    const wall = firewall()
    await wall.start(policy, undefined)
    let done = false
    const traffic = ask(pod, '10.5.1.2', '192.0.2.2', 3_000).finally(() => {
      done = true
    })
    const before = wall.counters.repairs
    while (!done || wall.counters.repairs - before < 20) {
      // A duplicate: the whole group is taken out and put back.
      await variant.iptables('-t', 'nat', '-I', 'POSTROUTING', ...(expand('1')[0] ?? '').split(' '))
      await wall.start(policy, undefined)
      expect(wall.lastError).toBeUndefined()
    }
    expect(await traffic).toBe('192.0.2.1 3000')
  })
})
