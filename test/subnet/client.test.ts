import { once } from 'node:events'
import type { ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { createServer, type Server, type Socket } from 'node:net'
import { setImmediate, setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { EtcdClient, EtcdClientOptions, EtcdRequest } from '../../src/subnet/etcd/client.ts'
import { EndpointError, parseEndpoints } from '../../src/subnet/etcd/endpoints.ts'
import { EtcdError } from '../../src/subnet/etcd/error.ts'
import { TlsFilesError } from '../../src/subnet/etcd/tls.ts'
import { FakeEtcd, type Intercept } from '../fakes/etcd.ts'
import { LogLines, openClient, openRegistry, PREFIX, SUBNETS, until } from './support.ts'

const KEY = `${PREFIX}/config`
const cleanUp: (() => unknown)[] = []
let etcd: FakeEtcd
let other: FakeEtcd
let stop: AbortController

beforeEach(async () => {
  stop = new AbortController()
  etcd = new FakeEtcd()
  other = new FakeEtcd()
  await Promise.all([etcd.start(), other.start()])
  for (const each of [etcd, other]) {
    cleanUp.push(() => each.stop())
    each.put(KEY, '{"Network":"10.5.0.0/16"}')
    each.requests.length = 0
  }
})
afterEach(async () => {
  stop.abort()
  for (const each of cleanUp.splice(0).reverse()) await each()
})

function open(urls: string, options: Partial<EtcdClientOptions> = {}): EtcdClient {
  const client = openClient(urls, { timeoutMs: 1_500, ...options })
  cleanUp.push(() => client.close())
  return client
}

function ask(client: EtcdClient, more: Partial<EtcdRequest> = {}) {
  return client.request({ method: 'GET', key: KEY, signal: stop.signal, ...more })
}

async function failure(client: EtcdClient, more: Partial<EtcdRequest> = {}): Promise<EtcdError> {
  const error = await ask(client, more).then(
    () => undefined,
    (cause: unknown) => cause,
  )
  if (!(error instanceof EtcdError)) throw new Error(`no EtcdError: ${String(error)}`)
  expect(error.message).not.toMatch(/[\r\n]/)
  return error
}

/** A port that takes connections and does with them what it is told. */
async function listen(onConnection: Parameters<typeof createServer>[1]): Promise<string> {
  const sockets = new Set<{ destroy(): void }>()
  const server: Server = createServer({}, (socket) => {
    sockets.add(socket)
    socket.on('error', () => undefined)
    onConnection?.(socket)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  cleanUp.push(async () => {
    for (const socket of sockets) socket.destroy()
    await new Promise((resolve) => server.close(resolve))
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

const answer =
  (status: number, body: string, headers: Record<string, string> = {}): Intercept =>
  (_, response) => {
    response.writeHead(status, headers).end(body)
    return true
  }

describe('endpoints', () => {
  it.each([
    ['http://127.0.0.1:4001,http://127.0.0.1:2379', ['http://127.0.0.1:4001', 'http://127.0.0.1:2379']],
    ['https://etcd.example:2379/', ['https://etcd.example:2379']],
    ['http://a:1/proxy/etcd/, http://b', ['http://a:1/proxy/etcd', 'http://b']],
    ['HTTP://[::1]:2379', ['http://[::1]:2379']],
  ])('%s', (list, expected) => {
    expect(parseEndpoints(list).map(({ base }) => base)).toEqual(expected)
  })

  it.each([
    '',
    ' ',
    'http://a,',
    '127.0.0.1:2379',
    'localhost:2379',
    'unix:///x',
    'ftp://a',
    'http://',
    'http://a:99999',
  ])('refuses "%s"', (list) => {
    expect(() => parseEndpoints(list)).toThrow(EndpointError)
  })

  it('keeps credentials out of what it says and shows', () => {
    for (const text of [
      'https//root:secret@host:1',
      'root:secret@host:1',
      'http://root:a/secret@host:1',
      'http://root:a@secret@host:99999',
      'http://root:secret,b@host:1',
      'http://root:secret%@host:1',
    ]) {
      const parse = (): unknown => parseEndpoints(text)
      expect(parse, text).toThrow(EndpointError)
      expect(parse, text).toThrow(expect.not.stringContaining('secret'))
    }
    for (const text of ['10.0.0.1:2379', '[::1]:2379', 'http://::1:2379', 'http://etcd.example:99999/v2']) {
      expect(() => parseEndpoints(text), text).toThrow(`"${text}"`)
    }
    const [endpoint] = parseEndpoints('http://root:se%3Acret@host:1')
    expect(endpoint).toMatchObject({ base: 'http://host:1', authorization: `Basic ${btoa('root:se:cret')}` })
  })
})

describe('fail-over', () => {
  it.each([
    ['refuses connections', async () => 'http://127.0.0.1:1'],
    ['never answers', () => listen(() => undefined)],
    ['hangs up', () => listen((socket) => void socket.once('data', () => socket.destroy()))],
    [
      'ends in the middle of the headers',
      () => listen((socket) => void socket.end('HTTP/1.1 200 OK\r\nX-Et')),
    ],
    [
      'ends in the middle of the body',
      () => listen((socket) => void socket.end('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"acti')),
    ],
    [
      'stalls in the middle of the body',
      () => listen((socket) => void socket.write('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"acti')),
    ],
    ['is no HTTP server', () => listen((socket) => void socket.end('SSH-2.0-x\r\n'))],
    [
      'answers 503',
      () => listen((socket) => void socket.end('HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n')),
    ],
    // Of a host that is not in --host-whitelist.
    [
      'does not know the host',
      () => listen((socket) => void socket.end('HTTP/1.1 421 No\r\nContent-Length: 5\r\n\r\netcd\n')),
    ],
    [
      'is a gateway that forbids',
      () => listen((socket) => void socket.end('HTTP/1.1 403 No\r\nContent-Length: 3\r\n\r\n<p>')),
    ],
  ])('a GET goes on when the first endpoint %s, and stays where it was answered', async (_, start) => {
    const client = open(`${await start()},${etcd.url}`)
    await expect(ask(client)).resolves.toMatchObject({ body: { action: 'get' } })
    await ask(client)
    expect(etcd.requests).toHaveLength(2)
  })

  it.each(['PUT', 'DELETE'] as const)(
    'a %s is repeated elsewhere: it names the state that it changes',
    async (method) => {
      etcd.intercept = answer(500, '')
      const query = method === 'PUT' ? { prevExist: 'false' } : { prevIndex: String(other.index) }
      const key = method === 'PUT' ? `${SUBNETS}/10.5.1.0-24` : KEY
      await ask(open(`${etcd.url},${other.url}`), { method, key, query, form: { value: 'x' } })
      expect([etcd, other].map(({ requests }) => requests.length)).toEqual([1, 1])
      expect(other.get(key)).toBe(method === 'PUT' ? 'x' : undefined)
    },
  )

  it.each([
    [404, '{"errorCode":100,"message":"Key not found","cause":"/coreos.com","index":3}'],
    [401, '{"message":"Insufficient credentials"}'],
    [
      400,
      '{"errorCode":401,"message":"The event in requested index is outdated and cleared","cause":"x","index":9}',
    ],
  ])('an answer of %d ends the request', async (status, body) => {
    etcd.intercept = answer(status, body)
    await failure(open(`${etcd.url},${other.url}`))
    expect(other.requests).toHaveLength(0)
  })

  it('names every endpoint when none answers', async () => {
    const silent = await listen(() => undefined)
    const error = await failure(open(`http://127.0.0.1:1,${silent}`))
    expect(error).toMatchObject({ kind: 'transport', transient: true })
    expect(error.message).toBe(
      `GET /v2/keys${KEY}: etcd cluster is unavailable or misconfigured: ` +
        `http://127.0.0.1:1: connection refused: is etcd running and listening there? (ECONNREFUSED); ` +
        `${silent}: no answer within 1.5 s`,
    )
  })
})

describe('answers that are none', () => {
  it.each<[string, Intercept, Partial<EtcdError>, RegExp]>([
    [
      'etcd error',
      answer(404, '{"errorCode":100,"message":"Key not found","cause":"/coreos.com","index":3}'),
      { kind: 'etcd', errorCode: 100, index: 3, transient: false },
      /: 100: Key not found \(\/coreos\.com\) \[3\]$/,
    ],
    [
      'lines and control characters in an error',
      answer(404, '{"errorCode":100,"message":"a\\nb\\u001b[31m","cause":"","index":3}'),
      { kind: 'etcd' },
      /100: a b \[31m/,
    ],
    [
      'HTML',
      answer(200, '<html>\n<body>hello</body></html>'),
      { kind: 'protocol', transient: true },
      /invalid json/,
    ],
    ['JSON, but a list', answer(200, '[]'), { kind: 'protocol' }, /invalid json/],
    [
      'HTML with a 404',
      answer(404, '404 page not found\n'),
      { kind: 'protocol' },
      /no v2 API .* --enable-v2/,
    ],
    [
      'a gateway',
      answer(502, '<html>\nBad Gateway'),
      { kind: 'http', status: 502, transient: true },
      /HTTP 502.*Bad Gateway$/,
    ],
    ['teapot', answer(418, ''), { kind: 'protocol', status: 418, transient: true }, /HTTP 418$/],
    [
      'refused by a gateway',
      answer(403, '<html>Forbidden</html>'),
      { kind: 'protocol', status: 403 },
      /HTTP 403 unauthorized: check -etcd-username/,
    ],
    [
      'refused',
      answer(401, '{"message":"Insufficient credentials"}'),
      { kind: 'auth' },
      /Insufficient credentials: check -etcd-username/,
    ],
    [
      'refused by number',
      answer(
        401,
        '{"errorCode":110,"message":"The request requires user authentication","cause":"x","index":0}',
      ),
      { kind: 'auth', errorCode: 110 },
      /110: .*check -etcd-username/,
    ],
    ['nowhere', answer(307, ''), { kind: 'protocol' }, /redirects nowhere/],
    [
      'elsewhere',
      answer(302, '', { location: 'file:///etc/passwd' }),
      { kind: 'protocol' },
      /redirects nowhere/,
    ],
    [
      'in circles',
      answer(307, '', { location: '/v2/keys/x' }),
      { kind: 'protocol' },
      /more than 10 redirects/,
    ],
  ])('%s', async (_, intercept, fields, message) => {
    etcd.intercept = intercept
    const error = await failure(open(etcd.url))
    expect(error).toMatchObject(fields)
    expect(error.message).toMatch(message)
    expect(error.message).toMatch(/^GET http:\/\/127\.0\.0\.1:\d+\/v2\/keys/)
  })

  it('an answer of endless length is given up', async () => {
    const endless = await listen((socket) => {
      socket.write('HTTP/1.1 200 OK\r\n\r\n')
      const chunk = Buffer.alloc(2 ** 20, 0x20)
      const more = (): void => void (socket.writable && socket.write(chunk, more))
      more()
    })
    const error = await failure(open(endless, { timeoutMs: 20_000 }))
    expect(error.message).toMatch(/longer than \d+ bytes/)
  })
})

describe('what is sent', () => {
  it('goes to the path of the endpoint, with alphabetical fields', async () => {
    await failure(open(`${etcd.url}/proxy/`), { key: '/a b/ü', query: { wait: 'true', recursive: 'false' } })
    expect(etcd.requests[0]?.line).toBe('GET /proxy/v2/keys/a%20b/%C3%BC?recursive=false&wait=true')
    await ask(open(etcd.url), {
      method: 'PUT',
      key: '/x',
      form: { value: 'a&b=c d', ttl: '7' },
      query: { prevExist: 'false' },
    })
    const put = etcd.requests[1]
    expect(put).toMatchObject({ line: 'PUT /v2/keys/x?prevExist=false', body: 'ttl=7&value=a%26b%3Dc+d' })
    expect(put?.headers['content-type']).toBe('application/x-www-form-urlencoded')
    expect(etcd.get('/x')).toBe('a&b=c d')
  })

  it('carries credentials if and only if there is a user name', async () => {
    await ask(open(etcd.url, { username: 'root', password: 'secret' }))
    await ask(open(etcd.url, { username: '', password: 'secret' }))
    await ask(open(etcd.url.replace('//', '//me:pw@')))
    expect(etcd.requests.map(({ headers }) => headers.authorization)).toEqual([
      `Basic ${btoa('root:secret')}`,
      undefined,
      `Basic ${btoa('me:pw')}`,
    ])
  })

  it('never shows a password', async () => {
    etcd.intercept = answer(401, '{"message":"Insufficient credentials"}')
    const client = open(`http://127.0.0.1:1,${etcd.url.replace('//', '//me:secret@')}`, {
      username: 'u',
      password: 'secret',
    })
    expect((await failure(client)).message).not.toContain('secret')
    expect((await failure(open('http://me:secret@127.0.0.1:1'))).message).not.toContain('secret')
  })

  it('follows a redirect with method and body, but takes credentials to configured endpoints only', async () => {
    etcd.intercept = ({ url }, response) => {
      response.writeHead(307, { location: other.url + url }).end()
      return true
    }
    const put = { method: 'PUT', key: '/x', form: { value: 'v' } } as const
    await ask(open(etcd.url, { username: 'root', password: 'secret' }), put)
    await ask(open(`${etcd.url},${other.url}`, { username: 'root', password: 'secret' }), put)
    expect(other.requests.map(({ line, body }) => `${line} ${body}`)).toEqual(
      Array(2).fill('PUT /v2/keys/x value=v'),
    )
    expect(other.requests.map(({ headers }) => headers.authorization)).toEqual([
      undefined,
      `Basic ${btoa('root:secret')}`,
    ])
  })

  it('goes over one kept connection', async () => {
    const client = open(etcd.url)
    for (let i = 0; i < 5; i++) await ask(client)
    expect(etcd.connections).toBe(1)
  })

  it('goes over the same connection after an answer without a body', async () => {
    etcd.intercept = answer(200, '')
    const client = open(etcd.url)
    for (let i = 0; i < 5; i++) await ask(client)
    expect(etcd.connections).toBe(1)
  })

  it.each<[what: string, intercept: Intercept, more: Partial<EtcdRequest>]>([
    ['a redirect', (q, r) => !q.url?.includes('/x') && answer(307, '', { location: '/v2/keys/x' })(q, r), {}],
    ["a gateway's time-out to a long poll", answer(504, 'Gateway Timeout'), { longPoll: true }],
    ['an answer that is dropped', answer(200, '{}'), { onHeaders: () => true }],
  ])('leaves no connection behind that is neither in use nor kept, after %s', async (_, intercept, more) => {
    etcd.put('/x', 'v')
    const sockets: Socket[] = []
    etcd.intercept = (request, response) => {
      if (!intercept(request, response)) return false
      sockets.push(request.socket)
      return true
    }
    await ask(open(etcd.url), more)
    const [socket] = sockets
    // The server ends it itself after five seconds.
    if (socket?.closed === false) await once(socket, 'close', { signal: AbortSignal.timeout(1_000) })
    expect(sockets).toHaveLength(1)
  })

  it('is ended by the signal, before and during', async () => {
    const silent = await listen(() => undefined)
    const controller = new AbortController()
    const running = ask(open(silent, { timeoutMs: 60_000 }), { signal: controller.signal })
    controller.abort(new Error('enough'))
    await expect(running).rejects.toThrow('enough')
    await expect(ask(open(etcd.url), { signal: controller.signal })).rejects.toThrow('enough')
  })
})

describe('a request that hangs', () => {
  const doubting = { doubtMs: 30, timeoutMs: 60_000 } as const
  const answerTo = (body: string): string =>
    `HTTP/1.1 200 OK\r\nX-Etcd-Index: 7\r\nContent-Length: ${body.length}\r\nConnection: close\r\n\r\n${body}`

  /** An etcd whose first connection leads nowhere; counts what it is asked apart from the vigil's own questions. */
  async function lossy(): Promise<{ url: string; asked: () => number }> {
    let connections = 0
    let asked = 0
    const url = await listen((socket) => {
      const lost = connections++ === 0
      socket.on('data', (data) => {
        if (!String(data).startsWith('GET /v2/keys/?')) asked++
        if (!lost) socket.end(answerTo('{"node":{}}'))
      })
    })
    return { url, asked: () => asked }
  }

  it('at one endpoint is put to another that answers meanwhile', async () => {
    const silent = await listen(() => undefined)
    const client = open(`${silent},${etcd.url}`, doubting)
    expect(await ask(client)).toMatchObject({ index: etcd.index })
    expect(client.tally.current).toBe(1)
  })

  it('is sent once more when its endpoint answers later questions', async () => {
    const { url, asked } = await lossy()
    expect(await ask(open(url, doubting))).toMatchObject({ index: 7 })
    expect(asked()).toBe(2)
  })

  it('gets all its time when it hangs again', async () => {
    etcd.intercept = ({ url = '' }) => url.includes(KEY)
    const hurried = { doubtMs: 30, timeoutMs: 500 } as const
    expect(await failure(open(etcd.url, hurried))).toMatchObject({ kind: 'timeout' })
    expect(etcd.requests.filter(({ line }) => line.includes(KEY))).toHaveLength(2)
  })

  it('at two endpoints is put to the third at once, which is the one that answers', async () => {
    const silent = [await listen(() => undefined), await listen(() => undefined)]
    const client = open(`${silent.join()},${etcd.url}`, doubting)
    expect(await ask(client)).toMatchObject({ index: etcd.index })
    expect(client.tally.endpoints.map(({ failures }) => failures > 0)).toEqual([true, false, false])
  })

  it('is not given up because one that was sent before it has been answered', async () => {
    const held: (() => unknown)[] = []
    etcd.intercept = ({ url = '' }, response) => {
      if (url.startsWith('/v2/keys/slow')) held.push(() => response.end('{}'))
      return url.startsWith('/v2/keys/?') || url.startsWith('/v2/keys/slow')
    }
    const client = open(etcd.url, doubting)
    const questions = () => etcd.requests.filter(({ line }) => line.startsWith('GET /v2/keys/?')).length
    const waiting = [ask(client, { key: '/slow1' })]
    await until('it is sent', () => held.length === 1)
    waiting.push(ask(client, { key: '/slow2' }))
    await until('both are sent', () => held.length === 2)
    // Long enough for both to be doubted.
    await sleep(3 * doubting.doubtMs)
    const before = questions()
    held[0]?.()
    await waiting[0]
    await until('the other is doubted still', () => questions() > before)
    held[1]?.()
    await waiting[1]
    expect(held).toHaveLength(2)
  })

  it('is a part of a body, too; but not a body that comes slowly', async () => {
    const body = JSON.stringify({ node: { value: 'x'.repeat(400_000) } })
    let asked = 0
    const url = await listen((socket) =>
      socket.once('data', (data) => {
        if (!String(data).includes('recursive=true')) {
          socket.end(answerTo('{}'))
          return
        }
        asked++
        const parts = answerTo(body).match(/.{1,40000}/gs) ?? []
        const more = (): void => {
          const part = parts.shift()
          if (part !== undefined && socket.writable) socket.write(part, () => setTimeout(more, 150))
        }
        more()
      }),
    )
    // Neither the whole time for a body nor the second without doubt is enough for it.
    const client = open(url, { doubtMs: 1_000, timeoutMs: 1_200 })
    expect((await ask(client, { query: { recursive: 'true' } })).body).toEqual(JSON.parse(body))
    expect(asked).toBe(1)
  })

  it.each<[what: string, before: number, every: number]>([
    ['stops', 100_000, 0],
    ['goes on byte by byte', 100_000, 1],
    ['never begins', 0, 0],
  ])('in a body that %s is sent once more', async (_, before, every) => {
    const body = JSON.stringify({ node: { value: 'x'.repeat(400_000) } })
    let asked = 0
    const url = await listen((socket) =>
      socket.once('data', (data) => {
        const list = String(data).includes('recursive=true')
        if (list) asked++
        if (!list || asked > 1) {
          socket.end(answerTo(list ? body : '{}'))
          return
        }
        const whole = answerTo(body)
        socket.write(whole.slice(0, whole.indexOf('\r\n\r\n') + 4 + before))
        if (every === 0) return
        const trickle = setInterval(() => socket.write('x'), 5)
        socket.once('close', () => clearInterval(trickle))
      }),
    )
    const { body: got } = await ask(open(url, doubting), { query: { recursive: 'true' } })
    expect(got).toEqual(JSON.parse(body))
    expect(asked).toBe(2)
  })

  it.each<[what: string, status: number, body: string, more: Partial<EtcdRequest>]>([
    ['time-out to a long poll', 504, 'Gateway Timeout', { longPoll: true }],
    ['long error page', 503, 'x'.repeat(100_000), {}],
  ])("is not answered by a gateway's %s: who waits for etcd waits on", async (_, status, body, more) => {
    let held: ServerResponse | undefined
    etcd.intercept = ({ url = '' }, response) => {
      if (url.startsWith('/v2/keys/slow')) held = response.writeHead(status)
      else {
        held?.write(body)
        setTimeout(() => response.writeHead(503).end(), 50)
      }
      return true
    }
    const client = open(etcd.url, doubting)
    const slow = ask(client, { key: '/slow', ...more }).catch(() => undefined)
    await until('a question', () => etcd.requests.length > 1)
    await failure(client)
    expect(etcd.requests.filter(({ line }) => line.includes(KEY))).toEqual([])
    stop.abort()
    await slow
  })

  it('but is answered before the questions after it is only slow', async () => {
    etcd.intercept = ({ url = '' }, response) => {
      if (url.includes(KEY) && etcd.requests.length === 1) {
        void until('a question', () => etcd.requests.length > 1).then(() => response.end('{}'))
        return true
      }
      return url.startsWith('/v2/keys/?')
    }
    const client = open(etcd.url, doubting)
    expect(await ask(client)).toMatchObject({ body: {} })
    // It would have to wait for the questions, which are never answered.
    expect(await ask(client)).toMatchObject({ index: etcd.index })
  })

  it.each([
    ['its answer', 0],
    ['a part of its body', 100],
  ])('is not given up when %s came while the whole process stood still', async (_, before) => {
    const body = JSON.stringify({ node: { value: 'x'.repeat(40_000) } })
    const whole = answerTo(body)
    const head = before === 0 ? 0 : whole.indexOf('\r\n\r\n') + 4 + before
    const url = await listen((socket) =>
      socket.once('data', async () => {
        socket.write(whole.slice(0, head))
        await sleep(20)
        // Timers come next after this.
        await setImmediate()
        socket.write(whole.slice(head, head + 20_000))
        // What was written lies in the kernel now, and nobody runs who could read it in time.
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 300)
        socket.end(whole.slice(head + 20_000))
      }),
    )
    expect((await ask(open(url, { timeoutMs: 200 }))).body).toEqual(JSON.parse(body))
  })

  it.each<[where: string, urls: () => string, fail: Intercept]>([
    ['at another endpoint', () => `${etcd.url},${other.url}`, answer(503, '')],
    ['in a new connection', () => etcd.url, ({ socket }) => !socket.destroy().writable],
  ])('and is answered %s in the end leaves nobody waiting', async (_, urls, fail) => {
    const client = open(urls(), { ...doubting, vigilMs: 60_000 })
    await ask(client)
    etcd.intercept = (request, response) => {
      etcd.intercept = undefined
      setTimeout(() => fail(request, response), 3 * doubting.doubtMs)
      return true
    }
    await ask(client)
    await ask(client, { signal: AbortSignal.timeout(2_000) })
  })

  it('is not doubted when it is for a list that etcd still makes', async () => {
    let release: () => unknown = () => undefined
    etcd.intercept = ({ url = '' }, response) => {
      if (!url.includes('recursive')) return false
      release = () => response.end('{"node":{"dir":true}}')
      return true
    }
    const listed = openRegistry(open(etcd.url, { ...doubting, doubtMs: 1 })).listLeases(stop.signal)
    await until('it is asked', () => etcd.requests.length === 1)
    // Each takes a millisecond or so itself.
    for (let i = 0; i < 20; i++) await ask(open(etcd.url))
    expect(etcd.requests).toHaveLength(21)
    release()
    expect(await listed).toMatchObject({ leases: [] })
  })
})

describe('long polls', () => {
  it('that stay without news for their time are no failure, and move the position on', async () => {
    const registry = openRegistry(open(etcd.url), 50)
    for (let i = 0; i < 5; i++) etcd.put('/elsewhere', String(i))
    const step = await registry.watch({ waitIndex: etcd.index - 2, clusterId: '' }, stop.signal)
    expect(step).toMatchObject({ kind: 'idle', index: etcd.index })
    await until('the connection is closed', () => etcd.watchers === 0)
  })

  it('that never begin are a failure', async () => {
    const silent = await listen(() => undefined)
    const registry = openRegistry(open(silent), 50)
    await expect(registry.watch({ waitIndex: 1, clusterId: '' }, stop.signal)).rejects.toMatchObject({
      kind: 'timeout',
    })
  })

  it('that end empty are no failure', async () => {
    const registry = openRegistry(open(etcd.url))
    const waiting = registry.watch({ waitIndex: etcd.index + 1, clusterId: '' }, stop.signal)
    await until('it waits', () => etcd.watchers === 1)
    etcd.endWatches()
    await expect(waiting).resolves.toMatchObject({ kind: 'idle', index: etcd.index })
  })

  it.each([
    ['breaks', true],
    ['stalls', false],
  ])('whose body %s have told nothing: the event may have been in it', async (_, ends) => {
    const broken = await listen((socket) =>
      socket.once('data', () => {
        socket.write('HTTP/1.1 200 OK\r\nX-Etcd-Index: 12\r\nContent-Length: 200\r\n\r\n{"action":')
        if (ends) socket.end()
      }),
    )
    const registry = openRegistry(open(broken), 50)
    const step = await registry.watch({ waitIndex: 9, clusterId: '' }, stop.signal)
    expect(step).toMatchObject({ kind: 'idle', index: 8, waited: false })
  })

  it('whose bytes were changed on their way fail, and are not taken for a bad lease', async () => {
    const body = Buffer.from(
      '{"action":"set","node":{"key":"/coreos.com/network/subnets/10.5.1.0-24","value":"{}"}}',
    )
    body[20] = (body[20] ?? 0) ^ 0xff
    const changing = await listen((socket) =>
      socket.once('data', () => {
        socket.write(`HTTP/1.1 200 OK\r\nX-Etcd-Index: 12\r\nContent-Length: ${body.length}\r\n\r\n`)
        socket.end(body)
      }),
    )
    const watching = openRegistry(open(changing)).watch({ waitIndex: 9, clusterId: '' }, stop.signal)
    await expect(watching).rejects.toMatchObject({ kind: 'protocol', transient: true })
  })

  it('notice another cluster, and an older store, at once', async () => {
    const registry = openRegistry(open(etcd.url))
    const { clusterId, index } = etcd
    await expect(
      registry.watch({ waitIndex: index + 1, clusterId: 'other' }, stop.signal),
    ).resolves.toMatchObject({
      kind: 'resync',
      reason: `the etcd cluster changed from other to ${clusterId}`,
    })
    await expect(registry.watch({ waitIndex: 900, clusterId }, stop.signal)).resolves.toMatchObject({
      kind: 'resync',
      reason: `etcd's index went back from 899 to ${index}`,
    })
  })
})

describe('TLS files', () => {
  const tls =
    (caFile: string, certFile = '', keyFile = '') =>
    () =>
      open(etcd.url, { tls: { caFile, certFile, keyFile } })

  it('that are missing or no PEM are known before anything is sent', () => {
    expect(tls('/nowhere/ca.pem')).toThrow(TlsFilesError)
    expect(tls('/nowhere/ca.pem')).toThrow(/-etcd-cafile: .*\/nowhere\/ca\.pem/)
    expect(tls('/etc/hostname')).toThrow(/is not a PEM file/)
    expect(tls('', '/x.pem')).toThrow('KeyFile and CertFile must both be present[key: , cert: /x.pem]')
    expect(tls('', '', '/x.key')).toThrow('KeyFile and CertFile must both be present[key: /x.key, cert: ]')
    expect(etcd.requests).toEqual([])
  })

  it('do no harm to plain http endpoints', async () => {
    await expect(ask(open(etcd.url, { log: new LogLines() }))).resolves.toBeDefined()
  })
})
