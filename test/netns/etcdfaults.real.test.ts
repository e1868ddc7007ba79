/**
 * etcd in trouble, seen from one node. Node 1 reaches it through a proxy, node 2 does not, and their pods ping each other
 * all the while. What every fault has to leave as it was: the data plane, the process, and the peace of log and etcd.
 */
import { cpSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { asRoot, enableAuth } from './auth.ts'
import { Lab, leaseValue, monotonic, type PeerLease, PREFIX, waitFor } from './lab.ts'
import { lines } from './namespace.ts'
import { type Door, type Fault, type ProxyControl, startProxy } from './proxy.ts'
import { CONFIG, expectSoon, newPeer, Scene, timed, WINDOW_MS } from './scene.ts'
import { settled } from './settled.ts'
import { makeTls } from './tls.ts'

vi.setConfig({ testTimeout: 90_000, hookTimeout: 90_000 })

/** An outage in which what was asked when it began still hangs when it ends. */
const MOMENT_MS = 300
const HTML = '<html><body>It works!</body></html>\n'
const http = (head: string, body: string): string =>
  `HTTP/1.1 ${head}\r\nContent-Type: text/html\r\nContent-Length: ${body.length}\r\n\r\n${body}`
const CHUNKED =
  'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Etcd-Index: 5\r\nTransfer-Encoding: chunked\r\n\r\n'
const AGAIN = /Watching subnet leases again after \d+ failed attempts in \d+ s/
const pass = { kind: 'pass' } as const
const stall = { kind: 'stall' } as const

describe('one etcd behind a proxy', () => {
  let scene: Scene
  beforeAll(async () => {
    scene = await Scene.create()
  })
  afterAll(() => scene?.lab.close())

  type State = { door?: Door; toClient?: Fault; toServer?: Fault }
  const set = (state: State) => (): Promise<void> => scene.proxy.set(state)
  /** Open connections are reset, new ones get the fault. */
  const behind = (state: State) => async (): Promise<void> => {
    await scene.proxy.set(state)
    await scene.proxy.cut()
  }
  const heal = set({ door: 'open', toClient: pass, toServer: pass })
  /** Who answered for etcd is gone, with its connections. */
  const unmask = behind({ door: 'open' })
  const freeze = (frozen: boolean) => async (): Promise<void> => scene.lab.etcd.members[0]?.freeze(frozen)

  const wire = async (op: '-A' | '-D'): Promise<void> => {
    const node = scene.lab.address(1)
    const { switch: host } = scene.lab
    await host.run('iptables', op, 'INPUT', '-s', node, '-p', 'tcp', '--dport', '4001', '-j', 'DROP')
    await host.run('iptables', op, 'OUTPUT', '-d', node, '-p', 'tcp', '--sport', '4001', '-j', 'DROP')
  }
  /** It forgets its connections, and nobody at the other end hears of it. */
  const unplug = async (): Promise<void> => {
    await wire('-A')
    await scene.proxy.cut()
  }
  const plug = (): Promise<void> => wire('-D')

  test.each<[what: string, begin: () => Promise<unknown>, end: () => Promise<unknown>, complaint?: RegExp]>([
    ['refuses connections', behind({ door: 'refuse' }), heal, /connection was reset/],
    ['takes connections and is silent', behind({ door: 'silent' }), heal],
    [
      'is killed and started again',
      () => scene.lab.etcd.stop('SIGKILL'),
      () => scene.lab.etcd.restart(),
      /reset/,
    ],
    ['loses its power and comes back', unplug, plug],
    ['is frozen, its connections open', freeze(true), freeze(false)],
    ['stalls open connections', set({ toClient: stall, toServer: stall }), heal],
    ['stalls after it has taken the request', behind({ toClient: stall }), heal],
    ['answers HTML', behind({ door: { bytes: http('200 OK', HTML) } }), unmask, /is invalid json/],
    ['answers 503', behind({ door: { bytes: http('503 Service Unavailable', HTML) } }), unmask, /HTTP 503/],
    [
      'is behind a gateway that gives up',
      behind({ door: { bytes: http('504 Gateway Timeout', '') } }),
      unmask,
      /HTTP 504/,
    ],
    ['never ends an answer', behind({ door: { bytes: CHUNKED, endless: '6\r\n{"a": \r\n' } }), heal],
    [
      'never ends its headers',
      behind({ door: { bytes: 'HTTP/1.1 200 OK\r\n', endless: 'X-More: x\r\n' } }),
      heal,
    ],
    [
      'breaks off its answers',
      behind({ toClient: { kind: 'truncate', after: 150 } }),
      heal,
      /reset before the answer/,
    ],
    ['garbles its answers', behind({ toClient: { kind: 'corrupt', every: 40 } }), heal, /is this etcd/],
  ])('that %s', async (_, begin, end, complaint) => {
    const outcome = await scene.endure(begin, end)
    const { complaints, log, asked } = outcome
    // Half a request more for what falls on the edge of the window.
    expect(asked).toBeLessThan(1.5)
    expectSoon(outcome)
    expect(complaints.length).toBeLessThan(4)
    if (complaint === undefined) return
    expect(complaints.filter((line) => complaint.test(line)).length).toBeGreaterThan(0)
    expect(log.filter((line) => AGAIN.test(line))).toHaveLength(1)
  })

  test.each<[what: string, begin: () => Promise<unknown>, end: () => Promise<unknown>]>([
    ['takes connections and is silent', behind({ door: 'silent' }), heal],
    ['never ends an answer', behind({ door: { bytes: CHUNKED, endless: '6\r\n{"a": \r\n' } }), heal],
  ])('that for a moment %s', async (_, begin, end) => {
    expectSoon(await scene.endure(begin, end, MOMENT_MS))
  })

  test('that several wait for: watch, keeper and config watch together ask no more than one would', async () => {
    const { lab, daemon, proxy } = scene
    const own = `${PREFIX}/subnets/${daemon.leaseKey()}`
    const { complaints, asked } = await scene.endure(
      async () => {
        // They still hear that lease and config were written, but cannot ask any more.
        await proxy.set({ toServer: stall })
        await lab.etcd.put(own, (await lab.etcd.get(own))?.value ?? '', 80_000)
        await lab.etcd.config({ ...CONFIG, SubnetMin: '100.64.9.0' })
        await daemon.waitLog(/Error renewing lease /, 20_000)
        await proxy.set({ door: 'refuse', toServer: pass })
        await proxy.cut()
      },
      heal,
      3 * WINDOW_MS,
    )
    expect(asked).toBeLessThan(1.25)
    expect(complaints.filter((line) => /Error renewing lease /.test(line)).length).toBeGreaterThan(0)
    await daemon.waitLog(/ Renewed the lease after \d+ failed attempts in \d+ s/)
    await daemon.waitLog(/The network config in etcd has changed: SubnetMin/)
  })
})

describe('a store that is not what it was', () => {
  let scene: Scene
  beforeAll(async () => {
    scene = await Scene.create()
  })
  afterAll(() => scene?.lab.close())

  const kept = async (gone: readonly PeerLease[]): Promise<void> => {
    for (const peer of gone) expect(await scene.hasRoute(peer), peer.key).toBe(true)
  }
  const ownKeys = (): string[] => scene.daemons.map((daemon) => `${PREFIX}/subnets/${daemon.leaseKey()}`)
  const claimedAgain = (): Promise<unknown> =>
    waitFor(async () => (await Promise.all(ownKeys().map((key) => scene.lab.etcd.get(key)))).every(Boolean), {
      what: () => `the leases of both nodes: ${scene.daemon.log().slice(-2000)}`,
    })

  test('that wants a password from now on', async () => {
    const { lab, daemon, proxy } = scene
    await enableAuth(lab)
    const { complaints, log, asked } = await scene.endure(
      () => proxy.cut(),
      () => asRoot(lab, 'DELETE', '/v2/auth/enable'),
    )
    expect(asked).toBeLessThan(2)
    expect(complaints).toEqual([
      expect.stringMatching(/Watch subnets: .*check -etcd-username and -etcd-password/),
    ])
    expect(log.filter((line) => AGAIN.test(line))).toHaveLength(1)
    expect(daemon.running).toBe(true)
  })

  test('whose history is past the point where the node was cut off: what was deleted goes, what changed changes', async () => {
    const { lab, proxy, daemon } = scene
    const [gone, changed] = [newPeer(), newPeer()]
    await scene.learns({ peer: gone })
    await scene.learns({ peer: changed })
    await scene.unharmed(async () => {
      await proxy.set({ door: 'refuse' })
      await proxy.cut()
      await lab.etcd.delete(`${PREFIX}/subnets/${gone.key}`)
      await lab.etcd.putLease({ ...changed, publicIP: '10.200.250.1', mac: '02:00:00:ff:00:01' })
      await Promise.all(Array.from({ length: 1_100 }, (_, i) => lab.etcd.put('/elsewhere', String(i))))
      await proxy.set({ door: 'open' })
      await scene.learns()
      await settled(lab, daemon, 1)
    })
    expect(await scene.hasRoute(gone)).toBe(false)
  })

  test('restored from an older backup: the peers that it does not know stay, and may claim their subnets again', async () => {
    const { lab, daemon } = scene
    const [member] = lab.etcd.members
    const data = join(member?.dir ?? '', 'data')
    const backup = join(lab.dir, 'backup')
    await lab.etcd.stop('SIGTERM')
    cpSync(data, backup, { recursive: true })
    await lab.etcd.restart()
    const late = [newPeer(), newPeer(), newPeer()]
    for (const peer of late) await scene.learns({ peer })
    await scene.unharmed(async () => {
      await lab.etcd.stop('SIGKILL')
      rmSync(data, { recursive: true })
      cpSync(backup, data, { recursive: true })
      await lab.etcd.restart()
      await daemon.waitLog(/etcd has lost 3 subnet leases/)
      await scene.learns()
      await kept(late)
      for (const peer of late) await lab.etcd.putLease(peer)
      await settled(lab, daemon, 1)
      for (const { key } of late) await lab.etcd.delete(`${PREFIX}/subnets/${key}`)
      await settled(lab, daemon, 1)
    })
  })

  test('empty: both nodes claim their subnets again, and the others stay until they do', async () => {
    const { lab, daemon } = scene
    const peer = newPeer()
    await scene.learns({ peer })
    await scene.unharmed(async () => {
      await lab.etcd.replace()
      await claimedAgain()
      await daemon.waitLog(/The network config in etcd cannot be used any more, .*it was removed/)
      await scene.learns()
      await kept([peer])
      await lab.etcd.config(CONFIG)
      await daemon.waitLog(/The network config in etcd is the one in use again/)
    })
  })

  test.each([
    ['the folder of the leases', `${PREFIX}/subnets`],
    ['all of flannel', PREFIX],
  ])('from which somebody removed %s', async (_, folder) => {
    const { lab } = scene
    const peer = newPeer()
    await scene.learns({ peer })
    await scene.unharmed(async () => {
      await lab.etcd.delete(folder, true)
      await claimedAgain()
      await scene.learns()
      await kept([peer])
    })
    await lab.etcd.config(CONFIG)
  })
})

describe('three members', () => {
  let scene: Scene
  beforeAll(async () => {
    scene = await Scene.create({ members: 3 })
  })
  afterAll(() => scene?.lab.close())

  /** Milliseconds that an election may take, by etcd's defaults, on a busy machine. */
  const ELECTION = 10_000

  const leader = async (): Promise<number> => {
    const states = await Promise.all(
      scene.lab.etcd.members.map((member) => member.request('GET', '/v2/stats/self')),
    )
    return states.findIndex(({ body }) => 'state' in body && body.state === 'StateLeader')
  }

  test('lose their leader, then their quorum, and heal', async () => {
    const { lab, daemon } = scene
    const { members } = lab.etcd
    const first = await leader()
    await scene.unharmed(async () => {
      await members[first]?.stop('SIGKILL')
      await scene.learns({ timeout: ELECTION })
    })
    const second = (first + 1) % 3
    const { complaints, log, asked, recovery } = await scene.endure(
      async () => {
        await members[second]?.stop('SIGKILL')
        await Promise.all(scene.proxies.map((proxy) => proxy.cut()))
        await daemon.waitLog(/Watch subnets: .*unavailable or misconfigured.*no answer within/, 30_000)
      },
      async () => {
        for (const i of [first, second]) members[i]?.start()
        await lab.etcd.ready()
      },
    )
    // Each member is asked once a second.
    expect(asked).toBeLessThan(3 * 1.5)
    expect(recovery).toBeLessThan(ELECTION)
    expect(complaints.length).toBeLessThan(4)
    expect(log.filter((line) => AGAIN.test(line))).toHaveLength(1)
  })

  test('one of which hangs with its connections open, the very one that is asked', async () => {
    const { lab, daemon, proxies } = scene
    const { members } = lab.etcd
    const open = await Promise.all(proxies.map(async (proxy) => (await proxy.stats()).open))
    const asked = open.indexOf(Math.max(...open))
    const other = members.find((_, i) => i !== asked)
    const peer = newPeer()
    await scene
      .unharmed(async () => {
        members[asked]?.freeze(true)
        await proxies[asked]?.cut()
        const path = `/v2/keys${PREFIX}/subnets/${peer.key}`
        const put = (): Promise<boolean> | undefined =>
          other?.request('PUT', path, { value: leaseValue(peer) }).then(({ status }) => status < 300)
        await waitFor(put, { what: 'another member to take a lease', timeout: 30_000 })
        const what = (): string => `the route: ${daemon.log().slice(-2000)}`
        await waitFor(() => scene.hasRoute(peer), { what, timeout: 15_000 })
      })
      .finally(() => members[asked]?.freeze(false))
  })
})

describe('at the start', () => {
  let lab: Lab
  let proxy: ProxyControl
  beforeAll(async () => {
    lab = await Lab.create({ nodes: 2 })
    await (await lab.startEtcd()).config(CONFIG)
    const target = { host: lab.outside, port: 2379 }
    proxy = await startProxy(lab.switch, { host: lab.outside, port: 4001 }, target)
    lab.onClose(() => proxy.close())
  })
  afterAll(() => lab?.close())

  test('no endpoint answers: it is asked once a second, said once and counted, and READY=1 follows at once', async () => {
    await proxy.set({ door: 'refuse' })
    const daemon = await lab.daemon(1, { args: ['-etcd-endpoints', `http://${lab.outside}:4001`] })
    await daemon.waitLog(/ error Couldn't fetch network config: .*connection was reset/)
    const { accepted } = await proxy.stats()
    const from = monotonic()
    await sleep(WINDOW_MS)
    expect(((await proxy.stats()).accepted - accepted) / ((monotonic() - from) / 1000)).toBeLessThan(1.5)
    await proxy.set({ door: 'open' })
    expectSoon(await timed(() => daemon.waitReady()))
    expect(daemon.log()).toMatch(/Fetched the network config after \d+ failed attempts in \d+ s/)
    expect(lines(daemon.log()).filter((line) => / (warn|error) /.test(line)).length).toBeLessThan(3)
  })

  test('some endpoints are dead, refused or without a host: the one that lives will do', async () => {
    const dead = [`http://${lab.outside}:4009`, `http://${lab.outside.replace(/\d+$/, '99')}:2379`]
    const daemon = await lab.daemon(2, {
      args: ['-etcd-endpoints', [...dead, `http://${lab.outside}:2379`].join(',')],
    })
    await daemon.waitReady()
    expect(lines(daemon.log()).filter((line) => / (warn|error) /.test(line))).toEqual([])
  })
})

test('certificates, keys and the CA itself are replaced on disk', async () => {
  const scene = await Scene.create({ tls: true })
  try {
    const { lab, daemon } = scene
    const addresses = lab.etcd.members.map(({ address }) => address)
    await scene.unharmed(async () => {
      await lab.etcd.stop('SIGKILL')
      const { clientKeyFile } = await makeTls(join(lab.dir, 'etcd'), addresses)
      const key = readFileSync(clientKeyFile)
      writeFileSync(clientKeyFile, key.subarray(0, key.length / 2))
      await daemon.waitLog(/The replaced TLS files for etcd cannot be used, keeping the previous ones/)
      writeFileSync(clientKeyFile, key)
      await lab.etcd.restart()
      expectSoon(await timed(() => scene.learns()))
      expect(daemon.log()).toMatch(/The TLS files for etcd were replaced; new connections use them/)
    })
  } finally {
    await scene.lab.close()
  }
})
