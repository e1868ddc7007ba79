/**
 * An etcd v2 API in memory, on loopback: what etcd 3.4 answers to the requests flannel makes, including its indexes,
 * its error bodies, its history of 1,000 events, and one event for each long poll. `test/subnet` runs one suite against
 * this and against the real thing, so that the two cannot drift apart.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'

interface Node {
  readonly key: string
  readonly dir: boolean
  readonly value: string
  /** Milliseconds of the fake's clock. */
  readonly expires: number | undefined
  readonly createdIndex: number
  readonly modifiedIndex: number
}

interface Event {
  readonly action: string
  readonly node: Record<string, unknown>
  readonly prevNode: Record<string, unknown> | undefined
  readonly index: number
}

interface Watcher {
  readonly key: string
  readonly recursive: boolean
  readonly since: number
  readonly response: ServerResponse
}

/** Answers a request instead of the store; returning false lets the store answer. */
export type Intercept = (request: IncomingMessage, response: ServerResponse) => boolean

export interface FakeEtcdOptions {
  readonly now?: () => number
  /** `user:password` that every request must carry. */
  readonly credentials?: string
}

class Refusal extends Error {
  readonly status: number
  readonly code: number
  readonly text: string

  constructor(status: number, code: number, text: string, cause: string) {
    super(cause)
    this.status = status
    this.code = code
    this.text = text
  }
}

const HISTORY = 1_000
/** What is over is there for a moment still: etcd looks twice a second. */
const LATE_MS = 50

export class FakeEtcd {
  readonly #now: () => number
  readonly #credentials: string | undefined
  #skew = 0
  #server: Server | undefined
  #port = 0
  #expiry: NodeJS.Timeout | undefined
  readonly #sockets = new Set<Socket>()
  #nodes = new Map<string, Node>()
  #history: Event[] = []
  #watchers = new Set<Watcher>()
  /** What a fresh etcd 3.4 begins with: its own start took three writes. */
  index = 3
  clusterId = 'cdf818194e3a8c32'
  intercept: Intercept | undefined
  /** `METHOD path?query` of every request, and its body, in order. */
  readonly requests: {
    readonly line: string
    readonly body: string
    readonly headers: IncomingMessage['headers']
  }[] = []

  constructor(options: FakeEtcdOptions = {}) {
    this.#now = options.now ?? Date.now
    this.#credentials = options.credentials
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}`
  }

  /** Listens; after `stop` on the same port again, with the store as it was. */
  async start(): Promise<void> {
    const server = createServer((request, response) => void this.#serve(request, response))
    this.#server = server
    server.on('connection', (socket) => {
      this.#sockets.add(socket)
      socket.on('close', () => this.#sockets.delete(socket))
    })
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject).listen(this.#port, '127.0.0.1', resolve)
    })
    this.#port = (server.address() as AddressInfo).port
    this.#expiry = setInterval(() => this.#expire(), 50)
  }

  /** Closes the port and every connection, as a killed etcd does. */
  async stop(): Promise<void> {
    const server = this.#server
    this.#server = undefined
    clearInterval(this.#expiry)
    if (server === undefined) return
    const closed = new Promise<void>((resolve) => void server.close(() => resolve()))
    this.cut()
    await closed
  }

  /** Drops all connections, without stopping. */
  cut(): void {
    for (const socket of this.#sockets) socket.destroy()
    this.#watchers.clear()
  }

  get connections(): number {
    return this.#sockets.size
  }

  /** Ends all long polls with an empty answer, as an etcd that shuts down in order does. */
  endWatches(): void {
    for (const { response } of this.#watchers) response.end()
    this.#watchers.clear()
  }

  get watchers(): number {
    return this.#watchers.size
  }

  /** An empty store with low indexes, as after a data directory was lost. */
  wipe(): void {
    this.#nodes = new Map()
    this.#history = []
    this.index = 3
  }

  /** Lets the fake's clock jump; what has expired by then goes in order of expiry. */
  advance(ms: number): void {
    this.#skew += ms
    this.#expire()
  }

  /** Writes as another client would. */
  put(key: string, value: string, options: { readonly ttl?: number } = {}): number {
    this.#put(
      key,
      new Map([
        ['value', value],
        ...(options.ttl === undefined ? [] : ([['ttl', String(options.ttl)]] as const)),
      ]),
    )
    return this.index
  }

  delete(key: string): number {
    this.#delete(key, new Map([['recursive', 'true']]))
    return this.index
  }

  get(key: string): string | undefined {
    this.#expire()
    return this.#nodes.get(key)?.value
  }

  /** Seconds left, undefined without TTL or key. */
  ttl(key: string): number | undefined {
    this.#expire()
    const node = this.#nodes.get(key)
    return node === undefined ? undefined : this.#ttlOf(node)
  }

  keys(): string[] {
    this.#expire()
    return [...this.#nodes.values()].filter(({ dir }) => !dir).map(({ key }) => key)
  }

  /** Carries out the next request of this method, and closes its connection instead of answering. */
  loseAnswer(to: string): void {
    let lost = false
    this.intercept = ({ method }, response) => {
      if (lost || method !== to) return false
      lost = true
      response.end = () => response.destroy()
      return false
    }
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    let body = ''
    for await (const chunk of request) body += String(chunk)
    this.requests.push({ line: `${request.method} ${request.url}`, body, headers: request.headers })
    if (this.intercept?.(request, response) === true) return
    const url = new URL(request.url ?? '/', this.url)
    response.setHeader('X-Etcd-Cluster-Id', this.clusterId)
    if (!url.pathname.startsWith('/v2/keys')) {
      response.writeHead(404, { 'Content-Type': 'text/plain' }).end('404 page not found\n')
      return
    }
    if (this.#credentials !== undefined && !this.#authorized(request)) {
      response
        .writeHead(401, { 'Content-Type': 'application/json' })
        .end('{"message":"Insufficient credentials"}')
      return
    }
    const key = decodeURIComponent(url.pathname.slice('/v2/keys'.length)) || '/'
    const parameters = new Map([...url.searchParams, ...new URLSearchParams(body)])
    this.#expire()
    try {
      if (request.method === 'GET' && parameters.get('wait') === 'true')
        return this.#watch(key, parameters, response)
      const [event, status] = this.#act(request.method ?? '', key, parameters)
      this.#answer(response, status, event)
    } catch (error) {
      if (!(error instanceof Refusal)) throw error
      const { status, code, text, message: cause } = error
      response.writeHead(status, { 'Content-Type': 'application/json', 'X-Etcd-Index': this.index })
      response.end(`${JSON.stringify({ errorCode: code, message: text, cause, index: this.index })}\n`)
    }
  }

  #authorized(request: IncomingMessage): boolean {
    const wanted = `Basic ${Buffer.from(this.#credentials ?? '').toString('base64')}`
    return request.headers.authorization === wanted
  }

  #act(method: string, key: string, parameters: ReadonlyMap<string, string>): [unknown, number] {
    if (method === 'GET') {
      const node = this.#require(key)
      return [
        { action: 'get', node: this.#render(node, parameters.get('recursive') === 'true' ? Infinity : 1) },
        200,
      ]
    }
    if (method === 'PUT') {
      const event = this.#put(key, parameters)
      return [wire(event), event.prevNode === undefined ? 201 : 200]
    }
    if (method === 'DELETE') return [wire(this.#delete(key, parameters)), 200]
    throw new Refusal(405, 0, 'Method Not Allowed', '')
  }

  #answer(response: ServerResponse, status: number, json: unknown): void {
    response.writeHead(status, { 'Content-Type': 'application/json', 'X-Etcd-Index': this.index })
    response.end(`${JSON.stringify(json)}\n`)
  }

  #put(key: string, parameters: ReadonlyMap<string, string>): Event {
    const existing = this.#nodes.get(key)
    const prevExist = parameters.get('prevExist')
    if (prevExist === 'false' && existing !== undefined)
      throw new Refusal(412, 105, 'Key already exists', key)
    if (prevExist === 'true' && existing === undefined) throw this.#missing(key)
    const compared = this.#compare(key, existing, parameters)
    if (existing?.dir === true) throw new Refusal(403, 102, 'Not a file', key)
    this.#makeParents(key)
    const ttl = parameters.get('ttl')
    this.index++
    const node: Node = {
      key,
      dir: parameters.get('dir') === 'true',
      value: parameters.get('value') ?? '',
      expires: ttl === undefined || ttl === '' ? undefined : this.#time() + Number(ttl) * 1000,
      // a plain set replaces the node, and so its creation
      createdIndex:
        existing === undefined || !(compared || prevExist === 'true') ? this.index : existing.createdIndex,
      modifiedIndex: this.index,
    }
    this.#nodes.set(key, node)
    const action = compared
      ? 'compareAndSwap'
      : prevExist === 'false'
        ? 'create'
        : prevExist === 'true'
          ? 'update'
          : 'set'
    return this.#emit(action, this.#render(node, 0), existing)
  }

  #delete(key: string, parameters: ReadonlyMap<string, string>): Event {
    const node = this.#require(key)
    const compared = this.#compare(key, node, parameters)
    const below = this.#below(key)
    if (node.dir && parameters.get('recursive') !== 'true') {
      if (parameters.get('dir') !== 'true') throw new Refusal(403, 102, 'Not a file', key)
      if (below.length > 0) throw new Refusal(403, 108, 'Directory not empty', key)
    }
    return this.#remove(compared ? 'compareAndDelete' : 'delete', node)
  }

  #remove(action: string, node: Node): Event {
    const below = this.#below(node.key)
    for (const { key } of [node, ...below]) this.#nodes.delete(key)
    this.index++
    const gone = {
      key: node.key,
      ...(node.dir ? { dir: true } : {}),
      modifiedIndex: this.index,
      createdIndex: node.createdIndex,
    }
    return this.#emit(action, gone, node)
  }

  #expire(): void {
    const due = [...this.#nodes.values()].filter(
      ({ expires }) => expires !== undefined && expires + LATE_MS <= this.#time(),
    )
    for (const node of due.sort((a, b) => (a.expires ?? 0) - (b.expires ?? 0))) {
      if (this.#nodes.get(node.key) === node) this.#remove('expire', node)
    }
  }

  #compare(key: string, node: Node | undefined, parameters: ReadonlyMap<string, string>): boolean {
    const prevIndex = parameters.get('prevIndex')
    const prevValue = parameters.get('prevValue')
    if (prevIndex === undefined && prevValue === undefined) return false
    if (node === undefined) throw this.#missing(key)
    if (prevIndex !== undefined && Number(prevIndex) !== node.modifiedIndex) {
      throw new Refusal(412, 101, 'Compare failed', `[${prevIndex} != ${node.modifiedIndex}]`)
    }
    if (prevValue !== undefined && prevValue !== node.value) {
      throw new Refusal(412, 101, 'Compare failed', `[${prevValue} != ${node.value}]`)
    }
    return true
  }

  #watch(key: string, parameters: ReadonlyMap<string, string>, response: ServerResponse): void {
    const since = Number(parameters.get('waitIndex') ?? this.index + 1)
    const recursive = parameters.get('recursive') === 'true'
    const start = this.#history[0]?.index ?? since
    if (this.#history.length >= HISTORY && since < start) {
      throw new Refusal(
        400,
        401,
        'The event in requested index is outdated and cleared',
        `the requested history has been cleared [${start}/${since}]`,
      )
    }
    const watcher = { key, recursive, since, response }
    response.writeHead(200, { 'Content-Type': 'application/json', 'X-Etcd-Index': this.index })
    response.flushHeaders()
    const past = this.#history.find((event) => concerns(watcher, event))
    if (past !== undefined) {
      response.end(`${JSON.stringify(wire(past))}\n`)
      return
    }
    this.#watchers.add(watcher)
    response.on('close', () => this.#watchers.delete(watcher))
  }

  #emit(action: string, node: Record<string, unknown>, previous: Node | undefined): Event {
    const prevNode = previous === undefined ? undefined : this.#render(previous, 0)
    const event = { action, node, prevNode, index: this.index }
    this.#history.push(event)
    if (this.#history.length > HISTORY) this.#history.shift()
    for (const watcher of this.#watchers) {
      if (!concerns(watcher, event)) continue
      this.#watchers.delete(watcher)
      watcher.response.end(`${JSON.stringify(wire(event))}\n`)
    }
    return event
  }

  #require(key: string): Node {
    const node = key === '/' ? directory('/', 0) : this.#nodes.get(key)
    if (node === undefined) throw this.#missing(key)
    return node
  }

  /** etcd names the first part of the path that is not there. */
  #missing(key: string): Refusal {
    const parts = key.split('/').slice(1)
    const paths = parts.map((_, i) => `/${parts.slice(0, i + 1).join('/')}`)
    return new Refusal(404, 100, 'Key not found', paths.find((path) => !this.#nodes.has(path)) ?? key)
  }

  #makeParents(key: string): void {
    for (let end = key.indexOf('/', 1); end > 0; end = key.indexOf('/', end + 1)) {
      const path = key.slice(0, end)
      const node = this.#nodes.get(path)
      if (node === undefined) this.#nodes.set(path, directory(path, this.index + 1))
      else if (!node.dir) throw new Refusal(400, 104, 'Not a directory', path)
    }
  }

  #below(key: string): Node[] {
    const prefix = key === '/' ? '/' : `${key}/`
    return [...this.#nodes.values()].filter((node) => node.key.startsWith(prefix))
  }

  #render(node: Node, depth: number): Record<string, unknown> {
    const { key, dir, value, expires, createdIndex, modifiedIndex } = node
    const children =
      dir && depth > 0
        ? this.#below(key).filter((child) => child.key.lastIndexOf('/') === (key === '/' ? 0 : key.length))
        : []
    return {
      ...(key === '/' ? {} : { key }),
      ...(dir ? { dir } : { value }),
      ...(expires === undefined
        ? {}
        : // 0 is empty for Go, and left out.
          { expiration: new Date(expires).toISOString(), ttl: this.#ttlOf(node) || undefined }),
      ...(children.length === 0 ? {} : { nodes: children.map((child) => this.#render(child, depth - 1)) }),
      modifiedIndex,
      createdIndex,
    }
  }

  #ttlOf({ expires }: Node): number | undefined {
    return expires === undefined ? undefined : Math.ceil((expires - this.#time()) / 1000)
  }

  #time(): number {
    return this.#now() + this.#skew
  }
}

function directory(key: string, index: number): Node {
  return { key, dir: true, value: '', expires: undefined, createdIndex: index, modifiedIndex: index }
}

function wire({ action, node, prevNode }: Event): unknown {
  return { action, node, ...(prevNode === undefined ? {} : { prevNode }) }
}

/** Whether a watcher is told of an event; the removal of a directory concerns all that is watched in it. */
function concerns(
  { key, recursive, since }: Pick<Watcher, 'key' | 'recursive' | 'since'>,
  event: Event,
): boolean {
  if (event.index < since) return false
  const changed = String(event.node.key)
  if (changed === key || (recursive && changed.startsWith(`${key}/`))) return true
  const removed = event.action === 'delete' || event.action === 'expire'
  return removed && event.prevNode?.dir === true && key.startsWith(changed)
}
