import { EventEmitter } from 'node:events'
import { type ClientRequest, get, type IncomingMessage, request } from 'node:http'
import { expect, it, onTestFinished, test } from 'vitest'
import { systemClock } from '../../src/clock.ts'
import { EVERY, Live, MOST_STREAMS } from '../../src/page/live.ts'
import { Looks } from '../../src/page/look.ts'
import { PAGE_PATHS } from '../../src/page/paths.ts'
import { POLICY } from '../../src/page/routes.ts'
import type { Status } from '../../src/status.ts'
import { peer, StepClock, serve, status, world } from './world.ts'

/** A reader of the events; what came is in `text`. */
class Reader {
  text = ''
  code = 0
  readonly #asked: ClientRequest
  readonly began: Promise<IncomingMessage>
  #woken: () => void = () => undefined

  constructor(address: string) {
    this.#asked = get(`${address}/page/live`, { agent: false })
    this.#asked.on('error', () => undefined)
    this.began = new Promise((resolve) =>
      this.#asked.on('response', (response) => {
        this.code = response.statusCode ?? 0
        response.setEncoding('utf8').on('error', () => undefined)
        response.on('data', (part) => {
          this.text += part
          this.#woken()
        })
        resolve(response)
      }),
    )
    onTestFinished(() => this.close())
  }

  async until(test: (text: string) => boolean): Promise<void> {
    while (!test(this.text)) await new Promise<void>((resolve) => (this.#woken = resolve))
  }

  /** The ids of the parts, and the editions of the peers, in the order they came. */
  get events(): string[] {
    return [...this.text.matchAll(/^event: (\w+)\ndata: (.*)$/gm)].map(([, name, data = '']) =>
      name === 'part' ? (JSON.parse(data) as { id: string }).id : `peers ${data}`,
    )
  }

  close(): void {
    this.#asked.destroy()
  }
}

async function until(test: () => boolean): Promise<void> {
  while (!test()) await new Promise((resolve) => setImmediate(resolve))
}

test('sends everything at first, and then what has changed', async () => {
  const clock = new StepClock()
  const view = world()
  const reader = new Reader(await serve(view, clock))
  await reader.until((text) => text.includes('event: peers'))
  expect(reader.events).toEqual(['verdict', 'tiles', 'timeline', 'details', 'peers 1'])
  expect((await reader.began).headers['content-type']).toBe('text/event-stream; charset=utf-8')

  await until(() => clock.sleeping === 1)
  clock.pass(EVERY)
  // Nothing new is a comment.
  await reader.until((text) => text.endsWith(':\n\n'))
  expect(view.asked).toEqual({ status: 2, peers: 1 })

  // A compare that found nothing amiss is news, but not of the peers.
  const { kernel } = status()
  const lastCompare = { secondsAgo: 0, tookMs: 2.5, entries: 0 }
  view.now = status({ kernel: { ...kernel, lastCompare } as Status['kernel'] })
  await until(() => clock.sleeping === 1)
  clock.pass(EVERY)
  await reader.until((text) => text.includes('2.5 ms'))
  expect(reader.events.slice(5)).toEqual(['tiles', 'details'])
  expect(view.asked).toEqual({ status: 3, peers: 1 })

  view.now = status({ health: { alive: true, ready: false, stuckLoops: [], reasons: ['no\nlease'] } })
  await until(() => clock.sleeping === 1)
  clock.pass(EVERY)
  await reader.until((text) => text.includes('Not ready'))
  expect(reader.events.slice(7)).toEqual(['verdict', 'tiles', 'details'])

  view.lines = [peer(0), peer(1, { entries: { fdb: 'missing' } })]
  view.now = status({ leases: { inUse: 2, skipped: 0, skippedList: [] } })
  await until(() => clock.sleeping === 1)
  clock.pass(EVERY)
  await reader.until((text) => text.includes('peers\ndata: 2'))
  expect(reader.events.slice(10)).toEqual(['verdict', 'tiles', 'details', 'peers 2'])
})

test('all readers together cost one look a second, and the peers are read when they have changed', async () => {
  const clock = new StepClock()
  const view = world({ count: 2_000 })
  const address = await serve(view, clock)
  const readers = Array.from({ length: MOST_STREAMS }, () => new Reader(address))
  for (const reader of readers) await reader.until((text) => text.includes('event: peers'))
  for (const path of ['/', '/page/table?q=x', '/page/map']) await (await fetch(address + path)).text()
  expect(view.asked).toEqual({ status: 1, peers: 1 })
  for (let round = 1; round <= 5; round++) {
    view.now = status({ leases: { inUse: round, skipped: 0, skippedList: [] } })
    await until(() => clock.sleeping === MOST_STREAMS)
    clock.pass(EVERY)
    await until(() => view.asked.status === 1 + round)
  }
  await until(() => clock.sleeping === MOST_STREAMS)
  // Ten seconds of constant change: a list of 2,000 serves for three.
  expect(view.asked).toEqual({ status: 6, peers: 3 })
})

test('one more reader than there may be is told to come later, and comes when another has gone', async () => {
  const view = world()
  const clock = new StepClock()
  const address = await serve(view, clock)
  const readers = Array.from({ length: MOST_STREAMS }, () => new Reader(address))
  for (const reader of readers) await reader.began
  const late = await fetch(`${address}/page/live`)
  expect([late.status, late.headers.get('retry-after')]).toEqual([503, '30'])
  // The page itself is there for everybody.
  expect((await fetch(address)).status).toBe(200)
  await until(() => clock.sleeping === MOST_STREAMS)
  readers[0]?.close()
  await until(() => clock.sleeping === MOST_STREAMS - 1)
  const next = new Reader(address)
  await next.began
  expect(next.code).toBe(200)
})

/** Takes what is written, and after `takes` writes nothing more. */
function reluctant(takes: number, destroyed = false) {
  const writes: string[] = []
  const response = Object.assign(new EventEmitter(), {
    writes,
    writableNeedDrain: false,
    destroyed,
    writeHead: () => response,
    write(text: string) {
      writes.push(text)
      this.writableNeedDrain = writes.length >= takes
    },
    destroy() {
      this.destroyed = true
    },
  })
  return response
}

test('a reader that takes nothing is sent nothing more, and is let go', async () => {
  const clock = new StepClock()
  const live = new Live({ looks: new Looks(world(), clock), clock, headers: {} })
  const response = reluctant(2)
  const served = live.serve({ method: 'GET' } as IncomingMessage, response as never)
  let rounds = 0
  while (!response.destroyed) {
    await until(() => clock.sleeping === 1 || response.destroyed)
    rounds++
    clock.pass(EVERY)
  }
  await served
  expect(response.writes.length).toBe(2)
  expect(rounds).toBeGreaterThan(10)
})

test('a reader that has gone before it begins takes no place', async () => {
  const clock = new StepClock()
  const live = new Live({ looks: new Looks(world(), clock), clock, headers: {} })
  for (let i = 0; i <= MOST_STREAMS; i++) {
    const response = reluctant(1, true)
    await live.serve({ method: 'GET' } as IncomingMessage, response as never)
    expect(response.writes).toEqual([])
  }
})

it.each(PAGE_PATHS.filter((path) => path !== '/page/live'))('%s: headers and methods', async (path) => {
  const address = await serve(world())
  const got = await fetch(address + path)
  expect(got.status).toBe(200)
  expect(got.headers.get('content-security-policy')).toBe(POLICY)
  expect(got.headers.get('x-content-type-options')).toBe('nosniff')
  expect(got.headers.get('cross-origin-resource-policy')).toBe('same-origin')
  expect((await got.text()).length).toBeGreaterThan(100)
  const head = await fetch(address + path, { method: 'HEAD' })
  expect([head.status, await head.text()]).toEqual([200, ''])
  for (const method of ['POST', 'PUT', 'DELETE']) {
    const refused = await fetch(address + path, { method, body: 'x' })
    expect([refused.status, refused.headers.get('allow')]).toEqual([405, 'GET, HEAD'])
  }
})

test('the policy allows nothing inline and nothing from elsewhere', () => {
  expect(POLICY).toMatch(/^default-src 'none';/)
  expect(POLICY).not.toMatch(/unsafe|\*|http|data:/)
})

test('a view that fails is a 500 for that question, and no end to the next', async () => {
  const view = world()
  let times = 0
  const broken = {
    ...view,
    status: () => {
      if (times++ === 0) throw new Error('oops')
      return view.now
    },
  }
  const failures: unknown[] = []
  const address = await serve(broken, systemClock, failures)
  expect((await fetch(address)).status).toBe(500)
  expect((await fetch(address)).status).toBe(200)
  expect(failures.splice(0)).toEqual([new Error('oops')])
})

test('other paths are not found, as flannel says it', async () => {
  const answer = await fetch(`${await serve(world())}/nothing`)
  expect([answer.status, await answer.text()]).toEqual([404, '404 page not found\n'])
})

test('a HEAD of the events ends at once', async () => {
  const address = await serve(world())
  const asked = request(`${address}/page/live`, { method: 'HEAD' }).end()
  const response = await new Promise<IncomingMessage>((resolve) => asked.on('response', resolve))
  expect(response.statusCode).toBe(200)
  response.resume()
  await new Promise((resolve) => response.on('end', resolve))
})
