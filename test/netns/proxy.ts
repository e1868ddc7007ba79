/**
 * A TCP proxy that misbehaves on demand, to stand between a daemon and its etcd.
 *
 *     daemon --> listen  [ toServer fault ]  target --> etcd
 *            <--         [ toClient fault ]         <--
 *
 * It runs in this process (`TcpProxy`), or in a network namespace as a child that is told the same things over its
 * standard input (`startProxy`).
 */
import { once } from 'node:events'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { Namespace } from './namespace.ts'
import { stop } from './process.ts'

/** What happens to the bytes of one direction. It applies at once, to connections that are open too. */
export type Fault =
  | { readonly kind: 'pass' }
  /**
   * Bytes are taken and kept, beyond the first `after` of a connection, counted from now on; connections stay open and
   * silent, and go on when the fault changes.
   */
  | { readonly kind: 'stall'; readonly after?: number }
  /** Every chunk waits this many milliseconds. */
  | { readonly kind: 'slow'; readonly delay: number }
  /** So many bytes a second pass, of each connection. */
  | { readonly kind: 'throttle'; readonly rate: number }
  /** After this many bytes of a connection, counted from now on, both ends are closed. */
  | { readonly kind: 'truncate'; readonly after: number }
  /** Every `every`th byte of a connection has its bits inverted. */
  | { readonly kind: 'corrupt'; readonly every: number }

/**
 * How new connections are met: let through, closed at once (reset), taken and never connected to the server, or answered
 * by somebody else: `bytes` for every request, and with `endless` more of them ten times a second without end.
 */
export type Door = 'open' | 'refuse' | 'silent' | { readonly bytes: string; readonly endless?: string }

export interface ProxyState {
  readonly toServer?: Fault
  readonly toClient?: Fault
  readonly door?: Door
}

export interface ProxyStats {
  /** Connections so far. */
  readonly accepted: number
  /** Connections that are open now. */
  readonly open: number
  /** Times that somebody else answered. */
  readonly answered: number
  /** Bytes that a stall keeps. */
  readonly held: number
}

export interface ProxyControl {
  /** Changes what is named and leaves the rest. */
  set(state: ProxyState): Promise<void>
  /** Resets every open connection. */
  cut(): Promise<void>
  /** Leaves every open connection open, and silent for good: both ends take it for alive. */
  strand(): Promise<void>
  stats(): Promise<ProxyStats>
  close(): Promise<void>
}

export interface Endpoint {
  readonly host: string
  readonly port: number
}

const PASS: Fault = { kind: 'pass' }

/** The proxy itself, in this process and in its network namespace. */
export class TcpProxy implements ProxyControl {
  readonly #server: Server
  readonly #pipes = new Set<Pipe>()
  readonly #idle = new Set<Socket>()
  readonly #target: Endpoint
  #state: Required<ProxyState> = { toServer: PASS, toClient: PASS, door: 'open' }
  #accepted = 0
  #answered = 0

  private constructor(target: Endpoint) {
    this.#target = target
    this.#server = createServer((client) => this.#accept(client))
  }

  /** Listens; port 0 takes a free one (see `port`). */
  static async listen(listen: Endpoint, target: Endpoint): Promise<TcpProxy> {
    const proxy = new TcpProxy(target)
    proxy.#server.listen(listen.port, listen.host)
    await once(proxy.#server, 'listening')
    return proxy
  }

  get port(): number {
    const address = this.#server.address()
    return typeof address === 'object' && address !== null ? address.port : 0
  }

  async set(state: ProxyState): Promise<void> {
    this.#state = { ...this.#state, ...state }
    for (const pipe of this.#pipes) pipe.faultChanged()
  }

  async cut(): Promise<void> {
    for (const socket of this.#idle) socket.resetAndDestroy()
    for (const pipe of this.#pipes) pipe.reset()
  }

  async strand(): Promise<void> {
    for (const pipe of this.#pipes) pipe.strand()
  }

  async stats(): Promise<ProxyStats> {
    const open = this.#idle.size + this.#pipes.size / 2
    const held = [...this.#pipes].reduce((sum, pipe) => sum + pipe.held, 0)
    return { accepted: this.#accepted, open, answered: this.#answered, held }
  }

  async close(): Promise<void> {
    const closed = once(this.#server, 'close')
    this.#server.close()
    await this.cut()
    await closed
  }

  #accept(client: Socket): void {
    this.#accepted++
    client.on('error', () => client.destroy())
    if (this.#state.door === 'refuse') {
      client.resetAndDestroy()
      return
    }
    if (this.#state.door === 'silent') {
      this.#idle.add(client)
      client.on('close', () => this.#idle.delete(client)).resume()
      return
    }
    if (typeof this.#state.door === 'object') {
      this.#impersonate(client, this.#state.door)
      return
    }
    const server = connect({ ...this.#target, allowHalfOpen: true })
    server.on('error', () => client.resetAndDestroy())
    const pipes = [
      new Pipe(client, server, () => this.#state.toServer),
      new Pipe(server, client, () => this.#state.toClient),
    ]
    for (const pipe of pipes) {
      this.#pipes.add(pipe)
      client.on('close', () => this.#pipes.delete(pipe))
    }
  }

  #impersonate(client: Socket, { bytes, endless }: Exclude<Door, string>): void {
    this.#idle.add(client)
    const timers: NodeJS.Timeout[] = []
    client.on('data', () => {
      this.#answered++
      client.write(bytes)
      if (endless !== undefined) timers.push(setInterval(() => client.write(endless), 100))
    })
    client.on('close', () => {
      this.#idle.delete(client)
      timers.forEach(clearInterval)
    })
  }
}

/** One direction of one connection. */
class Pipe {
  readonly #from: Socket
  readonly #to: Socket
  readonly #fault: () => Fault
  readonly #held: Buffer[] = []
  #applied: Fault = PASS
  #count = 0
  /** When all bytes so far are through a throttle; monotonic milliseconds. */
  #through = 0
  #stranded = false

  constructor(from: Socket, to: Socket, fault: () => Fault) {
    this.#from = from
    this.#to = to
    this.#fault = fault
    from.on('data', (chunk: Buffer) => this.#forward(chunk))
    from.on('end', () => {
      if (fault().kind !== 'stall' && !this.#stranded) to.end()
    })
    from.on('close', () => to.destroy())
  }

  get held(): number {
    return this.#held.reduce((sum, { length }) => sum + length, 0)
  }

  faultChanged(): void {
    if (this.#fault().kind !== 'stall') for (const chunk of this.#held.splice(0)) this.#forward(chunk)
  }

  strand(): void {
    this.#stranded = true
    this.#held.length = 0
  }

  reset(): void {
    this.#from.resetAndDestroy()
    this.#to.resetAndDestroy()
  }

  #forward(chunk: Buffer): void {
    if (this.#stranded) return
    const fault = this.#fault()
    if (fault !== this.#applied) {
      this.#applied = fault
      this.#count = 0
    }
    const begin = this.#count
    this.#count += chunk.length
    switch (fault.kind) {
      case 'pass':
        this.#to.write(chunk)
        break
      case 'stall': {
        const passing = Math.max(0, (fault.after ?? 0) - begin)
        if (passing > 0) this.#to.write(chunk.subarray(0, passing))
        if (passing < chunk.length) this.#held.push(chunk.subarray(passing))
        break
      }
      case 'slow':
        this.#writeAfter(fault.delay, chunk)
        break
      case 'throttle': {
        const now = performance.now()
        this.#through = Math.max(now, this.#through) + (chunk.length / fault.rate) * 1000
        this.#writeAfter(this.#through - now, chunk)
        break
      }
      case 'truncate':
        this.#to.write(chunk.subarray(0, Math.max(0, fault.after - begin)))
        if (this.#count >= fault.after) {
          this.#to.end()
          this.#from.destroySoon()
        }
        break
      case 'corrupt':
        this.#to.write(chunk.map((byte, i) => ((begin + i + 1) % fault.every === 0 ? byte ^ 0xff : byte)))
        break
      default:
        throw new Error(`unknown fault ${JSON.stringify(fault satisfies never)}`)
    }
  }

  #writeAfter(ms: number, chunk: Buffer): void {
    setTimeout(() => {
      if (!this.#stranded) this.#to.write(chunk)
    }, ms)
  }
}

/** Starts a proxy inside `namespace` and waits until it listens. The caller closes it (`lab.onClose`). */
export async function startProxy(
  namespace: Namespace,
  listen: Endpoint,
  target: Endpoint,
): Promise<ProxyControl> {
  const addresses = [listen.host, String(listen.port), target.host, String(target.port)]
  const argv = [process.execPath, fileURLToPath(import.meta.url), ...addresses]
  const child = namespace.start(argv, { stdio: ['pipe', 'pipe', 'inherit'] })
  const { stdin, stdout } = child
  if (!stdin || !stdout) throw new Error('proxy: no pipes')
  const answers = createInterface(stdout)[Symbol.asyncIterator]()
  const answer = async (): Promise<string> => {
    const { done, value } = await answers.next()
    if (done) throw new Error(`proxy at ${listen.host}:${listen.port} has ended`)
    return value
  }
  await answer()
  let queue: Promise<unknown> = Promise.resolve()
  const ask = (command: object): Promise<string> => {
    const result = queue.then(() => {
      stdin.write(`${JSON.stringify(command)}\n`)
      return answer()
    })
    queue = result.catch(() => undefined)
    return result
  }
  return {
    set: async (state) => void (await ask({ set: state })),
    cut: async () => void (await ask({ cut: true })),
    strand: async () => void (await ask({ strand: true })),
    stats: async () => JSON.parse(await ask({ stats: true })),
    close: async () => void (await stop(child, 'SIGKILL')),
  }
}

/** The child's side of `startProxy`. */
async function serve([host = '', port, targetHost = '', targetPort]: readonly string[]): Promise<void> {
  const proxy = await TcpProxy.listen(
    { host, port: Number(port) },
    { host: targetHost, port: Number(targetPort) },
  )
  process.stdout.write('"listening"\n')
  for await (const line of createInterface(process.stdin)) {
    const command = JSON.parse(line) as { set?: ProxyState; cut?: true; strand?: true; stats?: true }
    if (command.set) await proxy.set(command.set)
    if (command.cut) await proxy.cut()
    if (command.strand) await proxy.strand()
    process.stdout.write(`${JSON.stringify(await proxy.stats())}\n`)
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await serve(process.argv.slice(2))
