/** Tells a caller the address it was seen with, which is how to see a masquerade from the other side. */
import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { Namespace } from './namespace.ts'
import { stop } from './process.ts'

const SCRIPT = fileURLToPath(import.meta.url)

export interface Mirror {
  /** The source address that this mirror sees when `from` connects to it at `address`. */
  seenFrom(from: Namespace, address: string): Promise<string>
  close(): Promise<void>
}

/** Starts a mirror on a TCP port of `namespace`, on all its addresses. The caller closes it. */
export async function startMirror(namespace: Namespace, port = 7007): Promise<Mirror> {
  const child = namespace.start([process.execPath, SCRIPT, 'serve', String(port)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  if (child.stdout) await once(createInterface(child.stdout), 'line')
  return {
    seenFrom: async (from, address) =>
      (await from.run(process.execPath, SCRIPT, 'ask', String(port), address)).trim(),
    close: async () => void (await stop(child, 'SIGKILL')),
  }
}

if (process.argv[1] === SCRIPT) {
  const [what, port, address = ''] = process.argv.slice(2)
  if (what === 'serve') {
    const server = createServer((socket) =>
      socket.on('error', () => undefined).end(socket.remoteAddress ?? ''),
    )
    server.listen(Number(port), '0.0.0.0', () => process.stdout.write('listening\n'))
  } else {
    connect({ port: Number(port), host: address, timeout: 2000 })
      .on('timeout', () => process.exit(1))
      .pipe(process.stdout)
  }
}
