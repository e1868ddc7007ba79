import { afterEach, beforeEach, expect, it, vi } from 'vitest'
import { Vigil } from '../../src/subnet/etcd/vigil.ts'

interface Question {
  readonly at: number
  readonly signal: AbortSignal
  readonly answer: () => void
  readonly fail: (error: Error) => void
}

const questions: Question[] = []
const stop = new AbortController()
let vigil: Vigil

beforeEach(() => {
  vi.useFakeTimers()
  vi.spyOn(Math, 'random').mockReturnValue(0.4)
  questions.length = 0
  vigil = new Vigil({
    ask: (signal) => new Promise((answer, fail) => questions.push({ at: Date.now(), signal, answer, fail })),
    now: Date.now,
  })
  vigil.begin(Date.now())
})
afterEach(() => {
  vi.useRealTimers()
  vi.restoreAllMocks()
})

const last = (): Question => {
  const question = questions.at(-1)
  if (question === undefined) throw new Error('nothing was asked')
  return question
}

it('asks for all that wait, a second after the failure, and lets all of them go with the answer', async () => {
  const waiting = Promise.all([vigil.wait(stop.signal), vigil.wait(stop.signal)])
  await vi.advanceTimersByTimeAsync(999)
  expect(questions).toHaveLength(0)
  await vi.advanceTimersByTimeAsync(251)
  expect(questions).toHaveLength(1)
  last().answer()
  await waiting
  expect(vigil.away).toBe(false)
  await vi.advanceTimersByTimeAsync(60_000)
  expect(questions).toHaveLength(1)
})

it('tells all that wait of a failure, and asks no more often when they come back at once', async () => {
  for (let i = 1; i <= 10; i++) {
    const waiting = [vigil.wait(stop.signal), vigil.wait(stop.signal)].map((wait) => wait.catch(String))
    await vi.advanceTimersByTimeAsync(1_100)
    expect(questions).toHaveLength(i)
    last().fail(new Error('refused'))
    expect(await Promise.all(waiting)).toEqual(['Error: refused', 'Error: refused'])
  }
  questions.forEach(({ at }, i) => {
    if (i > 0) expect(at - (questions[i - 1]?.at ?? 0)).toBeGreaterThanOrEqual(1_000)
  })
})

it('is not held up by a question that hangs, and gives it up when another is answered', async () => {
  const waiting = vigil.wait(stop.signal)
  await vi.advanceTimersByTimeAsync(3_750)
  expect(questions.length).toBeGreaterThanOrEqual(3)
  last().answer()
  await waiting
  expect(questions.every(({ signal }) => signal.aborted)).toBe(true)
  questions[0]?.fail(new Error('too late'))
  expect(vigil.away).toBe(false)
})

it('goes on to ask for who needs an answer to what was asked later, when something earlier is answered', async () => {
  const since = Date.now()
  let answered = false
  const waiting = Promise.all([
    vigil.wait(stop.signal),
    vigil.answer(since, stop.signal).then(() => {
      answered = true
    }),
  ])
  vigil.end(since - 500)
  await vi.advanceTimersByTimeAsync(1_250)
  expect([vigil.away, answered, questions.length]).toEqual([false, false, 1])
  last().fail(new Error('refused'))
  await vi.advanceTimersByTimeAsync(1_250)
  expect([answered, questions.length]).toEqual([false, 2])
  last().answer()
  await waiting
})

it('bounds the questions that hang', async () => {
  vigil.wait(stop.signal).catch(() => undefined)
  await vi.advanceTimersByTimeAsync(600_000)
  expect(questions).toHaveLength(8)
})

it('asks nothing while nobody waits, and at once when somebody comes later', async () => {
  await vi.advanceTimersByTimeAsync(60_000)
  expect(questions).toHaveLength(0)
  vigil.wait(stop.signal).catch(() => undefined)
  await vi.advanceTimersByTimeAsync(0)
  expect(questions).toHaveLength(1)
})

it('ends at once when aborted, with its questions', async () => {
  const gone = new AbortController()
  const waiting = vigil.wait(gone.signal)
  await vi.advanceTimersByTimeAsync(1_250)
  gone.abort(new Error('stopped'))
  await expect(waiting).rejects.toThrow('stopped')
  expect(last().signal.aborted).toBe(true)
  await expect(vigil.wait(gone.signal)).rejects.toThrow('stopped')
  await vi.advanceTimersByTimeAsync(60_000)
  expect(questions).toHaveLength(1)
})
