import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { createTunnel, loadAddon, type NativeTunnel } from '../../src/native.ts'
import { ensureAddon, enterNewNamespace } from './addons.ts'

const native = `${import.meta.dirname}/../../native`
const folder = mkdtempSync(join(tmpdir(), 'flannel-udp-'))
afterAll(() => rmSync(folder, { recursive: true }))

// Compiling for a sanitizer takes seconds, and minutes where others compile, too.
describe("the udp backend's C code withstands whatever arrives", { timeout: 300_000 }, () => {
  it.each(['address,undefined', 'thread'])('under -fsanitize=%s', (sanitizer) => {
    const program = join(folder, sanitizer)
    const sources = [`${native}/udp_packet.c`, `${native}/udp_tunnel.c`, `${import.meta.dirname}/udpfuzz.c`]
    const flags = ['-std=c11', '-Wall', '-Wextra', '-Werror', '-g', '-O1', '-pthread']
    const sanitize = [`-fsanitize=${sanitizer}`, '-fno-sanitize-recover=all']
    const cc = spawnSync(process.env.CC ?? 'cc', [...flags, ...sanitize, '-o', program, ...sources], {
      encoding: 'utf8',
    })
    expect(cc.stderr).toBe('')
    // Another seed each day: what it finds can be looked into with the same one.
    const seed = process.env.UDPFUZZ_SEED ?? String(Math.floor(Date.now() / 86_400_000))
    const { stdout, stderr, status } = spawnSync(program, [seed, '1000'], { encoding: 'utf8' })
    expect({ stdout, stderr, status, seed }).toEqual({ stdout: 'ok\n', stderr: '', status: 0, seed })
  })
})

describe.each([
  { variant: 'release', path: ensureAddon() },
  { variant: 'debug', path: ensureAddon({ debug: true }) },
])('a tunnel of the $variant addon', ({ path }) => {
  const addon = loadAddon(path)
  let leave: () => void
  beforeAll(() => {
    leave = enterNewNamespace()
  })
  afterAll(() => leave())

  function create(): NativeTunnel {
    const tunnel = createTunnel(addon)
    onTestFinished(() => tunnel.close())
    return tunnel
  }

  it('takes the first free name, and gives it back', () => {
    const first = create()
    expect(first.openDevice('flannel%d', 0)).toBe('flannel0')
    expect(create().openDevice('flannel%d', 0)).toBe('flannel1')
    first.close()
    expect(create().openDevice('flannel%d', 0)).toBe('flannel0')
  })

  it('can have either end anew while the thread runs', () => {
    const tunnel = create()
    expect(tunnel.bind(0, 8285)).toBe(0)
    for (let i = 0; i < 20; i++) {
      expect(tunnel.openDevice('flannel%d', 0)).toBe(`flannel${i % 2}`)
      expect(tunnel.setPeers(Uint32Array.of(1, 2, 3))).toBe(0)
      expect(tunnel.bind(0, 8285)).toBe(0)
    }
    expect(tunnel.counters()).toMatchObject({ sentPackets: 0, strangers: 0, lastOffender: 0 })
  })

  it('returns errnos', () => {
    const [EADDRINUSE, EBUSY] = [98, 16]
    const tunnel = create()
    expect(tunnel.bind(0, 8285)).toBe(0)
    expect(create().bind(0, 8285)).toBe(-EADDRINUSE)
    expect(tunnel.openDevice('flannel7', 0)).toBe('flannel7')
    expect(create().openDevice('flannel7', 0)).toBe(-EBUSY)
  })

  it('closes twice, and refuses any other use afterwards', () => {
    const tunnel = create()
    tunnel.openDevice('flannel%d', 0)
    tunnel.bind(0, 8285)
    tunnel.close()
    tunnel.close()
    const uses = [
      () => tunnel.openDevice('flannel%d', 0),
      () => tunnel.bind(0, 1),
      () => tunnel.setPeers(new Uint32Array(3)),
      () => tunnel.counters(),
    ]
    for (const use of uses) expect(use).toThrow('the tunnel is closed')
  })

  it('takes no nonsense', () => {
    const tunnel = create()
    const uses = [
      () => tunnel.openDevice('', 0),
      () => tunnel.openDevice('sixteen-letters-', 0),
      () => tunnel.openDevice('a b', 0),
      () => tunnel.openDevice('flannel%d', -1),
      () => tunnel.bind(0, 65_536),
      () => tunnel.bind(2 ** 32, 1),
      () => tunnel.setPeers(new Uint32Array(2)),
    ]
    for (const use of uses) expect(use).toThrow(TypeError)
    // A cast for every argument that the types forbid.
    const loose = addon as unknown as Record<string, (...values: unknown[]) => unknown>
    const handle = addon.tunnelCreate()
    const names = ['tunnelOpenDevice', 'tunnelBind', 'tunnelSetPeers', 'tunnelCounters', 'tunnelClose']
    for (const name of names) {
      for (const args of [[], [1], [{}, 'x', 1], [handle, {}, {}]]) {
        if (name !== 'tunnelCounters' && name !== 'tunnelClose')
          expect(() => loose[name]?.(...args)).toThrow(TypeError)
      }
      expect(() => loose[name]?.()).toThrow(TypeError)
      expect(() => loose[name]?.({})).toThrow(TypeError)
    }
  })
})
