/** What systemd is told of a start, a run and an end (sd_notify(3)), and when. */
import { spawnSync } from 'node:child_process'
import { readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { Lab, OURS, peerLeases, waitFor } from './lab.ts'
import { settled } from './settled.ts'

vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 })

const CONFIG = '{"Network":"172.30.0.0/16","SubnetLen":21,"Backend":{"Type":"vxlan"}}'

describe('what systemd is told', () => {
  const noStrace = spawnSync('strace', ['-qq', '-e', 'trace=none', 'true']).status !== 0
  let lab: Lab

  beforeAll(async () => {
    lab = await Lab.create({ nodes: 1 })
    const etcd = await lab.startEtcd()
    await etcd.config(CONFIG)
    await etcd.seed(peerLeases(20, { network: '172.30.0.0', length: 21 }))
  })
  afterAll(() => lab?.close())

  test.skipIf(noStrace)(
    'READY=1 comes after the lease, the last entry in the kernel and both files',
    async () => {
      const trace = join(lab.dir, 'trace')
      const runDir = join(lab.dir, 'traced')
      const daemon = await lab.daemon(1, {
        runDir,
        binary: 'strace',
        flags: [
          ...[
            '-f',
            '-qq',
            '-s',
            '200',
            '-e',
            'trace=sendmsg,sendto,write,writev,rename,renameat,renameat2',
            '-o',
            trace,
          ],
          ...[OURS, ...lab.etcd.flags, '-iface', 'eth0', '-ip-masq'],
          ...['-subnet-file', join(runDir, 'subnet.env'), '-docker-opts-file', join(runDir, 'docker')],
        ],
      })
      await daemon.waitReady()
      // strace's only child: it ends with it.
      const children = readFileSync(`/proc/${daemon.pid}/task/${daemon.pid}/children`, 'utf8')
      process.kill(Number(children), 'SIGTERM')
      await daemon.exited()
      const calls = readFileSync(trace, 'utf8').split('\n')
      const last = (pattern: RegExp): number => calls.findLastIndex((call) => pattern.test(call))
      const lease = last(/PUT \/v2\/keys\/coreos\.com\/network\/subnets\//)
      const kernel = last(/RTM_NEWROUTE/)
      const subnetFile = last(/rename.*\/subnet\.env"/)
      const dockerFile = last(/rename.*\/docker"/)
      const ready = calls.findIndex((call) => call.includes('READY=1'))
      expect(lease).toBeGreaterThan(0)
      expect(kernel).toBeGreaterThan(lease)
      expect(subnetFile).toBeGreaterThan(kernel)
      expect(dockerFile).toBeGreaterThan(kernel)
      expect(ready).toBeGreaterThan(Math.max(subnetFile, dockerFile))
      // This is the first start of the node: all routes are made by it.
      expect(calls.findIndex((call) => call.includes('RTM_NEWROUTE'))).toBeGreaterThan(lease)
    },
  )

  test('STATUS while it starts and runs, READY=1 once, STOPPING=1 at the end', async () => {
    const daemon = await lab.daemon(1)
    await daemon.waitReady()
    await waitFor(() => daemon.notices.some(({ text }) => /^STATUS=.*20 peers/.test(text)), {
      what: () => `the number of peers: ${daemon.notices.map(({ text }) => text).join(' | ')}`,
    })
    await daemon.stop()
    await waitFor(() => daemon.notices.at(-1)?.text === 'STOPPING=1', { what: 'STOPPING=1' })
    const texts = daemon.notices.map(({ text }) => text)
    expect(texts.filter((text) => text === 'READY=1')).toHaveLength(1)
    expect(texts[0]).toBe('STATUS=waiting for the network config from etcd')
    expect(texts.filter((text) => !/^(STATUS=[^\n]+|READY=1|STOPPING=1)$/.test(text))).toEqual([])
  })

  test('WATCHDOG=1 again and again when WATCHDOG_USEC asks for it, and not when it asks another process', async () => {
    const daemon = await lab.daemon(1, { env: { WATCHDOG_USEC: '400000' } })
    const pings = (): number => daemon.notices.filter(({ text }) => text === 'WATCHDOG=1').length
    await waitFor(() => pings() >= 6, { what: 'six pings' })
    await daemon.stop()
    const other = await lab.daemon(1, { env: { WATCHDOG_USEC: '100000', WATCHDOG_PID: '1' } })
    await other.waitReady()
    await other.stop()
    expect(other.notices.filter(({ text }) => text === 'WATCHDOG=1')).toEqual([])
  })

  test('an abstract socket is told the same', async () => {
    const name = `flanneld-test-${process.pid}`
    const script = `import socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind('\\0${name}')
print('bound', flush=True)
while True: print(s.recv(4096).decode(), flush=True)`
    const child = lab.node(1).start(['python3', '-c', script], { stdio: ['ignore', 'pipe', 'inherit'] })
    lab.onClose(() => void child.kill('SIGKILL'))
    const heard: string[] = []
    if (child.stdout) createInterface(child.stdout).on('line', (line) => heard.push(line))
    await waitFor(() => heard.includes('bound'), { what: 'the listener' })
    const daemon = await lab.daemon(1, { notify: false, env: { NOTIFY_SOCKET: `@${name}` } })
    await waitFor(() => heard.includes('READY=1'), { what: 'READY=1' })
    await daemon.stop()
    await waitFor(() => heard.includes('STOPPING=1'), { what: 'STOPPING=1' })
  })

  test('a socket that nobody reads is no reason not to start', async () => {
    const daemon = await lab.daemon(1, { notify: false, env: { NOTIFY_SOCKET: '/nowhere/notify' } })
    await daemon.waitLog(/Cannot tell systemd that flanneld is ready: .*\/nowhere\/notify.*ENOENT/)
    await settled(lab, daemon, 1)
    await daemon.stop()
    rmSync(daemon.subnetFile)
  })
})
