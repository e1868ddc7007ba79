import { existsSync, globSync, statSync } from 'node:fs'
import { createRequire } from 'node:module'
import { getSystemErrorName } from 'node:util'
import { buildAddon } from '../../scripts/build-addon.ts'

const root = `${import.meta.dirname}/../..`
const script = `${root}/scripts/build-addon.ts`

/** Builds the addon where the program looks for it, if it is not there or older than its sources; returns its path. */
export function ensureAddon({ debug = false } = {}): string {
  const out = `${root}/build/native/flannel${debug ? '-debug' : ''}.node`
  return isNewer(out, ...globSync(`${root}/native/*.[ch]`)) ? out : buildAddon({ debug, out })
}

/**
 * Moves the calling thread, and every process it starts from now on, into a new network namespace that has
 * nothing but a loopback device, down. Returns how to go back; the namespace goes with its last user. Takes root.
 */
export function enterNewNamespace(): () => void {
  const source = `${root}/test/native/netns.c`
  const out = `${root}/build/test/netns.node`
  if (!isNewer(out, source)) buildAddon({ source, out })
  // What the file exports is fixed by the C code beside this file.
  const addon = createRequire(out)(out) as { enter(): number; leave(old: number): number }
  const old = check('enter a new network namespace', addon.enter())
  return () => void check('leave the network namespace', addon.leave(old))
}

function check(what: string, result: number): number {
  if (result < 0) throw new Error(`${what}: ${getSystemErrorName(result)}`)
  return result
}

function isNewer(built: string, ...sources: readonly string[]): boolean {
  if (!existsSync(built)) return false
  const { mtimeMs } = statSync(built)
  return [script, ...sources].every((source) => mtimeMs > statSync(source).mtimeMs)
}
