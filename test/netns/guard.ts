import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'

/** Reads what to remove, a line each, until its input ends; then removes it. */
const SCRIPT = `
namespaces= folders=
while read -r kind name; do
  case $kind in
    namespace) namespaces="$namespaces $name" ;;
    folder) folders="$folders $name" ;;
  esac
done
for name in $namespaces; do ip netns del "$name" 2>/dev/null; done
for name in $folders; do rm -rf "$name"; done
`

/**
 * Removes namespaces and folders when it is closed, or when this process ends in whatever way, SIGKILL included: a shell
 * of its own session waits for the other end of a pipe that only we hold.
 */
export class Guard {
  readonly #child: ChildProcess

  constructor() {
    this.#child = spawn('sh', ['-c', SCRIPT], { stdio: ['pipe', 'ignore', 'ignore'], detached: true })
    this.#child.stdin?.on('error', () => undefined)
  }

  /** Names must be free of spaces. A name that does not exist in the end does no harm, so name it before making it. */
  add(kind: 'namespace' | 'folder', name: string): void {
    this.#child.stdin?.write(`${kind} ${name}\n`)
  }

  /** Removes all now and resolves when it is gone. Safe to call twice. */
  async close(): Promise<void> {
    if (this.#child.exitCode !== null) return
    const end = once(this.#child, 'exit')
    this.#child.stdin?.end()
    await end
  }
}
