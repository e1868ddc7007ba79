import { afterEach, beforeEach, expect, it, vi } from 'vitest'
import { Doubt, Overtaken } from '../../src/subnet/etcd/doubt.ts'
import { Vigil } from '../../src/subnet/etcd/vigil.ts'

/** When each silence that was told began. */
const silences: number[] = []
let givenUp: Error | undefined
let answers: (() => void)[]
let vigil: Vigil
let doubt: Doubt

const exchange = {
  giveUp: (error: Error): void => {
    givenUp = error
  },
}

beforeEach(() => {
  vi.useFakeTimers({ now: 0 })
  vi.spyOn(Math, 'random').mockReturnValue(0.4)
  silences.length = 0
  givenUp = undefined
  answers = []
  vigil = new Vigil({ ask: () => new Promise((answer) => answers.push(answer)), now: Date.now })
  doubt = new Doubt({
    ms: 1_000,
    now: Date.now,
    vigil,
    onSilence: (since) => {
      silences.push(since)
      vigil.begin(since)
    },
  })
  doubt.attend(exchange, 0)
})
afterEach(() => {
  vi.useRealTimers()
  vi.restoreAllMocks()
})

it('gives up what is silent for a second while etcd answers what it is asked after that', async () => {
  doubt.expect()
  await vi.advanceTimersByTimeAsync(1_100)
  expect([silences, answers.length, givenUp]).toEqual([[0], 1, undefined])
  answers[0]?.()
  await vi.advanceTimersByTimeAsync(0)
  expect(givenUp).toBeInstanceOf(Overtaken)
})

it('never asks as long as something comes in each second', async () => {
  doubt.expect()
  for (let i = 0; i < 60; i++) {
    await vi.advanceTimersByTimeAsync(900)
    doubt.settle()
    doubt.expect()
  }
  expect(silences).toEqual([])
})

it('believes it again when something comes before the answer, and counts anew', async () => {
  doubt.expect()
  await vi.advanceTimersByTimeAsync(2_000)
  doubt.settle()
  doubt.expect()
  expect(vigil.away).toBe(false)
  answers[0]?.()
  await vi.advanceTimersByTimeAsync(900)
  expect(givenUp).toBeUndefined()
  await vi.advanceTimersByTimeAsync(1_200)
  expect(silences).toEqual([0, 2_000])
  answers.at(-1)?.()
  await vi.advanceTimersByTimeAsync(0)
  expect(givenUp).toBeInstanceOf(Overtaken)
})

it('leaves the vigil to others when it ends without an answer', async () => {
  doubt.expect()
  await vi.advanceTimersByTimeAsync(1_100)
  doubt.drop()
  answers[0]?.()
  await vi.advanceTimersByTimeAsync(5_000)
  expect([vigil.away, answers.length, givenUp]).toEqual([true, 1, undefined])
})

it('ends the vigil when another exchange of the request is answered', async () => {
  doubt.expect()
  await vi.advanceTimersByTimeAsync(1_010)
  doubt.drop()
  doubt.attend(exchange, 1_010)
  doubt.expect()
  expect(vigil.away).toBe(true)
  doubt.settle()
  expect(vigil.away).toBe(false)
})

it('gives up no second exchange of a request', async () => {
  doubt.expect()
  await vi.advanceTimersByTimeAsync(1_100)
  answers[0]?.()
  await vi.advanceTimersByTimeAsync(0)
  givenUp = undefined
  doubt.drop()
  doubt.attend(exchange, 1_100)
  doubt.expect(1_100)
  await vi.advanceTimersByTimeAsync(60_000)
  expect([silences, givenUp]).toEqual([[0], undefined])
})
