import { execFileSync } from 'node:child_process'
import { dirname, join } from 'node:path'

const root = dirname(import.meta.dirname)

/**
 * Writes V8's code cache of `dist/flanneld.cjs` for one Node, given as the command that runs it: a cache fits only the V8
 * and the processor architecture that made it.
 */
export function writeCodeCache(node: readonly string[], cache: string): void {
  const [program = process.execPath, ...args] = node
  // `--predictable` makes it the same bytes each time; V8 does not count that flag when it compares flags.
  const script = join(root, 'scripts/code-cache.cjs')
  execFileSync(program, [...args, '--predictable', script, join(root, 'dist/flanneld.cjs'), cache])
}
