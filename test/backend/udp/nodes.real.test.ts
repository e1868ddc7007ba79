/**
 * udp between two nodes on the real kernel, ours and, where FLANNEL_PEER names it, Go flannel's: what the kernel shows,
 * what pods can send each other, who is let in, and what comes back by itself.
 */
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import { type Daemon, Lab, OURS, waitFor } from '../../netns/lab.ts'
import { lines, type Namespace } from '../../netns/namespace.ts'
import type { Pod } from '../../netns/pod.ts'
import { stop } from '../../netns/process.ts'

vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 })

const CONFIG = '{"Network":"172.30.0.0/16","SubnetLen":24,"Backend":{"Type":"udp"}}'
const MB = 1_000_000
const { FLANNEL_PEER: GO } = process.env

function traffic(namespace: Namespace, ...args: readonly (string | number)[]): Promise<string> {
  return namespace.run('python3', join(import.meta.dirname, 'traffic.py'), ...args.map(String))
}

/** Starts a server of traffic.py that ends with the test or the suite that `onEnd` belongs to. */
async function startServer(
  namespace: Namespace,
  what: string,
  onEnd: (end: () => Promise<unknown>) => void,
): Promise<() => readonly string[]> {
  const script = join(import.meta.dirname, 'traffic.py')
  const child = namespace.start(['python3', script, what], { stdio: ['ignore', 'pipe', 'inherit'] })
  onEnd(() => stop(child, 'SIGKILL'))
  if (child.stdout === null) throw new Error('no output to read')
  const output = createInterface(child.stdout)
  await once(output, 'line')
  const seen: string[] = []
  output.on('line', (line) => seen.push(line))
  return () => seen
}

/** Two nodes with a pod each, the pods reaching each other; the second pod serves. */
class Site {
  readonly lab: Lab
  readonly daemons: Daemon[] = []
  readonly pods: Pod[] = []

  constructor(lab: Lab) {
    this.lab = lab
  }

  static async create(
    binaries: readonly string[],
    { config = CONFIG, mtu = 1500 }: { config?: string; mtu?: number } = {},
  ): Promise<Site> {
    const lab = await Lab.create({ nodes: 2 })
    const site = new Site(lab)
    try {
      await (await lab.startEtcd()).config(config)
      for (const [i, binary] of binaries.entries()) {
        await lab.node(i + 1).ip(`link set eth0 mtu ${mtu}`)
        const daemon = await lab.daemon(i + 1, { binary, args: ['-ip-masq'] })
        await daemon.waitReady()
        site.daemons.push(daemon)
        site.pods.push(await lab.pod(daemon))
      }
      await site.connected()
      await startServer(site.pod(2).namespace, 'serve', (end) => lab.onClose(end))
      return site
    } catch (error) {
      await lab.close()
      throw error
    }
  }

  daemon(i: number): Daemon {
    const daemon = this.daemons[i - 1]
    if (daemon === undefined) throw new Error(`no node ${i}`)
    return daemon
  }

  pod(i: number): Pod {
    const pod = this.pods[i - 1]
    if (pod === undefined) throw new Error(`no pod ${i}`)
    return pod
  }

  /** The lease's first address, which the device holds. */
  own(i: number): string {
    return this.daemon(i).leaseKey().replace(/-.*/, '')
  }

  async connected(): Promise<void> {
    await waitFor(() => this.pod(1).namespace.ping(this.pod(2).address), {
      what: () => `pods to reach each other; ${this.daemons.map((d) => d.log().slice(-1000)).join('\n')}`,
      timeout: 20_000,
    })
  }

  async restart(i: number, signal: NodeJS.Signals): Promise<void> {
    await this.daemon(i).stop(signal)
    this.daemons[i - 1] = await this.lab.daemon(i, { args: ['-ip-masq'] })
    await this.daemon(i).waitReady()
  }
}

describe('two of our nodes', () => {
  let site: Site
  beforeAll(async () => {
    site = await Site.create([OURS, OURS])
  })
  afterAll(() => site?.lab.close())

  test("etcd and the kernel show what they show with flannel's", async () => {
    const leases = await site.lab.etcd.leases()
    expect(new Set(leases.map(({ value }) => value))).toEqual(
      new Set([1, 2].map((i) => `{"PublicIP":"${site.lab.address(i)}"}`)),
    )
    const node = site.lab.node(1)
    // Of universe scope, which ip does not print, as flannel makes it.
    expect(await node.routes('flannel0')).toEqual(['172.30.0.0/16'])
    expect(lines(await node.ip('-4 address show dev flannel0')).slice(0, 2)).toEqual([
      expect.stringMatching(
        /^\d+: flannel0: <POINTOPOINT,MULTICAST,NOARP,UP,LOWER_UP> mtu 1472 qdisc \S+ state UNKNOWN group default qlen 500$/,
      ),
      `inet ${site.own(1)}/32 scope global flannel0`,
    ])
    expect(site.daemon(1).subnetEnv().FLANNEL_MTU).toBe('1472')
    expect(lines(await node.run('ss', '-lun'))).toContainEqual(
      expect.stringMatching(new RegExp(`UNCONN .* ${site.lab.address(1).replaceAll('.', '\\.')}:8285 `)),
    )
    expect(site.daemon(1).log()).toContain(`Subnet added: ${site.own(2)}/24`)
  })

  test('100 MB each way arrive as they were', () =>
    traffic(site.pod(1).namespace, 'tcp', site.pod(2).address, 100 * MB))

  test('datagrams of all sizes come back, in fragments and in trains', () =>
    traffic(site.pod(1).namespace, 'udp', site.pod(2).address))

  test('eight streams at once arrive as they were', () =>
    Promise.all(
      Array.from({ length: 8 }, () => traffic(site.pod(1).namespace, 'tcp', site.pod(2).address, 5 * MB)),
    ))

  test('to where no peer is: destination unreachable, as RFC 792 and flannel have it', async () => {
    const answer = await traffic(site.pod(1).namespace, 'probe', '172.30.255.9')
    // The kernel takes one off on the way to the pod: it is 8 where flannel writes it.
    expect(answer).toMatch(
      new RegExp(`^type 3 code 0 from ${site.own(1)} ttl [78] length 56 about 172.30.255.9\n$`),
    )
  })

  test('a hop of its own for the tunnel, and an answer from it', async () => {
    const { namespace } = site.pod(1)
    const { address } = site.pod(2)
    const hops: (readonly string[] | undefined)[] = []
    for (const ttl of [1, 2, 3, 4]) {
      const answer = await traffic(namespace, 'probe', `${address}:${ttl}`)
      hops.push(/type (\d+) code \d+ from (\S+)/.exec(answer)?.slice(1))
    }
    expect(hops).toEqual([
      ['11', expect.stringMatching(/\.1$/)],
      ['11', site.own(1)],
      ['11', site.own(2)],
      ['3', address],
    ])
  })

  test('a path with a smaller MTU: what no longer fits goes in fragments', async () => {
    const node = site.lab.node(1)
    const route = '10.77.0.0/16 dev eth0 proto kernel scope link src 10.77.1.2'
    await node.ip(`route change ${route} mtu lock 1000`)
    onTestFinished(() => node.ip(`route change ${route}`).then(() => undefined))
    await traffic(site.pod(1).namespace, 'tcp', site.pod(2).address, 2 * MB)
    await traffic(site.pod(1).namespace, 'udp', site.pod(2).address)
  })

  test('who is no peer, or says it is another, is not let in; and that is counted and said', async () => {
    const { lab } = site
    const [to, pod] = [lab.address(1), site.pod(1).address]
    const heard = await startServer(site.pod(1).namespace, 'listen', (end) =>
      onTestFinished(() => end().then(() => undefined)),
    )
    const own = site.pod(2).address
    await traffic(lab.switch, 'inject', to, 8285, own, pod, 'stranger')
    await traffic(lab.node(2), 'inject', to, 8285, '172.30.255.9', pod, 'forged')
    await traffic(lab.node(2), 'inject', to, 8285, '8.8.8.8', pod, 'foreign')
    await traffic(lab.node(1), 'inject', to, 8285, own, pod, 'reflected')
    await traffic(lab.node(2), 'inject', to, 8285, own, pod, 'peer')
    await waitFor(() => heard().length > 0, { what: 'the packet of the peer' })
    expect(heard()).toEqual(['peer'])
    // A look at the counters may fall between two of them.
    const dropped = (): number[][] =>
      [
        ...site
          .daemon(1)
          .log()
          .matchAll(/no peer may send fromStrangers=(\d) withForeignSource=(\d) malformed=0/g),
      ].map((line) => line.slice(1).map(Number))
    const sum = (i: number): number => dropped().reduce((total, counts) => total + (counts[i] ?? 0), 0)
    await waitFor(() => sum(0) + sum(1) === 4, { what: () => `4 drops, not ${dropped()}`, timeout: 25_000 })
    expect([sum(0), sum(1)]).toEqual([2, 2])
  })

  test('10,000 datagrams of rubbish from a peer do no harm', async () => {
    await traffic(site.lab.node(2), 'spray', site.lab.address(1), 8285, 10_000)
    await traffic(site.pod(1).namespace, 'udp', site.pod(2).address)
    expect(site.daemon(1).running).toBe(true)
  })

  test('a peer comes and goes', async () => {
    const lease = { key: '172.30.254.0-24', publicIP: site.lab.address(2), mac: '02:00:00:00:00:01' }
    const probe = (): Promise<string> => traffic(site.pod(1).namespace, 'probe', '172.30.254.1')
    expect(await probe()).toContain(`from ${site.own(1)} `)
    // Of another backend type: whoever listens on the port is good enough, as with flannel.
    await site.lab.etcd.putLease(lease)
    await site.daemon(1).waitLog(/Subnet added: 172\.30\.254\.0\/24/)
    // Now it reaches node 2, which knows of no such peer beside itself.
    await waitFor(async () => (await probe()).includes(`from ${site.own(2)} `), { what: 'node 2 to get it' })
    await site.lab.etcd.delete(`/coreos.com/network/subnets/${lease.key}`)
    await site.daemon(1).waitLog(/Subnet removed: 172\.30\.254\.0\/24/)
    await waitFor(async () => (await probe()).includes(`from ${site.own(1)} `), {
      what: 'node 1 to refuse it',
    })
  })

  const damages: readonly (readonly [string, readonly string[]])[] = [
    ['the route deleted', ['route del 172.30.0.0/16']],
    ['the route led elsewhere', ['route replace 172.30.0.0/16 dev eth0']],
    ['the device deleted', ['link del flannel0']],
    ['the device set down', ['link set flannel0 down']],
    ['the device renamed', ['link set flannel0 name other0']],
    ['the address removed', ['address flush dev flannel0']],
    ['the address replaced', ['address flush dev flannel0', 'address add 172.30.9.9/32 dev flannel0']],
    ['another MTU', ['link set flannel0 mtu 900']],
  ]
  test.each(damages)('%s: it comes back by itself', async (_, commands) => {
    const node = site.lab.node(1)
    const state = async (): Promise<string> => {
      const [address = '', inet] = lines(await node.ip('-4 address show dev flannel0'))
      return [address.replace(/^\d+: /, ''), inet, ...(await node.routes('flannel0'))].join('\n')
    }
    const before = await state()
    expect(before).toContain('172.30.0.0/16')
    await node.ipBatch(commands)
    await waitFor(async () => (await state()) === before, {
      what: () => `all as before; ${site.daemon(1).log().slice(-800)}`,
    })
    await site.connected()
    await traffic(site.pod(1).namespace, 'tcp', site.pod(2).address, MB)
  })

  test('another MTU of the interfaces is taken over', async () => {
    // Of both: what is too large for the receiver is lost on the wire without a word, but for trains, which a veth lets pass.
    for (const i of [1, 2]) {
      const node = site.lab.node(i)
      await node.ip('link set eth0 mtu 1400')
      onTestFinished(() => node.ip('link set eth0 mtu 1500').then(() => undefined))
    }
    for (const i of [1, 2]) {
      const device = (): Promise<string> => site.lab.node(i).ip('link show flannel0')
      await waitFor(async () => (await device()).includes('mtu 1372 '), { what: `MTU 1372 on node ${i}` })
      const inFile = (): boolean => site.daemon(i).subnetEnv().FLANNEL_MTU === '1372'
      await waitFor(inFile, { what: `the new MTU in the file of node ${i}` })
    }
    await traffic(site.pod(1).namespace, 'tcp', site.pod(2).address, 2 * MB)
  })

  test.each(['SIGTERM', 'SIGKILL'] as const)(
    '%s and a start: same subnet, the stream goes on',
    async (signal) => {
      const own = site.own(1)
      const stream = traffic(site.pod(1).namespace, 'tcp', site.pod(2).address, 300 * MB)
      await site.restart(1, signal)
      expect(site.own(1)).toBe(own)
      await site.connected()
      await stream
      expect(await site.lab.node(1).ip('-br link show type tun')).toMatch(/^flannel0 /)
    },
  )
})

describe('a small MTU', () => {
  let site: Site
  beforeAll(async () => {
    site = await Site.create([OURS, OURS], { mtu: 600 })
  })
  afterAll(() => site?.lab.close())

  test('all arrives as it was', async () => {
    expect(site.daemon(1).subnetEnv().FLANNEL_MTU).toBe('572')
    await traffic(site.pod(1).namespace, 'tcp', site.pod(2).address, 10 * MB)
    await traffic(site.pod(2).namespace, 'udp', site.pod(2).address)
  })
})

describe.skipIf(!GO)('our node and one of Go flannel', () => {
  for (const order of ['ours first', 'theirs first']) {
    describe(order, () => {
      let site: Site
      const ours = order === 'ours first' ? 1 : 2
      beforeAll(async () => {
        const pair = [OURS, GO ?? '']
        site = await Site.create(ours === 1 ? pair : pair.reverse())
      })
      afterAll(() => site?.lab.close())

      test('20 MB each way arrive as they were', () =>
        traffic(site.pod(1).namespace, 'tcp', site.pod(2).address, 20 * MB))

      test('datagrams of all sizes come back', () =>
        traffic(site.pod(1).namespace, 'udp', site.pod(2).address))

      test('one looks as the other in etcd and in the kernel', async () => {
        const values = (await site.lab.etcd.leases()).map(({ value }) => value?.replace(/\.\d+"/, '.N"'))
        expect(new Set(values)).toEqual(new Set(['{"PublicIP":"10.77.1.N"}']))
        const shown = async (i: number): Promise<string> => {
          const node = site.lab.node(i)
          const text = [
            await node.ip('-4 address show dev flannel0'),
            ...(await node.routes('flannel0')),
          ].join('\n')
          return text.replace(/^\d+: /, '').replaceAll(site.own(i), 'OWN')
        }
        expect(await shown(1)).toBe(await shown(2))
      })

      test('one takes the node over from the other, and back', async () => {
        const { lab } = site
        const own = site.own(1)
        for (const binary of [ours === 1 ? GO : OURS, ours === 1 ? OURS : GO]) {
          await site.daemon(1).stop()
          const daemon = await lab.daemon(1, { binary: binary ?? '', args: ['-ip-masq'] })
          await daemon.waitReady()
          site.daemons[0] = daemon
          expect(site.own(1)).toBe(own)
          await site.connected()
          expect(await lab.node(1).ip('-br link show type tun')).toMatch(/^flannel0 .*\n$/)
          await traffic(site.pod(1).namespace, 'tcp', site.pod(2).address, MB)
        }
      })
    })
  }
})
