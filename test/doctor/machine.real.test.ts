/** Faults of the machine round a node: what manages its devices, its firewall's back ends, its kernel, its clock, its files. */
import { execFileSync } from 'node:child_process'
import { chmodSync, copyFileSync, existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { Lab, type Namespace, waitFor } from '../netns/lab.ts'
import { stop } from '../netns/process.ts'
import { amiss, diagnose, diagnoseAfter, doctor, found } from './run.ts'

const NETWORKD = '/lib/systemd/systemd-networkd'

if (!existsSync(NETWORKD)) process.stderr.write(`a doctor's test is left out: there is no ${NETWORKD} here\n`)

let lab: Lab
let node: Namespace

beforeAll(async () => {
  lab = await Lab.create()
  await (await lab.startEtcd({ tls: true })).config({ Network: '10.5.0.0/16', Backend: { Type: 'vxlan' } })
  node = lab.node(1)
  await node.run('sysctl', '-q', '-w', 'net.ipv4.ip_forward=1')
  // As a daemon that is gone has left it, with a MAC that the kernel drew.
  await node.ipBatch([
    `link add flannel.1 mtu 1450 type vxlan id 1 dev eth0 dstport 8472 local ${lab.address(1)} nolearning`,
    'link set flannel.1 up',
  ])
})
afterAll(() => lab.close())

const FILES = ['-subnet-file=/nowhere/s', '-docker-opts-file=', '-control-socket=/nowhere/sock']
const flags = (iface = 'eth0'): string[] => [...lab.etcd.flags, `-iface=${iface}`, '-ping=false', ...FILES]

/** In a folder of the lab, for files that a script mounts over those of the machine. */
function folder(name: string, files: Readonly<Record<string, string>>): string {
  const path = join(lab.dir, name)
  mkdirSync(path, { recursive: true })
  for (const [file, text] of Object.entries(files)) writeFileSync(join(path, file), text)
  return path
}

/**
 * A shell's words that put a folder of ours in the place of one of the machine, for whoever shares the mount namespace. Where there
 * is none, it is made on an empty file system over the nearest that there is.
 */
function over(path: string, files: string): string {
  const make = `top=${path}; until [ -d $top ]; do top=$(dirname $top); done; mount -t tmpfs none $top; mkdir -p ${path}`
  return `[ -d ${path} ] || { ${make}; }\nmount --bind ${files} ${path}`
}

it('nothing else is amiss than what this machine is about: no daemon', async () => {
  const well = await diagnoseAfter(node, over('/lib/systemd/network', folder('empty', {})), ...flags())
  expect(amiss(well)).toEqual([
    expect.stringMatching(/^warn flanneld: no flanneld is running here/),
    // The lab's certificates last two days.
    expect.stringMatching(/^warn certificates: /),
    expect.stringMatching(/^warn certificates: /),
  ])
  expect(well.exit).toBe(1)
})

describe('who else manages the device', () => {
  it.skipIf(!existsSync(NETWORKD))('systemd-networkd, until it is told to keep off', async () => {
    const etc = folder('networkd', {
      '50-all.network': '[Match]\nName=flannel* docker*\n[Network]\nDHCP=no\n',
    })
    const runtime = folder('networkd.run', {})
    const child = node.start(
      [
        'unshare',
        '--mount',
        'sh',
        '-ec',
        `${over('/etc/systemd/network', etc)}\n${over('/run/systemd/netif', runtime)}\nexec ${NETWORKD}`,
      ],
      { stdio: 'ignore' },
    )
    onTestFinished(async () => void (await stop(child, 'SIGKILL')))
    const look = () => diagnoseAfter(node, over('/etc/systemd/network', etc), ...flags())
    await waitFor(async () => found(await look(), 'networkd').length > 0, { what: 'networkd to run' })
    const [finding] = found(await look(), 'networkd')
    expect(finding).toMatchObject({
      level: 'warn',
      what: expect.stringMatching(/would configure flannel\.1: it matches .*50-all\.network$/),
    })
    // What it says would mend it does.
    const mended = await diagnoseAfter(
      node,
      `${over('/etc/systemd/network', etc)}\n${finding?.mend.replace(/; networkctl reload$/, '')}`,
      ...flags(),
    )
    expect(found(mended, 'networkd')).toMatchObject([{ level: 'ok' }])
  })

  it('NetworkManager, until it is told to keep off', async () => {
    const program = join(lab.dir, 'NetworkManager')
    copyFileSync('/bin/sleep', program)
    // Its name is all that is asked of it: the answer is in its files.
    const child = node.start([program, '600'], { stdio: 'ignore' })
    onTestFinished(async () => void (await stop(child, 'SIGKILL')))
    const etc = folder('nm/conf.d', {})
    const files = over('/etc/NetworkManager', join(etc, '..'))
    const look = (more = '') => diagnoseAfter(node, `${files}\n${more}`, ...flags())
    await waitFor(async () => found(await look(), 'NetworkManager').length > 0, { what: 'it to run' })
    const [finding] = found(await look(), 'NetworkManager')
    expect(finding).toMatchObject({ level: 'warn', what: 'NetworkManager may manage flannel.1' })
    const mend = finding?.mend.replace(/; systemctl .*$/, '') ?? ''
    expect(found(await look(mend), 'NetworkManager')).toMatchObject([{ level: 'ok' }])
  })

  it('neither in another network namespace', async () => {
    const program = join(lab.dir, 'elsewhere', 'NetworkManager')
    mkdirSync(join(lab.dir, 'elsewhere'))
    copyFileSync('/bin/sleep', program)
    const child = lab.switch.start([program, '600'], { stdio: 'ignore' })
    onTestFinished(async () => void (await stop(child, 'SIGKILL')))
    expect(found(await diagnose(node, ...flags()), 'NetworkManager')).toEqual([])
  })

  it("udev by systemd's MAC policy, until a file says none", async () => {
    const etc = folder('links', {})
    const usual = folder('links.usual', {
      '99-default.link': '[Match]\nOriginalName=*\n[Link]\nNamePolicy=keep\nMACAddressPolicy=persistent\n',
    })
    const files = `${over('/etc/systemd/network', etc)}\n${over('/lib/systemd/network', usual)}\n${over('/usr/lib/systemd/network', usual)}`
    const [finding] = found(await diagnoseAfter(node, files, ...flags()), 'MACAddressPolicy')
    expect(finding).toMatchObject({
      level: 'warn',
      what: expect.stringMatching(
        /99-default\.link has MACAddressPolicy=persistent, and the MAC of flannel\.1 was drawn/,
      ),
    })
    const mend = finding?.mend.replace(/; systemctl .*$/, '') ?? ''
    const mended = await diagnoseAfter(node, `${files}\n${mend}`, ...flags())
    expect(found(mended, 'MACAddressPolicy')).toMatchObject([{ level: 'ok' }])
  })
})

describe('kernel and firewall', () => {
  it('rules of both iptables back ends', async () => {
    const rule = ['-A', 'OUTPUT', '-d', '192.0.2.1', '-j', 'ACCEPT']
    await node.run('iptables-legacy', ...rule)
    await node.run('iptables-nft', ...rule)
    onTestFinished(async () => {
      for (const program of ['iptables-legacy', 'iptables-nft']) await node.run(program, '-F', 'OUTPUT')
    })
    expect(amiss(await diagnose(node, ...flags()))).toContain(
      'warn iptables back ends: both legacy iptables and nf_tables hold rules',
    )
  })

  it('no iptables', async () => {
    const path = folder('programs', {})
    for (const program of ['ip', 'unshare', 'mount'])
      execFileSync('ln', ['-sf', execFileSync('which', [program], { encoding: 'utf8' }).trim(), path])
    const lines = amiss(await diagnoseAfter(node, `export PATH=${path}`, ...flags()))
    expect(lines).toContain('fail iptables: iptables does not run')
  })

  it('a bridge of containers whose packets do not pass iptables', async () => {
    await node.ipBatch(['link add docker0 type bridge', 'link set docker0 up'])
    onTestFinished(async () => void (await node.ip('link del docker0')))
    const knob = 'net.bridge.bridge-nf-call-iptables'
    const loaded = await node.run('sysctl', '-q', '-w', `${knob}=0`).then(
      () => true,
      () => false,
    )
    expect(found(await diagnose(node, ...flags()), 'br_netfilter')).toMatchObject([
      loaded
        ? { level: 'warn', what: `${knob} is 0`, mend: `sysctl -w ${knob}=1` }
        : { level: 'warn', what: 'br_netfilter is not loaded, and there is a bridge docker0' },
    ])
    if (!loaded) return
    await node.run('sysctl', '-q', '-w', `${knob}=1`)
    expect(found(await diagnose(node, ...flags()), 'br_netfilter')).toMatchObject([{ level: 'ok' }])
  })

  it('a kernel that spoils the checksums which the device leaves to it, until it does not', async () => {
    // setarch(8): uname(2) says 2.6.
    const old = 'set -- setarch --uname-2.6 "$@"'
    const [finding] = found(await diagnoseAfter(node, old, ...flags()), 'checksum offload')
    expect(finding).toMatchObject({ level: 'warn', what: expect.stringContaining('and Linux 2.6.') })
    expect(finding?.mend).toBe('ethtool -K flannel.1 tx-checksum-ip-generic off')
    await node.run(...(finding?.mend.split(' ') ?? []))
    onTestFinished(
      async () => void (await node.run('ethtool', '-K', 'flannel.1', 'tx-checksum-ip-generic', 'on')),
    )
    expect(found(await diagnoseAfter(node, old, ...flags()), 'checksum offload')).toMatchObject([
      { level: 'ok' },
    ])
  })

  it('a backend that this kernel has no devices for', async () => {
    const makes = await node.run('ip', 'link', 'add', 'try0', 'type', 'ipip', 'local', '192.0.2.9').then(
      () => true,
      () => false,
    )
    if (makes) await node.ip('link del try0')
    const { etcd } = lab
    await etcd.config({ Network: '10.5.0.0/16', Backend: { Type: 'ipip' } })
    onTestFinished(
      async () => void (await etcd.config({ Network: '10.5.0.0/16', Backend: { Type: 'vxlan' } })),
    )
    expect(found(await diagnose(node, ...flags()), 'kernel')).toMatchObject([
      makes
        ? { level: 'ok' }
        : {
            level: 'fail',
            what: expect.stringMatching(/makes no IPIP device: /),
            mend: expect.stringMatching(/^modprobe ipip/),
          },
    ])
  })
})

describe('interface', () => {
  it('none of that name, and one that is down', async () => {
    const none = await diagnose(node, ...flags('eth7'))
    expect(amiss(none)).toContainEqual(expect.stringMatching(/^fail interface: .*eth7/))
    expect(none.exit).toBe(2)
    await node.ipBatch(['link add eth1 type veth peer name eth2', 'address add 192.0.2.9/24 dev eth1'])
    onTestFinished(async () => void (await node.ip('link del eth1')))
    expect(amiss(await diagnose(node, ...flags('eth1')))).toContain('fail interface: eth1 is down')
  })
})

describe('clock and certificates', () => {
  let clock: string

  beforeAll(() => {
    clock = join(lab.dir, 'clock.so')
    execFileSync('cc', ['-shared', '-fPIC', '-O1', '-o', clock, join(import.meta.dirname, 'clock.c')])
  })

  const at = (seconds: number) =>
    diagnoseAfter(node, `export LD_PRELOAD=${clock} CLOCK_OFFSET=${seconds}`, ...flags())

  it('a minute off, and an hour, which TLS minds', async () => {
    expect(amiss(await at(60))).toContainEqual(
      expect.stringMatching(/^warn clock: this clock is (59|60|61) s ahead/),
    )
    expect(amiss(await at(3600))).toContainEqual(
      expect.stringMatching(/^fail clock: this clock is 3\d+ s ahead/),
    )
  })

  it('certificates that have ended, and that have not begun', async () => {
    const days = 86_400
    const late = amiss(await at(3 * days))
    expect(late).toContainEqual(expect.stringMatching(/^fail certificates: \S+ \(-etcd-certfile\) ended on /))
    const early = amiss(await at(-days))
    // With such a clock etcd's own certificate is not valid, and yet its clock is asked.
    expect(early).toContainEqual(expect.stringMatching(/^fail clock: this clock is 86\d{3} s behind etcd's/))
    expect(early).toContainEqual(
      expect.stringMatching(/^fail certificates: \S+ \(-etcd-cafile\) is valid from /),
    )
  })
})

describe('files', () => {
  it.each([
    ['subnet.env', '-subnet-file', 0o600, 'has mode 600', 'chmod go+r'],
    ['subnet.env', '-subnet-file', 0o666, 'has mode 666', 'chmod go-w'],
    ['docker', '-docker-opts-file', 0o622, 'has mode 622', 'chmod go-w'],
    ['key.pem', '-etcd-keyfile', 0o640, 'has mode 640', 'chmod 600'],
    ['ca.pem', '-etcd-cafile', 0o646, 'has mode 646', 'chmod go-w'],
  ])('%s (%s) with mode %o', async (name, flag, mode, words, mend) => {
    const path = join(lab.dir, name)
    const source = { 'key.pem': lab.etcd.tls?.clientKeyFile, 'ca.pem': lab.etcd.tls?.caFile }[name]
    if (source === undefined) writeFileSync(path, 'FLANNEL_SUBNET=10.5.1.1/24\n')
    else copyFileSync(source, path)
    chmodSync(path, mode)
    const lines = await diagnose(node, ...flags(), `${flag}=${path}`)
    expect(found(lines, 'files')).toMatchObject([
      { level: 'warn', what: `${path} (${flag}) ${words}`, mend: `${mend} ${path}` },
    ])
  })

  it('one that is not there, and one that is no certificate', async () => {
    const lines = amiss(
      await diagnose(node, ...flags(), '-etcd-keyfile=/nowhere/k', '-etcd-cafile=/etc/hostname'),
    )
    expect(lines).toContainEqual(
      expect.stringMatching(/^fail files: \/nowhere\/k \(-etcd-keyfile\) cannot be read: ENOENT/),
    )
    expect(lines).toContain(
      'fail files: /etc/hostname (-etcd-cafile) cannot be read: there is no PEM certificate in it',
    )
  })
})

it('an endpoint that is no URL', async () => {
  const lines = amiss(await diagnose(node, '-etcd-endpoints=nonsense', '-iface=eth0', ...FILES))
  expect(lines).toContainEqual(expect.stringMatching(/^fail etcd: .*nonsense/))
})

it('exits with 2 for a command line that is broken, and says so in one line', async () => {
  const { code, out, err } = await doctor(node, '-public-ip=x')
  expect([code, out]).toEqual([2, ''])
  expect(err).toMatch(/^flanneld doctor: .*invalid public IP address: x/)
})
