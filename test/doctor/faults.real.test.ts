/** Makes each fault on two nodes of the lab and sees it named; and nothing named when all is well. */
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { type Daemon, Lab, peerLeases, waitFor } from '../netns/lab.ts'
import { amiss, type Diagnosis, diagnose, doctor, doctorLine, found } from './run.ts'

const CONFIG = { Network: '100.64.0.0/10', SubnetLen: 24, Backend: { Type: 'vxlan' } }

let lab: Lab
let daemons: [Daemon, Daemon]

beforeAll(async () => {
  lab = await Lab.create({ nodes: 2 })
  const etcd = await lab.startEtcd()
  await etcd.config(CONFIG)
  await sysctl('net.ipv4.ip_forward=1')
  daemons = [await lab.daemon(1, { args: ['-ip-masq'] }), await lab.daemon(2)]
  for (const daemon of daemons) await daemon.waitReady()
  await waitFor(() => existsSync(daemons[0].controlSocket), { what: 'the control socket' })
  await waitFor(async () => (await lab.node(1).fdb('flannel.1')).length === 1, { what: 'the peer' })
  await waitFor(async () => (await lab.node(2).fdb('flannel.1')).length === 1, { what: 'the peer' })
  await waitFor(async () => amiss(await look('-ping=false')).length === 0, {
    what: 'a node that is well',
  })
})
afterAll(() => lab.close())

const look = (...args: string[]): Promise<Diagnosis> =>
  diagnose(lab.node(1), '-control-socket', daemons[0].controlSocket, ...args)

function sysctl(setting: string): Promise<string> {
  return lab.node(1).run('sysctl', '-q', '-w', setting)
}

/** Awaited, unlike a promise that nobody returns: the next test must not see it happen. */
function undo(action: () => Promise<unknown>): void {
  onTestFinished(async () => void (await action()))
}

/** The daemon would mend it before anybody can look. */
function hold(i: 0 | 1 = 0): void {
  daemons[i].signal('SIGSTOP')
  onTestFinished(() => daemons[i].signal('SIGCONT'))
}

/** Without the daemon, which is held: the flags then come from the command line. */
function lookAlone(...args: string[]): Promise<Diagnosis> {
  const { subnetFile, dockerFile } = daemons[0]
  const files = ['-subnet-file', subnetFile, '-docker-opts-file', dockerFile, '-control-socket=/nowhere/sock']
  return diagnose(lab.node(1), ...lab.etcd.flags, '-iface', 'eth0', ...files, ...args)
}

it('finds nothing when all is well, and says what it has seen', async () => {
  const diagnosis = await look()
  expect(amiss(diagnosis)).toEqual([])
  expect(diagnosis.exit).toBe(0)
  expect(diagnosis.peers).toMatchObject([{ verdict: 'well', lossPercent: 0, rttMs: expect.any(Number) }])
  const checks = new Set(diagnosis.findings.map(({ check }) => check))
  for (const check of [
    'flanneld',
    'kernel',
    'FORWARD policy',
    'masquerade',
    'routes',
    'FDB entries',
    'path MTU',
    'clock',
  ])
    expect(checks).toContain(check)
})

it('prints 80 columns without colour', async () => {
  const { code, out } = await doctor(lab.node(1), '-control-socket', daemons[0].controlSocket)
  expect(code).toBe(0)
  expect(out).toMatch(/^All is well: \d+ ok, 0 warn, 0 fail$/m)
  expect(out).not.toContain('\x1b')
  for (const line of out.split('\n')) expect(line.length).toBeLessThanOrEqual(80)
})

it('shows on a terminal how many peers have been pinged, and leaves nothing of that', async () => {
  const line = doctorLine('-control-socket', daemons[0].controlSocket)
  const text = await lab.node(1).run('script', '-qec', line, '/dev/null')
  expect(text).toContain('\rpinging peers: 1 of 1\x1b[K\r\x1b[K')
  expect(text).toContain('\x1b[32mok')
})

it('-fix refuses where it cannot ask', async () => {
  const { code, err } = await doctor(lab.node(1), '-fix', '-control-socket', daemons[0].controlSocket)
  expect([code, err]).toEqual([2, expect.stringContaining('-fix asks before it changes anything')])
})

it('-fix asks, mends after a yes, and looks again', async () => {
  await sysctl('net.ipv4.ip_forward=0')
  undo(() => sysctl('net.ipv4.ip_forward=1'))
  const node = lab.node(1)
  const line = doctorLine('-fix', '-ping=false', '-control-socket', daemons[0].controlSocket)
  // script(1) is the terminal.
  const child = node.start(['script', '-qec', line, '/dev/null'], { stdio: ['pipe', 'pipe', 'inherit'] })
  onTestFinished(() => void child.kill())
  let text = ''
  child.stdout?.on('data', (part: Buffer) => {
    const asks = /\[y\/N\] /
    const before = asks.test(text)
    text += part.toString()
    if (!before && asks.test(text)) child.stdin?.write('y\n')
  })
  await new Promise((resolve) => child.once('close', resolve))
  expect(text).toContain('Run: sysctl -w net.ipv4.ip_forward=1 [y/N] ')
  expect(text).toMatch(/done\s[\s\S]*All is well/)
  expect((await node.run('sysctl', '-n', 'net.ipv4.ip_forward')).trim()).toBe('1')
  expect(child.exitCode).toBe(0)
})

describe('kernel and firewall', () => {
  it.each([
    ['net.ipv4.ip_forward=0', 'net.ipv4.ip_forward=1', 'fail ip_forward: net.ipv4.ip_forward is 0'],
    [
      'net/ipv4/conf/eth0/rp_filter=1',
      'net/ipv4/conf/eth0/rp_filter=0',
      'warn rp_filter: rp_filter is strict (1) on eth0',
    ],
  ])('%s', async (bad, good, named) => {
    await sysctl(bad)
    undo(() => sysctl(good))
    expect(amiss(await look('-ping=false'))).toContain(named)
  })

  it('a FORWARD policy of DROP without rules', async () => {
    hold()
    const node = lab.node(1)
    const rules = (await node.run('iptables', '-S', 'FORWARD'))
      .split('\n')
      .filter((rule) => rule.startsWith('-A'))
    await node.run('iptables', '-P', 'FORWARD', 'DROP')
    expect(amiss(await lookAlone('-ping=false')).join()).not.toContain('FORWARD policy')
    await node.run('iptables', '-F', 'FORWARD')
    const diagnosis = await lookAlone('-ping=false')
    await node.run('iptables', '-P', 'FORWARD', 'ACCEPT')
    for (const rule of rules) await node.run('iptables', ...rule.split(' '))
    expect(amiss(diagnosis).join('\n')).toContain(
      'fail FORWARD policy: the policy of FORWARD is DROP (iptables)',
    )
    expect(diagnosis.exit).toBe(2)
  })
})

describe('device and tables', () => {
  it('a lost route, ARP and FDB entry, and entries of nobody', async () => {
    hold()
    const node = lab.node(1)
    const peer = daemons[1].leaseKey().replace('-', '/')
    const address = peer.replace(/\/.*/, '')
    const [fdb] = await node.fdb('flannel.1')
    const mac = fdb?.split(' ')[0]
    await node.ipBatch([`route del ${peer} dev flannel.1`, `neigh del ${address} dev flannel.1`])
    await node.bridge(`fdb del ${mac} dev flannel.1 dst ${lab.address(2)} self`)
    await node.bridge('fdb add 02:00:00:00:00:99 dev flannel.1 dst 10.77.9.9 self permanent')
    const lines = amiss(await lookAlone('-ping=false')).join('\n')
    expect(lines).toContain(`fail routes: 1 amiss: ${peer} is missing`)
    expect(lines).toContain(`fail ARP entries: 1 amiss: ${address} -> ${mac} is missing`)
    expect(lines).toContain(`${mac} dst ${lab.address(2)} is missing, 02:00:00:00:00:99 has no lease`)
    expect(lines).toContain('warn flanneld: no flanneld is running here')
    daemons[0].signal('SIGCONT')
    await waitFor(
      async () => (await node.fdb('flannel.1')).length === 1 && (await node.routes()).join().includes(peer),
      {
        what: 'the daemon to mend it',
      },
    )
    await waitFor(async () => amiss(await look('-ping=false')).length === 0, { what: 'all to be well again' })
  })

  it('an MTU that is too large, a subnet file of another lease', async () => {
    hold()
    const node = lab.node(1)
    const { subnetFile } = daemons[0]
    const text = readFileSync(subnetFile, 'utf8')
    writeFileSync(subnetFile, text.replace(/SUBNET=.*/, 'SUBNET=100.99.0.1/24').replace('1450', '1500'))
    await node.ip('link set eth0 mtu 1400')
    const lines = amiss(await lookAlone('-ping=false')).join('\n')
    await node.ip('link set eth0 mtu 1500')
    writeFileSync(subnetFile, text)
    expect(lines).toContain('fail MTU: flannel.1 has MTU 1450; eth0 leaves room for 1350')
    expect(lines).toContain('the subnet file says FLANNEL_MTU=1500, flannel.1 has 1450')
    expect(lines).toMatch(/warn subnet file: .* it says 100\.99\.0\.0\/24, the lease is/)
  })

  it('a device that is down and has lost its address, and one that is gone', async () => {
    hold()
    const node = lab.node(1)
    const address = daemons[0].leaseKey().replace(/-.*/, '')
    await node.ipBatch([`address del ${address}/32 dev flannel.1`, 'link set flannel.1 down'])
    const down = await lookAlone('-ping=false')
    expect(found(down, 'device').map(({ level, what }) => `${level} ${what}`)).toEqual([
      'fail flannel.1: it is down',
      `fail flannel.1: it lacks the address ${address}`,
    ])
    await node.ip('link del flannel.1')
    const gone = await lookAlone('-ping=false')
    expect(found(gone, 'device')).toMatchObject([{ level: 'fail', what: 'there is no flannel.1' }])
    expect([down.exit, gone.exit]).toEqual([2, 2])
    daemons[0].signal('SIGCONT')
    await waitFor(async () => amiss(await look('-ping=false')).length === 0, { what: 'all to be well again' })
  })

  it('a route that overlaps, another VXLAN device on the port', async () => {
    const node = lab.node(1)
    await node.ipBatch([
      'link add other0 type vxlan id 77 dstport 8472 local 10.77.1.2 dev eth0',
      'link add away0 type bridge',
      'link set away0 up',
      'route add 100.70.0.0/16 dev away0',
    ])
    const lines = amiss(await look('-ping=false')).join('\n')
    await node.ipBatch(['link del other0', 'link del away0'])
    expect(lines).toContain('warn UDP port: other0 uses UDP port 8472 too')
    expect(lines).toContain(
      'overlapping routes: the network 100.64.0.0/10 overlaps with 100.70.0.0/16 dev away0',
    )
  })

  it('a bridge of Docker outside the lease', async () => {
    const node = lab.node(1)
    await node.ipBatch([
      'link add docker0 type bridge',
      'address add 172.17.0.1/16 dev docker0',
      'link set docker0 up',
    ])
    const lines = amiss(await look('-ping=false')).join('\n')
    await node.ip('link del docker0')
    expect(lines).toContain('fail docker bridge: docker0 has 172.17.0.1/16, the lease is ')
    expect(lines).toContain('warn docker MTU: docker0 has MTU 1500, flannel.1 only 1450')
  })
})

it('a daemon that is not ready, since it cannot write its rules', async () => {
  const node = await lab.addNode()
  await node.run('sysctl', '-q', '-w', 'net.ipv4.ip_forward=1')
  const broken = join(lab.dir, 'broken')
  mkdirSync(broken)
  for (const program of ['iptables', 'iptables-restore', 'iptables-save'])
    writeFileSync(join(broken, program), '#!/bin/sh\necho "Fatal: no such table" >&2; exit 3\n', {
      mode: 0o755,
    })
  const daemon = await lab.daemon(3, { args: ['-ip-masq'], env: { PATH: `${broken}:${process.env.PATH}` } })
  await waitFor(() => /no such table/.test(daemon.log()), { what: 'iptables to fail' })
  const lines = await diagnose(node, '-ping=false', '-control-socket', daemon.controlSocket)
  expect(found(lines, 'flanneld')).toMatchObject([
    {
      level: 'fail',
      what: expect.stringMatching(/is not ready: .*firewall rules are failing: .*no such table/),
    },
  ])
  expect(found(lines, 'masquerade')).toMatchObject([
    { level: 'fail', what: '-ip-masq is set, but no rule masquerades 100.64.0.0/10' },
  ])
  await daemon.stop()
  await lab.etcd.delete(`/coreos.com/network/subnets/${daemon.leaseKey()}`)
})

it('another program on the port, before the first start', async () => {
  const node = await lab.addNode()
  const child = node.start(
    [
      'python3',
      '-c',
      'import socket\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\ns.bind(("",8472))\nprint("bound",flush=True)\nimport time\ntime.sleep(600)',
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  )
  onTestFinished(() => void child.kill())
  await new Promise((resolve) => child.stdout?.once('data', resolve))
  await node.run('sysctl', '-q', '-w', 'net.ipv4.ip_forward=1')
  const files = [
    '-subnet-file=/nowhere/subnet.env',
    '-docker-opts-file=/nowhere/docker',
    '-control-socket=/nowhere/sock',
  ]
  const diagnosis = await diagnose(node, ...lab.etcd.flags, '-iface', 'eth0', ...files)
  expect(amiss(diagnosis)).toEqual([
    expect.stringMatching(/^fail UDP port: UDP port 8472 is taken by python3\S* \(pid \d+\)$/),
  ])
})

describe('etcd', () => {
  it('two leases with one public IP, one MAC, and a key that is none', async () => {
    const [lease] = peerLeases(1, { first: 900 })
    const twin = { key: '100.66.0.0-24', publicIP: lease?.publicIP ?? '', mac: lease?.mac ?? '' }
    await lab.etcd.seed([...(lease === undefined ? [] : [lease]), twin])
    await lab.etcd.put('/coreos.com/network/subnets/garbage', 'x')
    const lines = amiss(await lookAlone('-ping=false')).join('\n')
    for (const key of [lease?.key, twin.key, 'garbage'])
      await lab.etcd.delete(`/coreos.com/network/subnets/${key}`)
    expect(lines).toContain(`fail duplicates in etcd: 2 leases have public IP ${twin.publicIP}: `)
    expect(lines).toContain(`fail duplicates in etcd: 2 leases have VTEP MAC ${twin.mac}: `)
    expect(lines).toContain('warn leases: 1 keys under subnets are no leases that can be used: ')
    await waitFor(async () => amiss(await look('-ping=false')).length === 0, { what: 'all to be well again' })
  })

  it('a second lease with the public IP of this node, which it does not miss', async () => {
    await lab.etcd.seed([{ key: '100.66.0.0-24', publicIP: lab.address(1), mac: '02:00:00:00:0a:01' }])
    undo(() => lab.etcd.delete('/coreos.com/network/subnets/100.66.0.0-24'))
    expect(amiss(await look())).toEqual([
      expect.stringMatching(/^fail duplicates in etcd: 2 leases have public IP 10\.77\.1\.2: /),
      expect.stringMatching(/^warn leases: .*100\.66\.0\.0-24: PublicIP 10\.77\.1\.2 is this node's own$/),
    ])
  })

  it('a subnet inside another', async () => {
    const [lease] = peerLeases(1, { first: 900 })
    const inside = { key: '100.66.0.128-25', publicIP: '10.77.200.1', mac: '02:00:00:00:0a:01' }
    const outer = { ...inside, key: '100.66.0.0-24', publicIP: lease?.publicIP ?? '', mac: lease?.mac ?? '' }
    await lab.etcd.seed([outer, inside])
    const lines = amiss(await lookAlone('-ping=false')).join('\n')
    for (const { key } of [outer, inside]) await lab.etcd.delete(`/coreos.com/network/subnets/${key}`)
    expect(lines).toContain('fail duplicates in etcd: two leases overlap: 100.66.0.0/24 of ')
    await waitFor(async () => amiss(await look('-ping=false')).length === 0, { what: 'all to be well again' })
  })

  it('an etcd that is away, and a password file that all can read', async () => {
    const file = join(lab.dir, 'password')
    writeFileSync(file, 'secret')
    chmodSync(file, 0o644)
    const lines = amiss(
      await diagnose(
        lab.node(1),
        '-etcd-endpoints=http://127.0.0.1:9',
        `-etcd-password-file=${file}`,
        '-control-socket=/nowhere/sock',
      ),
    ).join('\n')
    expect(lines).toMatch(/^fail etcd: .*127\.0\.0\.1:9/m)
    expect(lines).toContain(`warn files: ${file} (-etcd-password-file) has mode 644`)
    expect(lines).not.toContain('secret\n')
  })
})

describe('etcd, while the daemon goes on with what it knows', () => {
  it('is away: what follows, and the pings go to the peers of the daemon', async () => {
    const rule = ['INPUT', '-p', 'tcp', '--dport', '2379', '-j', 'REJECT', '--reject-with', 'tcp-reset']
    await lab.switch.run('iptables', '-I', ...rule)
    undo(() => lab.switch.run('iptables', '-D', ...rule))
    const diagnosis = await look()
    expect(amiss(diagnosis)).toEqual([expect.stringMatching(/^fail etcd: .*ECONNREFUSED/)])
    expect(found(diagnosis, 'etcd')[0]?.why).toMatch(
      /^what there is stays as it is, and the lease of this node lasts 2\d/,
    )
    expect(diagnosis.peers).toMatchObject([{ verdict: 'well' }])
  })

  it.each([
    [
      'another backend',
      { ...CONFIG, Backend: { Type: 'host-gw' } },
      /it says .* host-gw; flanneld runs with .* vxlan$/,
    ],
    [
      'another length',
      { ...CONFIG, SubnetLen: 25 },
      /a \/25 each, vxlan; flanneld runs with 100\.64\.0\.0\/10, a \/24 each/,
    ],
  ])('has %s in its config', async (_, config, words) => {
    await lab.etcd.config(config)
    undo(() => lab.etcd.config(CONFIG))
    const diagnosis = await look('-ping=false')
    expect(amiss(diagnosis)).toEqual([expect.stringMatching(words)])
    expect(found(diagnosis, 'network config')[0]?.mend).toMatch(/^restart flanneld on every node/)
  })

  it('has a config that is none', async () => {
    await lab.etcd.config('{"Network":')
    undo(() => lab.etcd.config(CONFIG))
    const diagnosis = await look('-ping=false')
    expect(found(diagnosis, 'network config')).toMatchObject([
      { level: 'fail', why: 'flanneld goes on with the one that it started with; its next start would wait' },
    ])
    expect(found(diagnosis, 'device')).toMatchObject([{ level: 'ok' }])
  })

  it('has a lease that is skipped: of it alone, nothing is missed', async () => {
    await lab.etcd.seed([{ key: '172.31.32.0-24', publicIP: '10.77.9.9', mac: '02:00:00:00:0b:01' }])
    undo(() => lab.etcd.delete('/coreos.com/network/subnets/172.31.32.0-24'))
    expect(amiss(await look())).toEqual([
      'warn leases: 1 keys under subnets are no leases that can be used: 172.31.32.0-24: 172.31.32.0/24 is not within the network 100.64.0.0/10',
    ])
  })
})

describe('peers', () => {
  it('a port that is blocked one way, as both ends see it', async () => {
    const rule = ['INPUT', '-p', 'udp', '--dport', '8472', '-j', 'DROP']
    await lab.node(2).run('iptables', '-I', ...rule)
    undo(() => lab.node(2).run('iptables', '-D', ...rule))
    const here = await look()
    expect(amiss(here)).toEqual([
      expect.stringMatching(
        /^fail peers: 1 of 1 peers does not answer through the tunnel, but the node does on the underlay/,
      ),
    ])
    expect(here.findings.find(({ check }) => check === 'peers')?.why).toMatch(
      /^UDP port 8472 is blocked on the way/,
    )
    const there = await diagnose(lab.node(2), '-control-socket', daemons[1].controlSocket)
    expect(there.findings.find(({ check }) => check === 'peers')).toMatchObject({
      level: 'fail',
      why: "this node's own firewall may drop UDP port 8472: -A INPUT -p udp -m udp --dport 8472 -j DROP",
      mend: 'here: iptables -I INPUT -p udp --dport 8472 -j ACCEPT',
    })
  })

  it('a node that is off', async () => {
    await lab.switch.ip('link set p2 down')
    const off = amiss(await look())
    await lab.switch.ip('link set p2 up')
    expect(off).toEqual([
      expect.stringMatching(/^fail peers: 1 of 1 peers does not answer, not even on the underlay/),
    ])
    await waitFor(() => lab.node(1).ping(lab.address(2)), { what: 'the cable' })
  })

  it('the own cable pulled', async () => {
    await lab.switch.ip('link set p1 down')
    const lines = await lookAlone()
    await lab.switch.ip('link set p1 up')
    expect(found(lines, 'interface')).toMatchObject([{ level: 'fail', what: 'eth0 has no carrier' }])
    await waitFor(async () => amiss(await look()).length === 0, { what: 'all to be well again' })
  })

  it('a link on the way with a smaller MTU that says nothing, and measures what it takes', async () => {
    // A bridge drops what is too large for a port, without a word. It allows for a VLAN tag.
    await lab.switch.ip('link set p2 mtu 1400')
    undo(() => lab.switch.ip('link set p2 mtu 1500'))
    const diagnosis = await look()
    expect(amiss(diagnosis)).toEqual([
      expect.stringMatching(
        /^fail path MTU: 1 of 1 peers get no packets of full size: 100\.\S+ \(10\.77\.1\.3\) takes 135[04] bytes$/,
      ),
    ])
    expect(diagnosis.peers).toMatchObject([
      { verdict: 'large lost', lossPercent: 100, largestPacket: expect.any(Number) },
    ])
    expect(diagnosis.findings.find(({ check }) => check === 'path MTU')?.mend).toMatch(/"MTU": 140[04] /)
  })
})
