/**
 * New connections, one after the other, as many as can be: `traffic.ts serve PORT` answers every TCP connection and UDP
 * datagram with the address it came from; `traffic.ts load PORT ADDRESS=SEEN...` makes connections to each address, 25 a
 * second of both kinds, and wants to be seen there as SEEN. When its input ends it prints what became of them.
 */
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { Namespace } from '../netns/lab.ts'
import { stop } from '../netns/process.ts'

const SCRIPT = fileURLToPath(import.meta.url)
/** Milliseconds. */
const EVERY = 40
/** A lost SYN is sent again after one second, a lost datagram never. */
const SLOW = 900
const PATIENCE = 20_000

export interface TrafficReport {
  readonly connections: number
  /** Took nearly a second or longer: something was sent twice, or the machine was busy. */
  readonly slow: number
  /** In words, the first few. */
  readonly failures: readonly string[]
}

/** Starts to answer in `namespace`. The caller closes it. */
export async function startServer(
  namespace: Namespace,
  port: number,
): Promise<{ close(): Promise<unknown> }> {
  const child = namespace.start([process.execPath, SCRIPT, 'serve', String(port)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  if (child.stdout) await once(createInterface(child.stdout), 'line')
  return { close: () => stop(child, 'SIGKILL') }
}

/** Starts to connect from `namespace`; `seen` says by address as whom. `stop` resolves when all have been answered. */
export async function startLoad(
  namespace: Namespace,
  port: number,
  seen: Readonly<Record<string, string>>,
): Promise<{ stop(): Promise<TrafficReport> }> {
  const targets = Object.entries(seen).map((pair) => pair.join('='))
  const child = namespace.start([process.execPath, SCRIPT, 'load', String(port), ...targets], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  const { stdin, stdout } = child
  if (!stdin || !stdout) throw new Error('load: no pipes')
  const answers = createInterface(stdout)[Symbol.asyncIterator]()
  await answers.next()
  return {
    stop: async () => {
      stdin.end()
      const { value } = await answers.next()
      await stop(child, 'SIGKILL')
      return JSON.parse(value ?? '{}') as TrafficReport
    },
  }
}

async function serve(port: number): Promise<void> {
  const tcp = createServer((socket) => {
    socket.on('error', () => undefined).end(socket.remoteAddress ?? '')
  })
  const udp = createSocket('udp4', (_, from) => udp.send(from.address, from.port, from.address))
  tcp.listen(port, '0.0.0.0')
  udp.bind(port, '0.0.0.0')
  await Promise.all([once(tcp, 'listening'), once(udp, 'listening')])
  process.stdout.write('listening\n')
}

/** Resolves to what came back; rejects when nothing does. */
function overTcp(address: string, port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = ''
    const socket = connect({ host: address, port })
    socket.setTimeout(PATIENCE, () => socket.destroy(new Error('no answer')))
    socket.on('error', reject)
    socket.on('data', (part) => {
      text += part
    })
    socket.on('end', () => resolve(text))
  })
}

function overUdp(address: string, port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = createSocket('udp4', (answer) => end(() => resolve(answer.toString())))
    const timer = setTimeout(() => end(() => reject(new Error('no answer'))), PATIENCE)
    const end = (then: () => void): void => {
      clearTimeout(timer)
      socket.close(then)
    }
    socket.on('error', (error) => end(() => reject(error)))
    socket.send('?', port, address)
  })
}

async function load(port: number, targets: readonly string[]): Promise<void> {
  const failures: string[] = []
  const open = new Set<Promise<void>>()
  let connections = 0
  let slow = 0
  const meet = async (kind: string, ask: typeof overTcp, address: string, seen: string): Promise<void> => {
    const begin = performance.now()
    const what = `${kind} to ${address}`
    try {
      const as = await ask(address, port)
      if (as !== seen) failures.push(`${what}: seen as ${as} instead of ${seen}`)
    } catch (error) {
      failures.push(`${what}: ${error instanceof Error ? error.message : String(error)}`)
    }
    connections++
    if (performance.now() - begin > SLOW) slow++
  }
  const timer = setInterval(() => {
    for (const target of targets) {
      const [address = '', seen = ''] = target.split('=')
      for (const [kind, ask] of [
        ['TCP', overTcp],
        ['UDP', overUdp],
      ] as const) {
        const one = meet(kind, ask, address, seen).finally(() => open.delete(one))
        open.add(one)
      }
    }
  }, EVERY)
  process.stdout.write('running\n')
  process.stdin.resume()
  await once(process.stdin, 'end')
  clearInterval(timer)
  await Promise.all(open)
  process.stdout.write(`${JSON.stringify({ connections, slow, failures: failures.slice(0, 20) })}\n`)
}

if (process.argv[1] === SCRIPT) {
  const [what, port, ...targets] = process.argv.slice(2)
  if (what === 'serve') await serve(Number(port))
  else await load(Number(port), targets)
}
