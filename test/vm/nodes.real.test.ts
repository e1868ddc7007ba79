/** Backends whose devices not every kernel has, daemon to daemon; for `make vm-test`. FLANNEL_PEER adds Go flannel's ipip. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type Daemon, Lab, OURS, waitFor } from '../netns/lab.ts'
import { startMirror } from '../netns/mirror.ts'
import { lines } from '../netns/namespace.ts'

const { FLANNEL_PEER: GO } = process.env
/** Milliseconds: a start takes seconds here. */
const PATIENCE = 120_000

let lab: Lab

beforeEach(async () => {
  lab = await Lab.create({ nodes: 2 })
  await lab.startEtcd()
})
afterEach(() => lab?.close())

const configure = (backend: unknown): Promise<unknown> =>
  lab.etcd.config(JSON.stringify({ Network: '172.30.0.0/16', SubnetLen: 24, Backend: backend }))

async function pair(binaries: readonly string[]): Promise<readonly [Daemon, Daemon]> {
  const daemons = []
  for (const [i, binary] of binaries.entries()) {
    const daemon = await lab.daemon(i + 1, { binary })
    await daemon.waitReady(PATIENCE)
    daemons.push(daemon)
  }
  return daemons as [Daemon, Daemon]
}

async function expectTraffic(daemons: readonly [Daemon, Daemon]): Promise<void> {
  const [first, second] = [await lab.pod(daemons[0]), await lab.pod(daemons[1])]
  for (const [from, to] of [
    [first, second],
    [second, first],
  ] as const)
    await waitFor(() => from.namespace.ping(to.address), { what: 'pods', timeout: PATIENCE })
  const mirror = await startMirror(second.namespace)
  lab.onClose(() => mirror.close())
  expect(await mirror.seenFrom(first.namespace, second.address)).toBe(first.address)
  // As large as the network takes, and not to be fragmented.
  const mtu = Number(daemons[0].subnetEnv().FLANNEL_MTU)
  await first.namespace.run(
    'ping',
    '-n',
    '-c',
    '1',
    '-W',
    '10',
    '-M',
    'do',
    '-s',
    String(mtu - 28),
    second.address,
  )
}

const subnetOf = (daemon: Daemon): string => daemon.leaseKey().replace('-', '/')

describe.each<{ readonly names: readonly string[]; readonly binaries: readonly string[] }>([
  { names: ['ours', 'ours'], binaries: [OURS, OURS] },
  ...(GO
    ? [
        { names: ['ours', 'Go'], binaries: [OURS, GO] },
        { names: ['Go', 'ours'], binaries: [GO, OURS] },
      ]
    : []),
])('ipip, node 1 and 2: $names', ({ binaries }) => {
  test.each([false, true])('DirectRouting %s: pods talk', async (DirectRouting) => {
    await configure({ Type: 'ipip', DirectRouting })
    const daemons = await pair(binaries)
    const device = DirectRouting ? 'eth0' : 'flannel.ipip'
    for (const [i, there] of [
      [1, daemons[1]],
      [2, daemons[0]],
    ] as const) {
      const wanted = `${subnetOf(there)} via ${lab.address(3 - i)} dev ${device} onlink`
      await waitFor(async () => (await lab.node(i).routes()).includes(wanted), {
        what: wanted,
        timeout: PATIENCE,
      })
      expect(daemons[i - 1]?.subnetEnv().FLANNEL_MTU).toBe('1480')
    }
    await expectTraffic(daemons)
  })
})

test.each([
  ['ipip', 'flannel.ipip', 'IPIP'],
  ['wireguard', 'flannel-wg', 'WireGuard'],
])('doctor finds nothing amiss with %s, and a route that is lost', async (Type, device, name) => {
  await configure({ Type })
  const [first, second] = await pair([OURS, OURS])
  await lab.node(1).run('sysctl', '-q', '-w', 'net.ipv4.ip_forward=1')
  const words = async (...args: string[]): Promise<string> => {
    const command = [OURS, 'doctor', '-control-socket', first.controlSocket, ...args]
    return (await lab.node(1).run('sh', '-c', '"$@"; true', 'sh', ...command)).replaceAll(/\s+/g, ' ')
  }
  await waitFor(async () => / All is well: /.test(await words()), {
    what: 'all to be well',
    timeout: PATIENCE,
  })
  const well = await words()
  expect(well).toMatch(new RegExp(`ok kernel: Linux \\S+ makes ${name} devices`))
  expect(well).toContain(`ok device: ${device} is as it should be`)
  expect(well).toContain('ok peers: 1 of 1 answer through the tunnel')
  // The daemon would mend it before anybody can look.
  first.signal('SIGSTOP')
  const lost = Type === 'ipip' ? subnetOf(second) : '172.30.0.0/16'
  await lab.node(1).ip(`route del ${lost} dev ${device}`)
  const without = ['-control-socket=/nowhere/sock', '-iface=eth0', `-subnet-file=${first.subnetFile}`]
  const found = await words('-ping=false', ...lab.etcd.flags, ...without)
  first.signal('SIGCONT')
  expect(found).toContain(`FAIL routes: 1 amiss: ${lost} is missing`)
})

test('wireguard: pods talk, encrypted, and go on after a restart and after a change of the key', async () => {
  await configure({ Type: 'wireguard', PSK: Buffer.alloc(32, 7).toString('base64') })
  const daemons = await pair([OURS, OURS])
  await expectTraffic(daemons)
  const [first, second] = daemons
  const key = (await lab.node(1).run('wg', 'show', 'flannel-wg', 'public-key')).trim()
  const dump = async (i: number) => lines(await lab.node(i).run('wg', 'show', 'flannel-wg', 'dump')).slice(1)
  const words = (await dump(2)).map((line) => line.split('\t'))
  expect(words).toHaveLength(1)
  const [publicKey, psk, endpoint, allowed, handshake] = words[0] ?? []
  expect([publicKey, endpoint, allowed]).toEqual([key, `${lab.address(1)}:51820`, subnetOf(first)])
  expect(psk).not.toBe('(none)')
  expect(Number(handshake)).toBeGreaterThan(0)
  for (const daemon of daemons) {
    expect(daemon.subnetEnv().FLANNEL_MTU).toBe('1420')
    expect(daemon.log()).not.toContain(psk)
  }

  const talk = (): Promise<boolean> => lab.node(2).ping(subnetOf(first).replace(/0\/.*/, '1'), 2)
  await first.stop()
  const again = await lab.daemon(1)
  await again.waitReady(PATIENCE)
  expect((await lab.node(1).run('wg', 'show', 'flannel-wg', 'public-key')).trim()).toBe(key)
  await waitFor(talk, { what: 'an answer after the restart', timeout: PATIENCE })

  await again.stop()
  await lab.node(1).run('rm', `${again.runDir}/wgkey`)
  const rotated = await lab.daemon(1)
  await rotated.waitReady(PATIENCE)
  const fresh = (await lab.node(1).run('wg', 'show', 'flannel-wg', 'public-key')).trim()
  expect(fresh).not.toBe(key)
  await waitFor(async () => (await dump(2)).map((line) => line.split('\t')[0]).join() === fresh, {
    what: 'the peer with the new key alone',
    timeout: PATIENCE,
  })
  await waitFor(talk, { what: 'an answer with the new key', timeout: PATIENCE })
  await second.stop()
})
