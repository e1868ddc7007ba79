/** Asks a daemon over its control socket, as `flanneld status --json` does. */
import { request } from 'node:http'
import type { Status } from '../../src/status.ts'
import type { Daemon } from './daemon.ts'

/** GET of a path of the control socket; rejects when nobody answers or the answer is no JSON. */
export function askControl(daemon: Daemon, path: string): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const asked = request({ socketPath: daemon.controlSocket, path, timeout: 5_000 }, (answer) => {
      let body = ''
      answer.setEncoding('utf8')
      answer.on('data', (part: string) => {
        body += part
      })
      answer.on('error', reject)
      answer.on('end', () => {
        try {
          resolve(JSON.parse(body))
        } catch (error) {
          reject(error)
        }
      })
    })
    asked.on('timeout', () => asked.destroy(new Error(`${daemon.controlSocket}: no answer`)))
    asked.on('error', reject)
    asked.end()
  })
}

export async function statusOf(daemon: Daemon): Promise<Status> {
  // The daemon is of the same source.
  return (await askControl(daemon, '/status')) as Status
}

/** Repairs that the daemon counts since its start, of every table and the device. */
export async function repairsOf(daemon: Daemon): Promise<number> {
  const { kernel } = await statusOf(daemon)
  const counts = Object.values(kernel?.repairs ?? {}).flatMap((by) => Object.values(by))
  return counts.reduce((sum, count) => sum + count, 0)
}
