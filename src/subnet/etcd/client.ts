/**
 * Requests to etcd's v2 API: plain HTTP, over kept connections, to the first endpoint that gives an answer.
 *
 * Which failure moves on to the next endpoint is flannel's rule: a connection that fails and a 5xx do, and so does what
 * cannot come from an etcd; any other answer ends the request and pins its endpoint. All writes name the state that they
 * change (prevExist, prevIndex), so that one which was carried out is refused when it is sent again: an update and a delete
 * for ever, a create while the key stands. Unlike flannel's client, every wait is bounded, and when no endpoint answers all
 * requests keep vigil together. A request that is silent for a second begins the vigil, too, and is given up as lost when
 * etcd answers what it is asked after that.
 */
import { isUtf8 } from 'node:buffer'
import { Agent } from 'node:http'
import { systemClock } from '../../clock.ts'
import type { Logger } from '../../log.ts'
import { jsonKind } from '../gojson.ts'
import { Doubt, Overtaken } from './doubt.ts'
import { basicAuthorization, type Endpoint } from './endpoints.ts'
import {
  EcodeUnauthorized,
  EtcdError,
  type EtcdErrorDetails,
  type EtcdErrorKind,
  explainTransport,
} from './error.ts'
import { AnswerTooLong, closeIdle, Exchange, type Head, KEEP_ALIVE_MS } from './exchange.ts'
import { type EtcdOperation, EtcdTally } from './tally.ts'
import { TlsAgent, type TlsFiles } from './tls.ts'
import { Vigil } from './vigil.ts'

export interface EtcdClientOptions {
  readonly endpoints: readonly Endpoint[]
  readonly username: string
  readonly password: string
  readonly tls: TlsFiles
  readonly log: Logger
  /** Milliseconds to connect, send and receive the answer's headers at one endpoint, and again for each part of its body. */
  readonly timeoutMs?: number
  /** Milliseconds between two questions to an etcd that is away. */
  readonly vigilMs?: number
  /** Milliseconds of silence after which a request is doubted. */
  readonly doubtMs?: number
  /** 0 <= x < 1; orders the endpoints once, so that a fleet does not crowd the first. */
  readonly random?: () => number
  /** Monotonic milliseconds; the system's by default. */
  readonly now?: () => number
}

export interface EtcdRequest {
  readonly method: 'GET' | 'PUT' | 'DELETE'
  /** Path below `/v2/keys`, beginning with a slash. */
  readonly key: string
  readonly query?: Readonly<Record<string, string>>
  readonly form?: Readonly<Record<string, string>>
  readonly signal: AbortSignal
  /** Milliseconds for the body, or the next part of it, when other than the client's time-out. */
  readonly bodyTimeoutMs?: number
  /**
   * A body that does not come in time, or whose connection breaks before, is an answer without one: nothing happened while
   * etcd was asked to wait. So is a gateway's time-out (408, 504).
   */
  readonly longPoll?: boolean
  /** Its answer is overtaken by those that etcd makes sooner: silence is no reason for doubt until the headers are there. */
  readonly longInMaking?: boolean
  /** Called when the headers are there; returning true drops the answer's body unread. */
  readonly onHeaders?: (state: EtcdState) => boolean
}

/** Where the store stood when it answered. */
export interface EtcdState {
  /** `X-Etcd-Index`, 0 when missing. */
  readonly index: number
  /** `X-Etcd-Cluster-Id`, '' when missing. */
  readonly clusterId: string
}

export interface EtcdAnswer extends EtcdState {
  /** The JSON object of the answer; undefined for an empty body, or one that was dropped unread or never came. */
  readonly body: Readonly<Record<string, unknown>> | undefined
  /** Of a long poll: it was given up here, after all its time and without a byte. */
  readonly waited?: boolean
}

/** Why an endpoint gave no answer. */
interface Failure {
  readonly endpoint: Endpoint
  readonly error: EtcdError
}

interface AskOptions {
  readonly doubt?: Doubt
  /** Whether it was sent before. */
  readonly resent: boolean
  /** Is told when what was asked at `begun` has the headers of its answer. */
  readonly onHead: (begun: number) => void
}

const DEFAULT_TIMEOUT_MS = 5_000
const DOUBT_MS = 1_000
const MAX_REDIRECTS = 10
/** 65,000 leases are about 19 MB. */
const MAX_ANSWER_LENGTH = 64 * 2 ** 20

export class EtcdClient {
  /** How the endpoints have answered so far, in the order in which they are asked. */
  readonly tally: EtcdTally
  readonly #endpoints: readonly Endpoint[]
  readonly #authorization: string | undefined
  readonly #timeoutMs: number
  readonly #doubtMs: number
  readonly #http: Agent
  readonly #tls: TlsAgent
  readonly #now: () => number
  readonly #vigil: Vigil
  /** Of each endpoint, by position, while none answers. */
  #failures: (Failure | undefined)[] = []

  /** Reads the TLS files; throws a TlsFilesError when they cannot be used. Nothing is sent yet. */
  constructor(options: EtcdClientOptions) {
    const random = options.random ?? Math.random
    this.#endpoints = options.endpoints
      .map((endpoint) => ({ endpoint, order: random() }))
      .sort((a, b) => a.order - b.order)
      .map(({ endpoint }) => endpoint)
    this.tally = new EtcdTally(this.#endpoints.map(({ base }) => base))
    this.#now = options.now ?? systemClock.now
    // Without a user name a password has no effect, as in flannel.
    this.#authorization =
      options.username === '' ? undefined : basicAuthorization(options.username, options.password)
    this.#timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS
    this.#doubtMs = options.doubtMs ?? DOUBT_MS
    this.#http = new Agent({ keepAlive: true, keepAliveMsecs: KEEP_ALIVE_MS })
    this.#tls = new TlsAgent(options.tls, options.log)
    this.#vigil = new Vigil({
      ask: async (signal) => {
        await Promise.any(this.#endpoints.map((endpoint, i) => this.#lookOut(i, endpoint, signal)))
      },
      now: this.#now,
      ...(options.vigilMs === undefined ? {} : { paceMs: options.vigilMs }),
    })
  }

  /** Sends one request. Rejects with an EtcdError, or with the signal's reason when it is aborted. */
  async request(request: EtcdRequest): Promise<EtcdAnswer> {
    if (this.#vigil.away) await this.#return(request)
    const { tally } = this
    const what = operationOf(request)
    const since = this.#now()
    const failures: Failure[] = []
    const all = this.#endpoints.length
    const doubt = new Doubt({
      ms: this.#doubtMs,
      now: this.#now,
      vigil: this.#vigil,
      onSilence: (silentSince) => this.#goWithout(silentSince),
    })
    let position = tally.current
    for (let left = all; left > 0; ) {
      const endpoint = this.#endpoints[position]
      if (endpoint === undefined) break
      const onHead = (begun: number): void => tally.answered(position, what, begun, this.#now())
      try {
        const answer = await this.#ask(endpoint, request, { doubt, resent: failures.length > 0, onHead })
        tally.current = position
        tally.finished(what, 'ok')
        return answer
      } catch (error) {
        request.signal.throwIfAborted()
        if (!(error instanceof EtcdError)) throw error
        if (!movesOn(error)) {
          tally.current = position
          tally.finished(what, error.status === undefined ? 'failed' : 'refused')
          throw error
        }
        tally.failed(position, error.message)
        failures[position] = { endpoint, error }
        if (error.kind === 'overtaken') {
          // etcd is there: a new connection to who answered is worth a try.
          position = tally.current
        } else {
          left--
          position = (position + 1) % all
        }
      }
    }
    tally.finished(what, 'failed')
    this.#failures = failures
    this.#goWithout(since)
    throw allFailed(request, failures)
  }

  /** Waits for an etcd that is away; rejects as the request would. */
  async #return(request: EtcdRequest): Promise<void> {
    try {
      await this.#vigil.wait(request.signal)
    } catch {
      request.signal.throwIfAborted()
      throw allFailed(request, this.#failures)
    }
  }

  /** Asks one endpoint for what is cheap and needs the whole cluster, so that a member cut off from it does not count. */
  async #lookOut(position: number, endpoint: Endpoint, signal: AbortSignal): Promise<void> {
    const { tally } = this
    try {
      const request = { method: 'GET', key: '/', query: { quorum: 'true' }, signal } as const
      const onHead = (begun: number): void => tally.answered(position, 'get', begun, this.#now())
      await this.#ask(endpoint, request, { resent: false, onHead })
    } catch (error) {
      if (!(error instanceof EtcdError)) throw error
      if (movesOn(error)) {
        tally.failed(position, error.message)
        this.#failures[position] = { endpoint, error }
        throw error
      }
    }
    tally.current = position
  }

  /** Closes all connections; requests under way fail, later ones connect anew. */
  close(): void {
    this.#http.destroy()
    this.#tls.close()
  }

  /** What was asked then has no answer, and who knows where the connections lead that are kept from better days. */
  #goWithout(since: number): void {
    closeIdle(this.#http)
    this.#tls.closeIdle()
    this.#vigil.begin(since)
  }

  async #ask(endpoint: Endpoint, request: EtcdRequest, options: AskOptions): Promise<EtcdAnswer> {
    const { doubt, onHead } = options
    let { resent } = options
    let url = new URL(endpoint.base + target(request))
    let authorization = endpoint.authorization ?? this.#authorization
    for (let hops = 0; ; hops++) {
      const call = new Call(request, url, resent)
      const begun = this.#now()
      const exchange = await this.#open(call, authorization)
      doubt?.attend(exchange, begun)
      if (request.longInMaking !== true) doubt?.expect(begun)
      let limit = this.#timeoutMs
      try {
        const head = await exchange.head(limit)
        const { status, header } = head
        onHead(begun)
        // etcd has begun to wait, and may do so for long.
        if (request.longPoll === true && status === 200) doubt?.settle()
        else doubt?.expect()
        if (status < 300 || status >= 400) {
          limit = request.bodyTimeoutMs ?? limit
          const onProgress = (): void => doubt?.expect()
          const answer = await readAnswer(call, head, () =>
            exchange.body({ ms: limit, limit: MAX_ANSWER_LENGTH, onProgress }),
          )
          // What a gateway says of an etcd that is away may be an answer to a long poll, but is none of etcd's.
          if (call.state !== undefined) doubt?.settle()
          return answer
        }
        const location = header('location')
        const next = location === undefined ? null : URL.parse(location, url.href)
        if (next === null || !/^https?:$/.test(next.protocol)) {
          throw call.error('protocol', `HTTP ${status} redirects nowhere: is this etcd?`)
        }
        if (hops >= MAX_REDIRECTS) throw call.error('protocol', `more than ${MAX_REDIRECTS} redirects`)
        // Credentials go to nobody but the endpoints that were configured.
        if (!this.#endpoints.some(({ base }) => new URL(base).origin === next.origin))
          authorization = undefined
        url = next
      } catch (error) {
        request.signal.throwIfAborted()
        if (error instanceof EtcdError) {
          if (!movesOn(error)) doubt?.settle()
          throw error
        }
        if (error instanceof Overtaken) throw call.error('overtaken', error.message)
        if (exchange.stale) {
          resent = true
          continue
        }
        // etcd began to wait, and nothing happened while it did: that is an answer.
        if (request.longPoll === true && call.state !== undefined && !(error instanceof AnswerTooLong)) {
          return { ...call.state, body: undefined, waited: exchange.timedOut && !exchange.begun }
        }
        if (!exchange.timedOut) throw call.error('transport', explainTransport(error))
        throw call.error('timeout', `no answer within ${limit / 1000} s`)
      } finally {
        doubt?.drop()
        exchange.close()
      }
    }
  }

  async #open(call: Call, authorization: string | undefined): Promise<Exchange> {
    const { url } = call
    const { method, form, signal } = call.request
    return new Exchange({
      method,
      url,
      agent: url.protocol === 'https:' ? await this.#tls.agent() : this.#http,
      headers: {
        Accept: '*/*',
        'User-Agent': 'flanneld',
        ...(form === undefined ? {} : { 'Content-Type': 'application/x-www-form-urlencoded' }),
        ...(authorization === undefined ? {} : { Authorization: authorization }),
      },
      body: form === undefined ? undefined : encodeForm(form),
      signal,
    })
  }
}

/** One request to one URL: what its errors are called. */
class Call {
  readonly request: EtcdRequest
  readonly url: URL
  readonly #resent: boolean
  /** What the headers of a successful answer said. */
  state: EtcdState | undefined

  constructor(request: EtcdRequest, url: URL, resent: boolean) {
    this.request = request
    this.url = url
    this.#resent = resent
  }

  error(kind: EtcdErrorDetails['kind'], reason: string, more: Partial<EtcdErrorDetails> = {}): EtcdError {
    const { method } = this.request
    const transient = NO_ANSWER.has(kind)
    return new EtcdError({
      kind,
      request: `${method} ${this.url.origin}${this.url.pathname}`,
      reason,
      transient,
      resent: this.#resent,
      ...more,
    })
  }
}

async function readAnswer(
  call: Call,
  { status, header }: Head,
  read: () => Promise<Buffer>,
): Promise<EtcdAnswer> {
  const state = {
    index: Number(header('x-etcd-index') ?? 0) || 0,
    clusterId: header('x-etcd-cluster-id') ?? '',
  }
  if (call.request.longPoll === true && GATEWAY_TIMEOUTS.has(status)) return { ...state, body: undefined }
  if (status !== 200 && status !== 201) throw refusal(call, status, (await read()).toString())
  call.state = state
  if (call.request.onHeaders?.(state) === true) return { ...state, body: undefined }
  const bytes = await read()
  // JSON is UTF-8 (RFC 8259, 8.1). What is not must not pass for a lease that somebody wrote wrongly.
  if (!isUtf8(bytes)) throw call.error('protocol', 'the answer is not UTF-8: something changes it on its way')
  const text = bytes.toString()
  if (text.trim() === '') return { ...state, body: undefined }
  const body = parseObject(text)
  if (body === undefined) {
    throw call.error(
      'protocol',
      'response is invalid json. The endpoint is probably not valid etcd cluster endpoint',
    )
  }
  return { ...state, body }
}

const NO_ANSWER: ReadonlySet<EtcdErrorKind> = new Set(['transport', 'timeout', 'overtaken', 'protocol'])
const GATEWAY_TIMEOUTS: ReadonlySet<number> = new Set([408, 504])

/** What an answer other than 200 and 201 means. */
function refusal(call: Call, status: number, text: string): EtcdError {
  const body = parseObject(text)
  const message = String(body?.message ?? '')
  if (typeof body?.errorCode === 'number') {
    const { errorCode, cause, index } = body
    const reason = `${errorCode}: ${message} (${String(cause ?? '')}) [${String(index ?? 0)}]`
    const auth = status === 401 || errorCode === EcodeUnauthorized
    return call.error(auth ? 'auth' : 'etcd', auth ? `${reason}${AUTH_HINT}` : reason, {
      errorCode,
      status,
      ...(typeof index === 'number' ? { index } : {}),
      transient: status >= 500,
    })
  }
  if (status === 401 || status === 403) {
    // Whoever refuses in other words than JSON is not etcd, and the next endpoint may be.
    const kind = body === undefined ? 'protocol' : 'auth'
    return call.error(kind, `HTTP ${status} ${message || 'unauthorized'}${AUTH_HINT}`, { status })
  }
  if (status >= 500) {
    const what = status === 500 || status === 503 ? 'has no leader or is overloaded' : 'failed'
    return call.error('http', `HTTP ${status}: the etcd member ${what}${quote(message || text)}`, {
      status,
      transient: true,
    })
  }
  if (status === 404) {
    return call.error(
      'protocol',
      'HTTP 404: there is no v2 API at this address: start etcd with --enable-v2',
      {
        status,
      },
    )
  }
  return call.error('protocol', `HTTP ${status}${quote(message || text)}`, { status })
}

const AUTH_HINT = ': check -etcd-username and -etcd-password'

function quote(text: string): string {
  return text === '' ? '' : `: ${text.slice(0, 120)}`
}

function parseObject(text: string): Readonly<Record<string, unknown>> | undefined {
  try {
    const value: unknown = JSON.parse(text)
    return jsonKind(value) === 'an object' ? { ...(value as object) } : undefined
  } catch {
    return undefined
  }
}

/** What metrics call it. */
function operationOf({ method, query, longPoll }: EtcdRequest): EtcdOperation {
  if (method === 'PUT') return query?.prevExist === 'false' ? 'create' : 'update'
  if (method === 'DELETE') return 'delete'
  return longPoll === true ? 'watch' : query?.recursive === 'true' ? 'list' : 'get'
}

function movesOn({ kind, status = 0 }: EtcdError): boolean {
  return NO_ANSWER.has(kind) || status >= 500
}

function allFailed(request: EtcdRequest, places: readonly (Failure | undefined)[]): EtcdError {
  const failures = places.filter((place) => place !== undefined)
  const path = target({ ...request, query: {} })
  const [only] = failures
  if (failures.length === 1 && only !== undefined) {
    const { endpoint, error } = only
    return error.of(`${request.method} ${endpoint.base}${path}`)
  }
  const reasons = failures.map(({ endpoint, error }) => `${endpoint.base}: ${error.reason}`)
  return new EtcdError({
    kind: failures.every(({ error }) => error.kind === 'timeout') ? 'timeout' : 'transport',
    request: `${request.method} ${path}`,
    reason: `etcd cluster is unavailable or misconfigured: ${reasons.join('; ')}`,
    transient: true,
  })
}

function target({ key, query }: EtcdRequest): string {
  const path = key.split('/').map(encodeURIComponent).join('/')
  const search = query === undefined ? '' : encodeForm(query)
  return `/v2/keys${path}${search === '' ? '' : `?${search}`}`
}

/** Fields in alphabetical order, as Go's client sends them. */
function encodeForm(fields: Readonly<Record<string, string>>): string {
  return new URLSearchParams(Object.entries(fields).sort(([a], [b]) => (a < b ? -1 : 1))).toString()
}
