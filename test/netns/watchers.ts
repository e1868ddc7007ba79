/** Things that watch while a test acts: `ip monitor` for what the kernel is told, pings for what users feel. */
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { lines, type Namespace } from './namespace.ts'
import { isRunning, stop } from './process.ts'
import { waitFor } from './wait.ts'

/** A running `ip -ts monitor`; `stop` resolves to its lines. */
export interface KernelMonitor {
  lines(): readonly string[]
  stop(): Promise<readonly string[]>
}

/** Starts `ip -ts monitor` on `objects` (`link address route neigh nexthop`) and waits until it listens. */
export async function startMonitor(
  namespace: Namespace,
  objects = 'link address route neigh',
): Promise<KernelMonitor> {
  const child = namespace.start(['ip', '-ts', 'monitor', ...objects.split(' ')], {
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  const output = collect(child)
  // /proc/PID/net/netlink: sk Eth Pid Groups ...; ip's first socket has its pid for a port id.
  const listening = new RegExp(`^\\S+ +0 +${child.pid} +(?!0+ )[0-9a-f]+ `, 'm')
  const read = (file: string): string => readFileSync(`/proc/${child.pid}/${file}`, 'utf8')
  // It lists the links by the same socket first, and what it is told meanwhile it drops: it listens once it sleeps.
  await waitFor(() => listening.test(read('net/netlink')) && read('stat').includes(') S '), {
    what: 'ip monitor to listen',
  })
  return {
    lines: () => lines(output.text),
    stop: async () => {
      await stop(child)
      await ended(child)
      return lines(output.text)
    },
  }
}

/** What a pinger saw. `lost` are the numbers of the echoes that nobody answered. */
export interface PingReport {
  readonly sent: number
  readonly received: number
  readonly lost: readonly number[]
}

export interface Pinger {
  /** Answers so far. */
  received(): number
  stop(): Promise<PingReport>
}

/** Pings `address` 50 times a second until stopped, and waits for the first answer. */
export async function startPinger(namespace: Namespace, address: string): Promise<Pinger> {
  const child = namespace.start(['ping', '-n', '-i', '0.02', address], { stdio: ['ignore', 'pipe', 'pipe'] })
  const output = collect(child)
  const seen = (): number[] =>
    [...output.text.matchAll(/icmp_seq=(\d+) ttl=/g)].map((match) => Number(match[1]))
  try {
    await waitFor(() => seen().length > 0, {
      what: () => `an answer from ${address}: ${output.text.slice(-500)}`,
    })
  } catch (error) {
    await stop(child, 'SIGKILL')
    throw error
  }
  return {
    received: () => seen().length,
    stop: async () => {
      // The last echo may be on its way: it counts only once a later one has been answered.
      const last = Math.max(...seen())
      await waitFor(() => Math.max(...seen()) > last || !isRunning(child), {
        what: 'one more answer',
        timeout: 2000,
      }).catch(() => undefined)
      const more = Math.max(...seen()) > last
      await stop(child, 'SIGINT')
      await ended(child)
      const answered = new Set(seen())
      const transmitted = Number(/(\d+) packets transmitted/.exec(output.text)?.[1] ?? 0)
      const highest = Math.max(...answered)
      // While answers come, those behind the last one are neither answered nor lost: they are on their way.
      const sent = more ? highest : transmitted
      const lost = Array.from({ length: sent }, (_, i) => i + 1).filter((number) => !answered.has(number))
      return { sent, received: sent - lost.length, lost }
    },
  }
}

/** All that a process has printed is there. */
async function ended({ stdout }: ChildProcess): Promise<void> {
  if (stdout !== null && !stdout.readableEnded) await once(stdout, 'end')
}

function collect(child: ChildProcess): { text: string } {
  const output = { text: '' }
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding('utf8')
    stream?.on('data', (chunk: string) => {
      output.text += chunk
    })
  }
  return output
}
