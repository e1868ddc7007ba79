import { execFileSync, spawnSync } from 'node:child_process'
import {
  appendFileSync,
  chmodSync,
  copyFileSync,
  linkSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { type Architecture, architectures, emulator, isNative, nodePackage, tool } from './architecture.ts'
import { buildAddon } from './build-addon.ts'
import { writeCodeCache } from './code-cache.ts'

/**
 * Builds `out/flanneld-linux-<architecture>` from `dist/`: Node, stripped, with the bundle, its code cache and the addon inside
 * (https://nodejs.org/docs/latest-v24.x/api/single-executable-applications.html). `out/flanneld` is the one of this machine.
 * The same sources make the same bytes.
 *
 *     node scripts/binary.ts [amd64] [arm64]
 */
const root = dirname(import.meta.dirname)
const out = join(root, 'out')

/** Builds the executable for one architecture and writes it to `target`. `dist/` must be there. */
export function buildBinary(architecture: Architecture, target: string): void {
  const parts = `${target}.parts`
  mkdirSync(parts, { recursive: true })
  const executable = join(parts, 'flanneld')
  const cache = join(parts, 'flanneld.cache')
  const node = join(nodePackage(architecture), 'bin/node')
  const bundles = ['flanneld.cjs', 'tools.cjs', 'jsonlog.cjs', 'probe.cjs']
  const assets = [...bundles, 'flanneld.cache', 'flannel.node']
  for (const name of ['start.cjs', ...bundles]) copyFileSync(join(root, 'dist', name), join(parts, name))
  writeCodeCache([...emulator(architecture), node], cache)
  buildAddon({ cc: tool(architecture, 'gcc'), out: join(parts, 'flannel.node') })
  const config = {
    main: 'start.cjs',
    output: 'blob',
    disableExperimentalSEAWarning: true,
    // A NODE_OPTIONS that is meant for other programs is none of the daemon's business.
    execArgv: nodeFlags(),
    execArgvExtension: 'none',
    assets: Object.fromEntries(assets.map((name) => [name, name])),
  }
  writeFileSync(join(parts, 'sea.json'), JSON.stringify(config))
  const assemble = (): void => {
    // Names go into the blob as they are given: relative ones, so that it is the same in every checkout.
    execFileSync(process.execPath, ['--experimental-sea-config', 'sea.json'], { cwd: parts, stdio: 'pipe' })
    copyFileSync(node, executable)
    chmodSync(executable, 0o755)
    execFileSync(tool(architecture, 'strip'), [executable])
    inject(executable, join(parts, 'blob'))
  }
  assemble()
  // V8 copies a cache that is not aligned as a pointer is: half a millisecond of a start. The main script comes before it.
  const position = readFileSync(executable).indexOf(readFileSync(cache))
  if (position < 0) throw new Error(`${executable} does not hold the code cache that was put into it`)
  const misalignment = position % POINTER
  if (misalignment !== 0) {
    appendFileSync(join(parts, 'start.cjs'), '\n'.repeat(POINTER - misalignment))
    assemble()
  }
  renameSync(executable, target)
  rmSync(parts, { recursive: true })
}

const POINTER = 8

/** Those that bin/flanneld gives to Node. */
function nodeFlags(): string[] {
  const script = readFileSync(join(root, 'bin/flanneld'), 'utf8')
  const flags = /^flags='(.+)'$/m.exec(script)?.[1]
  if (flags === undefined) throw new Error('bin/flanneld names no flags of Node')
  return flags.split(' ')
}

/** Puts the blob into the executable's notes, where Node looks for it, and flips the fuse that makes Node look. */
function inject(executable: string, blob: string): void {
  const fuse = 'NODE_SEA_FUSE_fce680ab2cc467b6e072b8b5df1996b2'
  const { status, stdout, stderr } = spawnSync(
    'postject',
    [executable, 'NODE_SEA_BLOB', blob, '--sentinel-fuse', fuse],
    { encoding: 'utf8' },
  )
  if (status !== 0) throw new Error(`inject ${blob} into ${executable}: ${stdout}${stderr}`)
}

if (import.meta.main) {
  const names = process.argv.slice(2)
  for (const architecture of architectures) {
    if (names.length === 0 ? !isNative(architecture) : !names.includes(architecture.name)) continue
    const target = join(out, `flanneld-linux-${architecture.name}`)
    buildBinary(architecture, target)
    process.stdout.write(`${target}\n`)
    if (!isNative(architecture)) continue
    rmSync(join(out, 'flanneld'), { force: true })
    linkSync(target, join(out, 'flanneld'))
  }
}
