import { spawnSync } from 'node:child_process'
import { existsSync, globSync, mkdirSync, renameSync } from 'node:fs'
import { dirname, join } from 'node:path'

const root = dirname(import.meta.dirname)

export interface AddonBuild {
  /** Assertions on, not optimised, to `build/native/flannel-debug.node`. */
  readonly debug?: boolean
  /** Where to write the addon. */
  readonly out?: string
  /** Another C file than those of `native`: the tests have an addon of their own. */
  readonly source?: string
  /** The C compiler; a cross compiler will do, since Node's headers are the same everywhere. Else `$CC`, else `cc`. */
  readonly cc?: string
}

/**
 * Compiles the addon with a C compiler alone: no node-gyp, no network, no install script. Returns the path
 * of the addon. Throws when the headers or the compiler are missing, or when the compiler refuses.
 */
export function buildAddon(build: AddonBuild = {}): string {
  const { debug = false, cc = process.env.CC || 'cc' } = build
  const sources = build.source ? [build.source] : globSync(join(root, 'native/*.c')).sort()
  const target = build.out ?? join(root, 'build/native', debug ? 'flannel-debug.node' : 'flannel.node')
  const variant = debug ? ['-g', '-O0', '-DDEBUG'] : ['-O2', '-DNDEBUG', '-s']
  // Written beside and renamed, so that a process which has the old one loaded keeps its mapping.
  const written = `${target}.${process.pid}`
  mkdirSync(dirname(target), { recursive: true })
  const { error, status } = spawnSync(
    cc,
    [
      ...['-std=c11', '-Wall', '-Wextra', '-Werror', '-fPIC', '-shared', '-pthread'],
      ...['-fvisibility=hidden', ...variant],
      ...['-isystem', nodeHeaders(), '-o', written, ...sources],
    ],
    { stdio: ['ignore', 'inherit', 'inherit'] },
  )
  if (error) throw new Error(`compile the addon with ${cc}: ${error.message}; install a C compiler or set CC`)
  if (status !== 0) throw new Error(`compile the addon with ${cc}: it exited with status ${status}`)
  renameSync(written, target)
  return target
}

/** The headers that come with the Node in node_modules, whichever architecture; else those of the Node that runs. */
function nodeHeaders(): string {
  const candidates = [
    ...globSync(join(root, 'node_modules/node-linux-*/include/node')),
    join(dirname(dirname(process.execPath)), 'include/node'),
  ]
  const found = candidates.find(
    (path) => existsSync(join(path, 'node_api.h')) && existsSync(join(path, 'uv.h')),
  )
  if (found === undefined)
    throw new Error(`compile the addon: no node_api.h in ${candidates.join(', ')}; run npm ci`)
  return found
}

if (import.meta.main) process.stdout.write(`${buildAddon({ debug: process.argv.includes('--debug') })}\n`)
