import { spawn, spawnSync } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import { afterAll, describe, expect, it, onTestFinished } from 'vitest'
import { COMPILE_LESS } from '../../src/daemon.ts'
import { loadAddon, NativeError, NativeSocket, notify, openNetlinkSocket, trim } from '../../src/native.ts'
import {
  NETLINK_ADD_MEMBERSHIP,
  NETLINK_ROUTE,
  NLM_F_DUMP,
  NLM_F_REQUEST,
  RTM_GETLINK,
  RTM_NEWLINK,
  SOL_NETLINK,
} from '../../src/netlink/constants.ts'
import { readMessages } from '../../src/netlink/wire.ts'
import { encodeMessage } from '../netlink/payload.ts'
import { ensureAddon } from './addons.ts'

/** asm-generic/socket.h */
const SOL_SOCKET = 1

const EAGAIN = 11
const EBADF = 9
const EINVAL = 22
const EALREADY = 114
const EPROTONOSUPPORT = 93

const dumpLinks = encodeMessage({
  type: RTM_GETLINK,
  flags: NLM_F_REQUEST | NLM_F_DUMP,
  sequence: 7,
  portId: 0,
  payload: new Uint8Array(16),
})

const folder = mkdtempSync(join(tmpdir(), 'flannel-native-'))
afterAll(() => rmSync(folder, { recursive: true }))

describe.each([
  { variant: 'release', path: ensureAddon() },
  { variant: 'debug', path: ensureAddon({ debug: true }) },
])('the $variant addon', ({ path }) => {
  const addon = loadAddon(path)

  function open(): NativeSocket {
    const socket = openNetlinkSocket(NETLINK_ROUTE, addon)
    if (typeof socket === 'number') throw new Error(`errno ${socket}`)
    onTestFinished(() => socket.close())
    return socket
  }

  it('collects garbage when it trims', async () => {
    const reference = new WeakRef({ of: 'no use' })
    await nextTurn()
    trim(addon)
    expect(reference.deref()).toBeUndefined()
  })

  it('leaves code alone that no file backs: Node with large pages lives on when it trims', () => {
    const script = `
      process.getBuiltinModule('node:module').createRequire('/')(process.argv[1]).trim()
      process.stdout.write(process.getBuiltinModule('node:zlib').gzipSync('x').length > 0 ? 'alive' : '')`
    const args = ['--use-largepages=silent', '-e', script, path]
    const { status, stdout } = spawnSync(process.execPath, args, { encoding: 'utf8' })
    expect({ status, stdout }).toEqual({ status: 0, stdout: 'alive' })
  })

  it.each([
    { flags: '', compiler: 'TurboFan', bits: 0b10 },
    { flags: COMPILE_LESS, compiler: 'Maglev', bits: 0b01 },
  ])('sets flags of V8: with "$flags" the best compiler is $compiler', ({ flags, bits }) => {
    const script = `
      const { setV8Flags } = process.getBuiltinModule('node:module').createRequire('/')(process.argv[1])
      setV8Flags(Buffer.from(process.argv[2]))
      const add = (a, b) => a + b
      for (let i = 0; i < 1e7; i++) add(i, 1)
      process.stdout.write(String((%GetOptimizationStatus(add) >> 5) & 3))`
    const natives = ['--allow-natives-syntax', '--no-concurrent-recompilation']
    const { stdout, stderr } = spawnSync(process.execPath, [...natives, '-e', script, path, flags], {
      encoding: 'utf8',
    })
    expect({ bits: Number(stdout), stderr }).toEqual({ bits, stderr: '' })
  })

  it('asks the kernel and receives its answer', () => {
    const socket = open()
    expect(socket.bind()).toBeGreaterThan(0)
    expect(socket.send(dumpLinks)).toBe(0)
    const buffer = new Uint8Array(65536)
    const length = socket.receive(buffer)
    expect([...readMessages(buffer.subarray(0, length))][0]).toMatchObject({ type: RTM_NEWLINK, sequence: 7 })
  })

  it('says how long a datagram was that did not fit', () => {
    const socket = open()
    socket.bind()
    socket.send(dumpLinks)
    const whole = open()
    whole.bind()
    whole.send(dumpLinks)
    expect(socket.receive(new Uint8Array(20))).toBe(whole.receive(new Uint8Array(65536)))
  })

  it('returns errnos', () => {
    const socket = open()
    expect(socket.receive(new Uint8Array(16))).toBe(-EAGAIN)
    expect(socket.setOption(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, 99_999)).toBe(-EINVAL)
    expect(openNetlinkSocket(255, addon)).toBe(-EPROTONOSUPPORT)
    // No program, a torn one, one that is too long, and one that does not end.
    for (const length of [0, 7, 8 * 65, 8]) expect(socket.attachFilter(new Uint8Array(length))).toBe(-EINVAL)
  })

  it('closes twice, and refuses any other use afterwards', () => {
    const socket = open()
    socket.watch(() => undefined)
    socket.close()
    socket.close()
    const uses = [
      () => socket.bind(),
      () => socket.send(dumpLinks),
      () => socket.sendTo(dumpLinks, dumpLinks.length, 0),
      () => socket.receive(new Uint8Array(16)),
      () => socket.setOption(SOL_SOCKET, 8, 1),
      () => socket.attachFilter(new Uint8Array(8)),
      () => socket.watch(() => undefined),
    ]
    for (const use of uses) expect(use).toThrow('the socket is closed')
  })

  it('is safe below its JavaScript guard, too: a closed handle is EBADF, a wrong argument an exception', () => {
    const handle = addon.open(NETLINK_ROUTE)
    if (typeof handle === 'number') throw new Error(`errno ${handle}`)
    addon.close(handle)
    addon.close(handle)
    expect(addon.send(handle, dumpLinks, dumpLinks.length)).toBe(-EBADF)
    expect(addon.sendTo(handle, dumpLinks, dumpLinks.length, 0)).toBe(-EBADF)
    expect(addon.receive(handle, new Uint8Array(16))).toBe(-EBADF)
    expect(addon.bind(handle)).toBe(-EBADF)
    expect(addon.setOption(handle, SOL_SOCKET, 8, 1)).toBe(-EBADF)
    expect(addon.attachFilter(handle, new Uint8Array(8))).toBe(-EBADF)
    expect(addon.watch(handle, () => undefined)).toBe(-EBADF)
    // A cast for every argument that the types forbid.
    const loose = addon as unknown as Record<string, (...values: unknown[]) => unknown>
    for (const name of [
      'open',
      'openArp',
      'setOption',
      'attachFilter',
      'bind',
      'send',
      'sendTo',
      'receive',
      'watch',
      'close',
      'notify',
    ]) {
      for (const values of [[], [{}], [{}, {}, {}, {}], [null, null, null, null]] satisfies unknown[][]) {
        expect(() => loose[name]?.(...values), `${name}(${values.length})`).toThrow('bad argument')
      }
    }
    expect(() => addon.send(handle, new Uint8Array(4), 5)).toThrow('bad argument')
    expect(() => addon.sendTo(handle, new Uint8Array(4), 5, 0)).toThrow('bad argument')
  })

  it('calls back while there is something to receive, and only then', async () => {
    const socket = open()
    socket.bind()
    let calls = 0
    let received = 0
    expect(
      socket.watch(() => {
        calls++
        // The first two calls leave everything in the queue.
        if (calls > 2) while (socket.receive(new Uint8Array(65536)) > 0) received++
      }),
    ).toBe(0)
    expect(socket.watch(() => undefined)).toBe(-EALREADY)
    await nextTurn()
    expect(calls).toBe(0)
    socket.send(dumpLinks)
    while (received === 0) await nextTurn()
    expect(calls).toBe(3)
    for (let turn = 0; turn < 20; turn++) await nextTurn()
    expect(calls).toBe(3)
  })

  it('lets the callback close the socket', async () => {
    const socket = open()
    socket.bind()
    let calls = 0
    socket.watch(() => {
      calls++
      socket.close()
    })
    socket.send(dumpLinks)
    while (calls === 0) await nextTurn()
    for (let turn = 0; turn < 20; turn++) await nextTurn()
    expect(calls).toBe(1)
  })

  it.each([
    ['ends by itself once its watched socket is closed', 's.close()', 0, 'exit'],
    ['exits with a watched socket open', 'process.exit(3)', 3, 'exit'],
    ['exits with an unwatched socket open, collected or not', 'u = undefined; gc()', 0, 'close'],
    ['throws from the callback as from any other', 's.send(dump)', 1, 'error: from callback'],
  ])('%s', (_, action, status, output) => {
    const script = join(folder, `${randomUUID()}.ts`)
    writeFileSync(
      script,
      `import { loadAddon, openNetlinkSocket } from ${JSON.stringify(join(import.meta.dirname, '../../src/native.ts'))}
       const addon = loadAddon(${JSON.stringify(path)})
       const dump = new Uint8Array(${JSON.stringify([...dumpLinks])})
       let u: unknown = openNetlinkSocket(0, addon)
       const s = openNetlinkSocket(0, addon)
       if (typeof s === 'number') throw new Error('open')
       s.bind()
       process.on('exit', () => console.log('exit'))
       process.on('uncaughtException', (error) => { console.log('error: ' + error.message); process.exit(1) })
       if (${output === 'close'}) { s.close(); console.log('close') }
       else s.watch(() => { throw new Error('from callback') })
       ${action}`,
    )
    const child = spawnSync(process.execPath, ['--expose-gc', script], { encoding: 'utf8', timeout: 30_000 })
    expect(child.stderr).toBe('')
    expect(child.stdout).toContain(output)
    expect([child.status, child.signal]).toEqual([status, null])
  })

  it('works in worker threads, and is gone with them', async () => {
    const native = JSON.stringify(join(import.meta.dirname, '../../src/native.ts'))
    const work = `
      const { parentPort } = require('node:worker_threads')
      import(${native}).then(({ loadAddon, openNetlinkSocket }) => {
        const socket = openNetlinkSocket(0, loadAddon(${JSON.stringify(path)}))
        socket.bind()
        socket.watch(() => { if (socket.receive(new Uint8Array(65536)) > 0) parentPort.postMessage('received') })
        socket.send(new Uint8Array(${JSON.stringify([...dumpLinks])}))
      })`
    for (let round = 0; round < 3; round++) {
      const workers = [new Worker(work, { eval: true }), new Worker(work, { eval: true })]
      await Promise.all(workers.map((worker) => once(worker, 'message')))
      // They end with their sockets open and watched.
      for (const worker of workers) expect(await worker.terminate()).toBe(1)
    }
  })

  it('refuses to send to an address that is none, or has no reader', () => {
    expect(() => notify(join(folder, 'nobody'), 'READY=1', addon)).toThrow(
      new NativeError(`notify ${join(folder, 'nobody')}: ENOENT`, 'ENOENT'),
    )
    expect(() => notify('', 'READY=1', addon)).toThrow('ENAMETOOLONG')
    expect(() => notify(`/${'x'.repeat(108)}`, 'READY=1', addon)).toThrow('ENAMETOOLONG')
    expect(() => notify(`@${'x'.repeat(107)}`, 'READY=1', addon)).toThrow('ECONNREFUSED')
  })

  it.each([
    ['a path', () => join(folder, randomUUID())],
    ['an abstract name', () => `@flannel-${randomUUID()}`],
  ])('sends one datagram to %s', async (_, name) => {
    const address = name()
    // Node has no unix datagram sockets; Python, which every Debian has, does.
    const reader = spawn('python3', [join(import.meta.dirname, 'datagram.py'), address])
    onTestFinished(() => void reader.kill())
    const lines = createInterface(reader.stdout)[Symbol.asyncIterator]()
    expect((await lines.next()).value).toBe('bound')
    notify(address, 'READY=1\nSTATUS=up', addon)
    expect((await lines.next()).value).toBe(JSON.stringify('READY=1\nSTATUS=up'))
  })
})

describe('the checks in front of the addon', () => {
  ensureAddon()
  const socket = openNetlinkSocket(NETLINK_ROUTE)
  afterAll(() => typeof socket === 'number' || socket.close())

  it('takes nothing that the C code would have to doubt', () => {
    if (!(socket instanceof NativeSocket)) throw new Error(`errno ${socket}`)
    // Casts stand for callers that got their types wrong.
    const bad = {} as never
    for (const use of [
      () => openNetlinkSocket(1.5),
      () => openNetlinkSocket(2 ** 31),
      () => socket.setOption(1, bad, 1),
      () => socket.attachFilter(bad),
      () => socket.send(bad),
      () => socket.send(new Uint8Array(4), 5),
      () => socket.send(new Uint8Array(4), -1),
      () => socket.sendTo(bad, 4, 0),
      () => socket.sendTo(new Uint8Array(4), 5, 0),
      () => socket.sendTo(new Uint8Array(4), 4, -1),
      () => socket.receive(bad),
      () => socket.watch(bad),
      () => notify(bad, 'READY=1'),
    ]) {
      expect(use).toThrow(TypeError)
    }
  })

  it('says in one line that the addon is not there, or is none', () => {
    expect(() => loadAddon(join(folder, 'flannel.node'))).toThrow(NativeError)
    writeFileSync(join(folder, 'other.node'), 'no addon')
    expect(() => loadAddon(join(folder, 'other.node'))).toThrow(
      /^load the netlink addon: [^\n]*; run make build$/,
    )
  })
})
