import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it, onTestFinished } from 'vitest'
import { run } from '../../src/commands/status.ts'
import { type ControlSocket, openControlSocket } from '../../src/control.ts'
import { status } from '../page/world.ts'
import { LogLines } from '../subnet/support.ts'

it('-watch goes on while there is no daemon, and shows the one that comes', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'status-'))
  const socket = join(folder, 'flanneld.sock')
  const view = {
    status,
    peers: () => [],
    events: { since: () => [] },
    logLevel: 'info',
    setLogLevel() {},
  } as const
  let daemon: ControlSocket | undefined
  onTestFinished(async () => {
    await daemon?.close()
    rmSync(folder, { recursive: true })
  })
  const seen: string[] = []
  const enough = new Error('enough')
  const write = (text: string): void => {
    seen.push(text)
    if (seen.length === 1)
      void openControlSocket(socket, view, new LogLines()).then((opened) => (daemon = opened))
    if (text.includes('state')) throw enough
  }
  const context = { env: {}, version: '', out: { write }, err: { write } }
  await expect(run(['-watch', '-socket', socket], context)).rejects.toBe(enough)
  expect(seen[0]).toBe(
    `flanneld status: no flanneld is running here: there is no ${socket}; if its -control-socket is another, name that with -socket\n\n`,
  )
  expect(seen.at(-1)).toMatch(/state +ready/)
})
