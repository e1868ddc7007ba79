/** An etcd behind TLS, and backends other than vxlan: what is well there must not be called a fault. */
import { chmodSync } from 'node:fs'
import { expect, it, onTestFinished } from 'vitest'
import { Lab, waitFor } from '../netns/lab.ts'
import { amiss, diagnose, found } from './run.ts'

it('reads etcd over TLS, and names certificates that end and a key that others may read', async () => {
  const lab = await Lab.create()
  onTestFinished(() => lab.close())
  const etcd = await lab.startEtcd({ tls: true })
  await etcd.config({ Network: '100.64.0.0/10', Backend: { Type: 'vxlan' } })
  await lab.node(1).run('sysctl', '-q', '-w', 'net.ipv4.ip_forward=1')
  const key = etcd.tls?.clientKeyFile ?? ''
  chmodSync(key, 0o644)
  const nowhere = ['-subnet-file=/nowhere/s', '-docker-opts-file=', '-control-socket=/nowhere/sock']
  const diagnosis = await diagnose(lab.node(1), ...etcd.flags, '-iface', 'eth0', ...nowhere)
  // The lab's certificates last two days.
  expect(amiss(diagnosis)).toEqual([
    `warn files: ${key} (-etcd-keyfile) has mode 644`,
    expect.stringMatching(/^warn certificates: \S+ \(-etcd-certfile\) ends on /),
    expect.stringMatching(/^warn certificates: \S+ \(-etcd-cafile\) ends on /),
  ])
  expect(diagnosis.exit).toBe(1)
  expect(diagnosis.findings).toContainEqual(expect.objectContaining({ check: 'clock', level: 'ok' }))
})

/** Two nodes with this backend, of which the first is well. */
async function pair(type: string) {
  const lab = await Lab.create({ nodes: 2 })
  onTestFinished(() => lab.close())
  const etcd = await lab.startEtcd()
  await etcd.config({ Network: '100.64.0.0/10', Backend: { Type: type } })
  await lab.node(1).run('sysctl', '-q', '-w', 'net.ipv4.ip_forward=1')
  const [first, second] = [await lab.daemon(1), await lab.daemon(2)]
  for (const daemon of [first, second]) await daemon.waitReady()
  const look = (...args: string[]) => diagnose(lab.node(1), '-control-socket', first.controlSocket, ...args)
  await waitFor(
    async () => {
      const { findings, peers } = await look()
      return findings.every(({ level }) => level === 'ok') && peers.length === 1
    },
    { what: 'nothing to be amiss' },
  )
  /** The daemon would mend it before anybody can look, and cannot be asked meanwhile. */
  const lookHeld = (change: string) => {
    first.signal('SIGSTOP')
    onTestFinished(() => first.signal('SIGCONT'))
    return lab
      .node(1)
      .ip(change)
      .then(() =>
        diagnose(
          lab.node(1),
          ...etcd.flags,
          '-iface=eth0',
          '-ping=false',
          `-subnet-file=${first.subnetFile}`,
          `-docker-opts-file=${first.dockerFile}`,
          '-control-socket=/nowhere/sock',
        ),
      )
  }
  return { lab, look, lookHeld, peer: second.leaseKey().replace('-', '/') }
}

it('host-gw: a node that is off, a link with a smaller MTU, a lost route', async () => {
  const { lab, look, lookHeld, peer } = await pair('host-gw')
  const well = await look()
  expect(well.peers).toMatchObject([{ verdict: 'well', lossPercent: 0 }])
  expect(found(well, 'MTU')).toMatchObject([{ level: 'ok', what: 'eth0 has 1500' }])
  await lab.switch.ip('link set p2 mtu 1400')
  const [narrow] = found(await look(), 'path MTU')
  expect(narrow).toMatchObject({
    level: 'fail',
    what: expect.stringMatching(/ takes 140[04] bytes$/),
    mend: expect.stringMatching(/ip link set eth0 mtu 140[04]$/),
  })
  await lab.switch.ipBatch(['link set p2 mtu 1500', 'link set p2 down'])
  expect(amiss(await look())).toEqual([
    `fail peers: 1 of 1 peers does not answer: ${peer} (${lab.address(2)})`,
  ])
  await lab.switch.ip('link set p2 up')
  const lost = await lookHeld(`route del ${peer}`)
  expect(found(lost, 'routes')).toMatchObject([{ level: 'fail', what: `1 amiss: ${peer} is missing` }])
})

it('udp: a port that is blocked, a lost route', async () => {
  const { lab, look, lookHeld } = await pair('udp')
  const well = await look()
  expect(found(well, 'device')).toMatchObject([{ level: 'ok', what: 'flannel0 is as it should be' }])
  expect(found(well, 'UDP port')).toMatchObject([{ level: 'ok' }])
  await lab.node(2).run('iptables', '-I', 'INPUT', '-p', 'udp', '--dport', '8285', '-j', 'DROP')
  expect(found(await look(), 'peers')).toMatchObject([
    { level: 'fail', why: expect.stringMatching(/^UDP port 8285 is blocked on the way/) },
  ])
  const lost = await lookHeld('route del 100.64.0.0/10')
  expect(found(lost, 'routes')).toMatchObject([{ level: 'fail', what: '1 amiss: 100.64.0.0/10 is missing' }])
})
