import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { BackendContext, Network } from '../../../src/backend/backend.ts'
import { openBackend } from '../../../src/backend/extension/backend.ts'
import { systemClock } from '../../../src/clock.ts'
import type { Logger } from '../../../src/log.ts'
import { Rtnl } from '../../../src/netlink/conn.ts'
import type { Lease } from '../../../src/subnet/lease.ts'
import { subnet } from '../../conformance/node.ts'
import { ip } from '../../conformance/operator.ts'
import { FakeKernel } from '../../fakes/kernel.ts'
import { lines } from '../../netns/namespace.ts'
import { waitFor } from '../../netns/wait.ts'

let dir: string
let stop: AbortController
let logged: string[]
let running: Promise<void> | undefined

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'flannel-extension-'))
  stop = new AbortController()
  logged = []
  running = undefined
})
afterEach(async () => {
  stop.abort()
  await running
  rmSync(dir, { recursive: true, force: true })
})

const path = (name: string) => join(dir, name)
const told = (): readonly string[] =>
  existsSync(path('told')) ? lines(readFileSync(path('told'), 'utf8')) : []
/** Writes down what a command sees. */
const tell = (what: string) =>
  `read -r data; echo "${what} $SUBNET $PUBLIC_IP \${NETWORK-} $data" >> ${path('told')}`

function context(options: Record<string, unknown>): BackendContext {
  const at =
    (level: string): Logger['info'] =>
    (message) =>
      void logged.push(`${level} ${message}`)
  const address = ip('192.0.2.1')
  return {
    rtnl: new Rtnl(new FakeKernel().open()),
    generic: () => new Rtnl(new FakeKernel().open()),
    log: { trace: at('T'), debug: at('D'), info: at('I'), warn: at('W'), error: at('E') },
    clock: systemClock,
    network: subnet('10.244.0.0/16'),
    subnetLen: 24,
    options,
    underlay: { index: 1, name: 'eth0', mtu: 1500, address, publicIP: address },
    resyncPeriod: 60_000,
    env: { PATH: process.env.PATH, FLANNELD_ETCD_PASSWORD: 'secret' },
    signal: stop.signal,
  }
}

function lease(n: number, backendData: unknown, changes: Partial<Lease['attributes']> = {}): Lease {
  const attributes = { publicIP: ip(`192.0.2.${n}`), backendType: 'extension', backendData, ...changes }
  return { subnet: subnet(`10.244.${n}.0/24`), attributes, ttl: 1, modifiedIndex: n }
}

async function start(options: Record<string, unknown>): Promise<Network> {
  const backend = await openBackend(context(options))
  const own = { ...lease(1, undefined), attributes: backend.attributes(undefined) }
  const network = await backend.start(own, { drain: () => undefined })
  running = network.run(stop.signal)
  return network
}

const until = (count: number) =>
  waitFor(() => told().length >= count, { what: () => `${count} lines, not ${told().join(' | ')}` })

describe('the extension backend', () => {
  it('publishes what its first command says, errors included, and tells the second what the node has got', async () => {
    const options = {
      preStartupCommand: 'read -r nothing; echo "a  b"; echo c >&2; env > /dev/null',
      PostStartupCommand: tell('post'),
    }
    const backend = await openBackend(context(options))
    expect(backend.attributes(undefined)).toEqual({
      publicIP: ip('192.0.2.1'),
      backendType: 'extension',
      backendData: 'a  b\nc',
    })
    await start(options)
    expect(told()).toEqual(['post 10.244.1.0/24 192.0.2.1 10.244.0.0/16'])
  })

  it('publishes nothing without a first command', async () => {
    const backend = await openBackend(context({}))
    expect(backend.attributes(undefined).backendData).toBeUndefined()
  })

  it.each(['PreStartupCommand', 'PostStartupCommand'])('does not start when its %s fails', async (name) => {
    await expect(start({ [name]: 'echo why; exit 7' })).rejects.toMatchObject({
      name: 'BackendError',
      message:
        'Error registering network: failed to run command: echo why; exit 7 Err: exit status 7 Output: why',
    })
  })

  it('refuses commands that are no strings', async () => {
    await expect(openBackend(context({ SubnetAddCommand: ['ip'] }))).rejects.toThrow(
      'error decoding extension backend config: SubnetAddCommand must be a string in quotes',
    )
  })

  it('runs one command an event, in their order, and the last when it stops', async () => {
    const network = await start({
      SubnetAddCommand: `sleep 0.02; ${tell('add')}`,
      SubnetRemoveCommand: tell('remove'),
      ShutdownCommand: tell('shutdown'),
    })
    network.replaceLeases([lease(2, 'two'), lease(3, 'three')])
    await until(2)
    network.putLease(lease(3, 'three'))
    network.putLease(lease(4, 'four'))
    network.removeLease(subnet('10.244.2.0/24'))
    network.putLease(lease(3, 'other'))
    await until(5)
    network.replaceLeases([lease(4, 'four')])
    await until(6)
    stop.abort()
    await running
    expect(told()).toEqual([
      'add 10.244.2.0/24 192.0.2.2  two',
      'add 10.244.3.0/24 192.0.2.3  three',
      'add 10.244.4.0/24 192.0.2.4  four',
      'remove 10.244.2.0/24 192.0.2.2  two',
      'add 10.244.3.0/24 192.0.2.3  other',
      'remove 10.244.3.0/24 192.0.2.3  other',
      'shutdown 10.244.1.0/24 192.0.2.1 10.244.0.0/16',
    ])
    expect(network.status.peers).toBe(1)
    expect(logged).toContain('I Subnet added: 10.244.2.0/24 via 192.0.2.2')
    expect(logged).toContain('I Subnet removed: 10.244.2.0/24')
  })

  it('runs a command that failed again, once it has logged it, and keeps no other peer waiting', async () => {
    writeFileSync(path('bad'), '')
    const network = await start({
      SubnetAddCommand: `if [ $SUBNET = 10.244.2.0/24 ] && [ -e ${path('bad')} ]; then echo no >&2; exit 1; fi; ${tell('add')}`,
    })
    network.replaceLeases([lease(2, 'two'), lease(3, 'three')])
    await until(1)
    expect(told()).toEqual(['add 10.244.3.0/24 192.0.2.3  three'])
    rmSync(path('bad'))
    await until(2)
    expect(told()[1]).toBe('add 10.244.2.0/24 192.0.2.2  two')
    expect(logged.filter((line) => line.startsWith('E'))).toHaveLength(1)
  })

  it("never lets a shell read what a lease says: CVE-2026-32241's kind of data stays data", async () => {
    const evil = `$(touch ${path('owned')}); \`touch ${path('owned')}\`; '; touch ${path('owned')} #`
    const network = await start({ SubnetAddCommand: tell('add') })
    network.putLease(lease(2, evil))
    network.putLease(lease(3, 'next'))
    await until(2)
    expect(told()[0]).toBe(`add 10.244.2.0/24 192.0.2.2  ${evil}`)
    expect(existsSync(path('owned'))).toBe(false)
  })

  it('hands on data of any length', async () => {
    const network = await start({ SubnetAddCommand: `wc -c >> ${path('told')}` })
    network.putLease(lease(2, 'x'.repeat(300_000)))
    await until(1)
    expect(told()[0]?.trim()).toBe('300001')
  })

  it.each([
    ['another type', lease(2, 'x', { backendType: 'vxlan' }), 'Ignoring non-extension subnet: type=vxlan'],
    ['data that is no string', lease(2, { a: 1 }), 'failed to unmarshal backend data of 10.244.2.0/24'],
  ])('skips a peer with %s, and says so once', async (_, bad, words) => {
    const network = await start({ SubnetAddCommand: tell('add') })
    for (let i = 0; i < 3; i++) network.replaceLeases([bad, lease(3, 'x')])
    await until(1)
    expect(logged.filter((line) => line.startsWith('W'))).toEqual([expect.stringContaining(words)])
    expect(network.status).toMatchObject({ peers: 1, skipped: 1 })
  })

  it('stops while a command hangs', async () => {
    const network = await start({ SubnetAddCommand: `echo begun >> ${path('told')}; sleep 1000` })
    network.putLease(lease(2, 'x'))
    await until(1)
    stop.abort()
    await running
    expect(logged.filter((line) => line.startsWith('E'))).toEqual([])
  })

  it('tells of each peer whether its command was run as the peer is now, and went well', async () => {
    const network = await start({ SubnetAddCommand: 'test $SUBNET != 10.244.3.0/24' })
    const states = () =>
      [...(network.peers?.() ?? [])].map(({ route, entries }) => `${route} ${entries.command}`)
    network.replaceLeases([lease(2, undefined), lease(3, undefined)])
    expect(states()).toEqual(['command missing', 'command missing'])
    await waitFor(() => states().join() === 'command ok,command missing', { what: () => states().join() })
    await waitFor(() => network.status.tables.command?.failed === 1, { what: 'the failure' })
    expect(network.status.tables.command).toEqual({ wanted: 2, held: 1, failed: 1 })
    network.putLease(lease(2, undefined, { publicIP: ip('192.0.2.77') }))
    expect(states()[0]).toBe('command differs')
    await waitFor(() => states()[0] === 'command ok', { what: () => states().join() })
    network.replaceLeases([])
    await waitFor(() => network.status.tables.command?.failed === 0, { what: 'no failure' })
    expect(states()).toEqual([])
  })
})
