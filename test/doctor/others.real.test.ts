/** An etcd behind TLS, and a backend that is not vxlan: what is well there must not be called a fault. */
import { chmodSync } from 'node:fs'
import { expect, it, onTestFinished } from 'vitest'
import { Lab, waitFor } from '../netns/lab.ts'
import { amiss, diagnose } from './run.ts'

it('reads etcd over TLS, and names certificates that end and a key that others may read', async () => {
  const lab = await Lab.create()
  onTestFinished(() => lab.close())
  const etcd = await lab.startEtcd({ tls: true })
  await etcd.config({ Network: '100.64.0.0/10', Backend: { Type: 'vxlan' } })
  await lab.node(1).run('sysctl', '-q', '-w', 'net.ipv4.ip_forward=1')
  const key = etcd.tls?.clientKeyFile ?? ''
  chmodSync(key, 0o644)
  const nowhere = ['-subnet-file=/nowhere/s', '-docker-opts-file=', '-control-socket=/nowhere/sock']
  const found = await diagnose(lab.node(1), ...etcd.flags, '-iface', 'eth0', ...nowhere)
  // The lab's certificates last two days.
  expect(amiss(found)).toEqual([
    `warn files: ${key} (-etcd-keyfile) has mode 644`,
    expect.stringMatching(/^warn certificates: \S+ \(-etcd-certfile\) ends on /),
    expect.stringMatching(/^warn certificates: \S+ \(-etcd-cafile\) ends on /),
  ])
  expect(found.exit).toBe(1)
  expect(found.findings).toContainEqual(expect.objectContaining({ check: 'clock', level: 'ok' }))
})

it('host-gw has no device to look for', async () => {
  const lab = await Lab.create({ nodes: 2 })
  onTestFinished(() => lab.close())
  const etcd = await lab.startEtcd()
  await etcd.config({ Network: '100.64.0.0/10', Backend: { Type: 'host-gw' } })
  await lab.node(1).run('sysctl', '-q', '-w', 'net.ipv4.ip_forward=1')
  const daemons = [await lab.daemon(1), await lab.daemon(2)]
  for (const daemon of daemons) await daemon.waitReady()
  const socket = daemons[0]?.controlSocket ?? ''
  await waitFor(async () => amiss(await diagnose(lab.node(1), '-control-socket', socket)).length === 0, {
    what: 'nothing to be amiss',
  })
})
