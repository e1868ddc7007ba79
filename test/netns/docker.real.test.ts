/** Docker as an operator runs it behind flannel: two hosts, the options file, containers that talk across. */
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { Dockerd, noDocker } from './dockerd.ts'
import { type Daemon, Lab, waitFor } from './lab.ts'
import { startMirror } from './mirror.ts'
import { ruled, settled } from './settled.ts'

vi.setConfig({ testTimeout: 90_000, hookTimeout: 120_000 })

const missing = noDocker()
if (missing !== undefined)
  process.stderr.write(`docker tests skipped: ${missing}; install docker.io and busybox-static\n`)

describe.skipIf(missing !== undefined)('dockerd with the options that flanneld wrote', () => {
  let lab: Lab
  const daemons: Daemon[] = []
  const hosts: Dockerd[] = []
  const addresses: string[] = []

  beforeAll(async () => {
    lab = await Lab.create({ nodes: 2 })
    await (await lab.startEtcd()).config(
      '{"Network":"172.30.0.0/16","SubnetLen":21,"Backend":{"Type":"vxlan"}}',
    )
    for (const i of [1, 2]) daemons.push(await lab.daemon(i, { args: ['-ip-masq'] }))
    for (const daemon of daemons) {
      await daemon.waitReady()
      await ruled(daemon)
    }
    hosts.push(...(await Promise.all(daemons.map((daemon) => Dockerd.start(lab, daemon)))))
    for (const host of hosts) addresses.push(await host.container('web'))
  })
  afterAll(() => lab?.close())

  test('docker0 has the address and the containers have the MTU of the lease', async () => {
    for (const [i, daemon] of daemons.entries()) {
      const { FLANNEL_SUBNET, FLANNEL_MTU } = daemon.subnetEnv()
      expect(await daemon.namespace.ip('-4 address show dev docker0')).toContain(`inet ${FLANNEL_SUBNET} `)
      expect(await hosts[i]?.exec('web', '/bin/busybox', 'ip', 'link', 'show', 'eth0')).toContain(
        `mtu ${FLANNEL_MTU} `,
      )
    }
  })

  test('a container reaches one on the other host, which sees its own address', async () => {
    for (const [from, to] of [
      [0, 1],
      [1, 0],
    ] as const) {
      const address = addresses[to] ?? ''
      await hosts[from]?.exec('web', '/bin/ping', '-c', '1', '-W', '3', address)
      const seen = await hosts[from]?.exec(
        'web',
        '/bin/wget',
        '-q',
        '-O',
        '-',
        `http://${address}/cgi-bin/who`,
      )
      expect(seen).toBe(addresses[from])
    }
  })

  test('a packet as large as the MTU crosses, without a fragment', async () => {
    const size = Number(daemons[0]?.subnetEnv().FLANNEL_MTU) - 28
    const ping = ['/bin/ping', '-c', '1', '-W', '3', '-s', String(size), addresses[1] ?? '']
    expect(await hosts[0]?.exec('web', ...ping)).toContain('1 packets received')
    const counters = await daemons[0]?.namespace.run('nstat', '-az', 'IpFragCreates')
    expect(counters).toMatch(/IpFragCreates +0 /)
  })

  test('the world outside sees the host', async () => {
    const outside = await startMirror(lab.switch)
    lab.onClose(() => outside.close())
    for (const [i, host] of hosts.entries()) {
      expect(await host.exec('web', '/bin/nc', '-w', '3', lab.outside, '7007')).toBe(lab.address(i + 1))
    }
  })

  test('flanneld is killed and started again, and restores what was flushed, with docker running on', async () => {
    const [daemon] = daemons
    if (!daemon) throw new Error('no daemon')
    await daemon.stop('SIGKILL')
    await daemon.namespace.ip('route flush dev flannel.1')
    const again = await lab.daemon(1, { args: ['-ip-masq'] })
    await again.waitReady()
    await settled(lab, again, 1)
    await hosts[0]?.exec('web', '/bin/ping', '-c', '1', '-W', '3', addresses[1] ?? '')
    // Docker's chains are docker's: ours are the six rules, once each.
    await ruled(again)
    await waitFor(async () => (await again.namespace.run('iptables-save')).includes('-A DOCKER'), {
      what: 'docker',
    })
  })
})
