import { execFileSync } from 'node:child_process'
import { expect, it, onTestFinished } from 'vitest'
import { type EchoSocket, openEchoSocket } from '../src/icmp.ts'
import { type Ipv4, parseIpv4 } from '../src/ip.ts'
import { ensureAddon } from './native/addons.ts'
import { waitFor } from './netns/wait.ts'

const LOOPBACK = parseIpv4('127.0.0.1') as Ipv4
const OTHER = parseIpv4('127.1.2.3') as Ipv4

function open(): { socket: EchoSocket; answers: string[] } {
  ensureAddon()
  const socket = openEchoSocket()
  onTestFinished(() => socket.close())
  const answers: string[] = []
  socket.onReadable(() => {
    for (let answer = socket.receive(); answer !== undefined; answer = socket.receive())
      answers.push(`${answer.from.toString(16)} ${answer.sequence}`)
  })
  return { socket, answers }
}

it.each([28, 84, 1401, 1450])('gets the answers to its own pings alone, of %i bytes', async (size) => {
  const [ours, others] = [open(), open()]
  const ping = (to: Ipv4, sequence: number, from?: Ipv4): boolean =>
    ours.socket.send({ to, from, size, sequence })
  execFileSync('ping', ['-q', '-c', '3', '-i', '0.01', '127.0.0.1'])
  expect([ping(LOOPBACK, 0), ping(LOOPBACK, 0xffff, OTHER), ping(OTHER, 7)]).toEqual([true, true, true])
  expect(others.socket.send({ to: LOOPBACK, from: undefined, size, sequence: 9 })).toBe(true)
  await waitFor(() => others.answers.length > 0 && ours.answers.length >= 3, { what: 'the answers' })
  expect(ours.answers.sort()).toEqual(['7f000001 0', '7f000001 65535', '7f010203 7'])
  expect(others.answers).toEqual(['7f000001 9'])
})

it('tells when a ping does not even leave', () => {
  const { socket } = open()
  const broadcast = parseIpv4('255.255.255.255') as Ipv4
  expect(socket.send({ to: broadcast, from: undefined, size: 84, sequence: 1 })).toBe(false)
  expect(socket.send({ to: LOOPBACK, from: undefined, size: 65_535, sequence: 1 })).toBe(true)
})
