import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { systemClock } from '../src/clock.ts'
import type { Logger } from '../src/log.ts'
import { notify } from '../src/native.ts'
import { Systemd } from '../src/systemd.ts'

/** Prints a line when bound, then each datagram with the length of what came. */
const listener = `
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
a = sys.argv[1]
s.bind('\\0' + a[1:] if a[0] == '@' else a)
print('bound', flush=True)
while True:
    m = s.recv(4096)
    print(len(m), m.decode(), flush=True)
`

const silent: Logger = { trace() {}, debug() {}, info() {}, warn() {}, error() {} }

test.each(['path', 'abstract'])('a listener on a socket of kind %s hears us', async (kind) => {
  const folder = mkdtempSync(join(tmpdir(), 'notify-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  const address = kind === 'path' ? join(folder, 'socket') : `@flanneld-test-${process.pid}`
  const child = spawn('python3', ['-c', listener, address], { stdio: ['ignore', 'pipe', 'inherit'] })
  onTestFinished(() => void child.kill('SIGKILL'))

  let heard = ''
  child.stdout.on('data', (chunk: Buffer) => {
    heard += chunk.toString()
  })
  const hear = async (text: string): Promise<void> => {
    while (!heard.includes(text)) await once(child.stdout, 'data')
  }
  await hear('bound\n')
  const systemd = new Systemd({
    env: { NOTIFY_SOCKET: address },
    send: notify,
    clock: systemClock,
    log: silent,
  })
  await systemd.ready()
  systemd.stopping()
  await hear('STOPPING=1\n')
  expect(heard).toBe('bound\n7 READY=1\n10 STOPPING=1\n')
})

test('no listener, no harm', async () => {
  const warnings: string[] = []
  const log: Logger = { ...silent, warn: (message) => void warnings.push(message) }
  const env = { NOTIFY_SOCKET: '/nowhere/notify' }
  await new Systemd({ env, send: notify, clock: systemClock, log }).ready()
  expect(warnings).toEqual(['Cannot tell systemd that flanneld is ready: notify /nowhere/notify: ENOENT'])
})
