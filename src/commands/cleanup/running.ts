import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { createConnection } from 'node:net'
import { basename } from 'node:path'
import { isCommand } from '../names.ts'

/**
 * Words for a flanneld that runs here: somebody serves the control socket, or a process of that name (Go flannel's has no
 * socket) lives in this network namespace.
 */
export async function runningDaemon(controlSocket: string): Promise<string | undefined> {
  const pid = daemonProcess()
  if (pid !== undefined) return `flanneld is running here (pid ${pid})`
  if (controlSocket !== '' && (await isServed(controlSocket)))
    return `flanneld is running here: it serves ${controlSocket}`
  return undefined
}

function isServed(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const connection = createConnection(path)
    const answer = (served: boolean): void => {
      connection.destroy()
      resolve(served)
    }
    connection.on('connect', () => answer(true))
    connection.on('error', (error: NodeJS.ErrnoException) =>
      answer(!['ENOENT', 'ENOTDIR', 'ECONNREFUSED', 'ENOTSOCK'].includes(error.code ?? '')),
    )
  })
}

function daemonProcess(): number | undefined {
  const namespace = readlinkSync('/proc/self/ns/net')
  return readdirSync('/proc')
    .filter((entry) => /^\d+$/.test(entry))
    .map(Number)
    .find((pid) => pid !== process.pid && isDaemon(pid, namespace))
}

/** By its name, which a daemon of ours takes when it starts and Go flannel's has, or has renamed with its file. */
function isDaemon(pid: number, namespace: string): boolean {
  try {
    if (readlinkSync(`/proc/${pid}/ns/net`) !== namespace) return false
    if (readFileSync(`/proc/${pid}/comm`, 'utf8') === 'flanneld\n') return true
    const name = basename(readlinkSync(`/proc/${pid}/exe`).replace(/ \(deleted\)$/, ''))
    if (!/^flanneld\b/.test(name)) return false
    return !isCommand(readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')[1])
  } catch {
    // It has ended, or is a kernel thread.
    return false
  }
}
