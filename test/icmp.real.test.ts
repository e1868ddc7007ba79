import { execFileSync } from 'node:child_process'
import { expect, it, onTestFinished } from 'vitest'
import { EchoSocket } from '../src/icmp.ts'
import { type Ipv4, parseIpv4 } from '../src/ip.ts'
import { loadAddon, openIcmpSocket } from '../src/native.ts'
import { ensureAddon } from './native/addons.ts'
import { waitFor } from './netns/wait.ts'

const LOOPBACK = parseIpv4('127.0.0.1') as Ipv4
const OTHER = parseIpv4('127.1.2.3') as Ipv4
/** Its route is in no table but as the broadcast address, which a socket must ask for. */
const BROADCAST = parseIpv4('255.255.255.255') as Ipv4
const EACCES = 13
const EMSGSIZE = 90

function open(size?: number): { echo: EchoSocket; answers: string[] } {
  const socket = openIcmpSocket(loadAddon(ensureAddon()))
  if (typeof socket === 'number') throw new Error(`errno ${socket}`)
  const answers: string[] = []
  const echo = new EchoSocket(
    socket,
    (from, sequence) => answers.push(`${from.toString(16)} ${sequence}`),
    size,
  )
  onTestFinished(() => echo.close())
  return { echo, answers }
}

it.each([undefined, 1401, 1402])('gets the answers to its own pings alone, of %s bytes', async (size) => {
  const { echo, answers } = open(size)
  const { echo: others, answers: theirs } = open()
  execFileSync('ping', ['-q', '-c', '3', '-i', '0.01', '127.0.0.1'])
  expect([echo.send(LOOPBACK, 0), echo.send(LOOPBACK, 0xffff), echo.send(OTHER, 7)]).toEqual([0, 0, 0])
  expect(others.send(LOOPBACK, 9)).toBe(0)
  await waitFor(() => theirs.length > 0 && answers.length >= 3, { what: 'the answers' })
  expect(answers.sort()).toEqual(['7f000001 0', '7f000001 65535', '7f010203 7'])
  expect(theirs).toEqual(['7f000001 9'])
})

it('tells why a ping does not leave, and never fragments one', () => {
  expect(open().echo.send(BROADCAST, 1)).toBe(-EACCES)
  expect(open(65_535).echo.send(LOOPBACK, 1)).toBe(0)
  expect(open(65_536 + 20).echo.send(LOOPBACK, 1)).toBe(-EMSGSIZE)
})

it('may be closed while it takes an answer', async () => {
  const socket = openIcmpSocket(loadAddon(ensureAddon()))
  if (typeof socket === 'number') throw new Error(`errno ${socket}`)
  let answers = 0
  const echo: EchoSocket = new EchoSocket(socket, () => {
    answers++
    echo.close()
  })
  for (const sequence of [1, 2, 3]) echo.send(LOOPBACK, sequence)
  await waitFor(() => answers > 0, { what: 'an answer' })
  expect(() => echo.send(LOOPBACK, 4)).toThrow('the socket is closed')
  echo.close()
})
