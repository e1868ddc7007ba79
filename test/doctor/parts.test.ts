import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { fault, ok } from '../../src/doctor/finding.ts'
import { chainOf } from '../../src/doctor/firewall.ts'
import { mendAll } from '../../src/doctor/fix.ts'
import { readManagers } from '../../src/doctor/managers.ts'
import { probePeers } from '../../src/doctor/ping.ts'
import { parseUdp } from '../../src/doctor/programs.ts'
import { wrap } from '../../src/doctor/report.ts'
import { argumentsAfterProgram, settle, variablesOf } from '../../src/doctor/settings.ts'
import { formatIpv4 } from '../../src/ip.ts'
import type { Ping } from '../../src/ping.ts'
import { ip, subnet } from './facts.ts'

describe('pings', () => {
  const target = (n: number) => ({
    subnet: subnet(`10.5.${n}.0/24`),
    publicIP: ip(`192.0.2.${n}`),
    address: ip(`10.5.${n}.0`),
  })

  /** Of each packet to an address, whether it is answered. */
  function network(answers: (to: string, size: number, packet: number) => boolean) {
    const asked: string[] = []
    const ping: Ping = async ({ addresses, size, count, source, onSent }) => {
      if (addresses.length > 0)
        asked.push(
          `${count}x${size}${source === undefined ? '' : ' underlay'}: ${addresses.map(formatIpv4).join()}`,
        )
      return new Map(
        addresses.map((address) => {
          let received = 0
          for (let i = 0; i < count; i++) {
            onSent?.()
            if (answers(formatIpv4(address), size, i)) received++
          }
          return [address, { sent: count, received, rtt: received > 0 ? 1 : undefined }]
        }),
      )
    }
    return { asked, ping }
  }

  const probe = (ping: Ping, peers: number[], progress: (done: number) => void = () => undefined) =>
    probePeers({ peers: peers.map(target), mtu: 1450, source: ip('192.0.2.1') }, ping, progress)

  it('one round when all is well, and tells how many are done', async () => {
    const { asked, ping } = network(() => true)
    const progress: number[] = []
    const probes = await probe(ping, [3, 2], (done) => progress.push(done))
    expect(asked).toEqual(['3x1450: 10.5.3.0,10.5.2.0'])
    expect(progress).toEqual([0, 0, 0, 1, 1, 1, 2])
    expect(probes.map(({ subnet: { address } }) => formatIpv4(address))).toEqual(['10.5.2.0', '10.5.3.0'])
  })

  it('a silent peer is asked with small packets, and on the underlay', async () => {
    const { asked, ping } = network((to) => to !== '10.5.3.0')
    const probes = await probe(ping, [2, 3])
    expect(asked.slice(1)).toEqual(['3x84: 10.5.3.0', '3x84 underlay: 192.0.2.3'])
    expect(probes[1]).toMatchObject({ small: { received: 0 }, underlay: { received: 3 } })
  })

  it('one that lost some is asked again, more gently and more often, and that counts', async () => {
    const { asked, ping } = network((to, _, packet) => to !== '10.5.3.0' || packet % 4 !== 1)
    const probes = await probe(ping, [2, 3])
    expect(asked.slice(1)).toEqual(['20x1450: 10.5.3.0'])
    expect(probes[1]?.large).toMatchObject({ sent: 20, received: 15 })
  })

  it('a peer without a tunnel is not asked twice for the same', async () => {
    const { asked, ping } = network(() => false)
    const peer = { ...target(2), address: target(2).publicIP }
    const [found] = await probePeers(
      { peers: [peer], mtu: 1500, source: ip('192.0.2.1') },
      ping,
      () => undefined,
    )
    expect(asked).toEqual(['3x1500: 192.0.2.2', '3x84: 192.0.2.2'])
    expect(found?.underlay).toEqual(found?.small)
  })

  it.each([84, 85, 576, 1372, 1448, 1449])('measures that %i bytes are the most that pass', async (most) => {
    const { asked, ping } = network((_, size) => size <= most)
    const [found] = await probe(ping, [2])
    expect(found?.largest).toBe(most)
    expect(asked.length).toBeLessThan(60)
  })
})

describe('who manages the device', () => {
  function managers(files: Readonly<Record<string, string>>, ...programs: string[]) {
    const root = mkdtempSync(join(tmpdir(), 'doctor-'))
    onTestFinished(() => rmSync(root, { recursive: true }))
    for (const [path, text] of Object.entries(files)) {
      mkdirSync(dirname(join(root, path)), { recursive: true })
      writeFileSync(join(root, path), text)
    }
    const found = readManagers({
      root,
      device: 'flannel.1',
      types: ['ether', 'vxlan'],
      kind: 'vxlan',
      index: 5,
      running: (program) => programs.includes(program),
    })
    return { ...found, networkd: found.networkd?.map((path) => path.slice(root.length)) }
  }

  it.each<[string, Readonly<Record<string, string>>, string[]]>([
    ['for all', { '50-all.network': '[Match]\nName=*\n[Network]\nDHCP=yes\n' }, ['50-all.network']],
    ['of its type', { '50-x.network': '# x\n[Match]\nType=ether\n' }, ['50-x.network']],
    ['of others', { '50-eth.network': '[Match]\nName=eth* en?\n' }, []],
    ['of all but it', { '50-not.network': '[Match]\nName=!flannel*\n' }, []],
    [
      'for all, after one that keeps off',
      {
        '50-all.network': '[Match]\nName=*\n',
        '05-f.network': '[Match]\nName=flannel*\n[Link]\nUnmanaged=yes\n',
      },
      [],
    ],
    ['by a key that cannot be judged', { '50-m.network': '[Match]\nMACAddress=02:00:00:00:00:01\n' }, []],
  ])('networkd: %s', (_, files, expected) => {
    const named = Object.fromEntries(
      Object.entries(files).map(([name, text]) => [`etc/systemd/network/${name}`, text]),
    )
    expect(managers(named, 'systemd-network').networkd).toEqual(
      expected.map((name) => `/etc/systemd/network/${name}`),
    )
    expect(managers(named).networkd).toBeUndefined()
  })

  it.each<[string, Readonly<Record<string, string>>, 'managed' | 'unmanaged']>([
    ['as it comes', {}, 'managed'],
    [
      'told to keep off',
      { 'etc/NetworkManager/conf.d/f.conf': '[keyfile]\nunmanaged-devices=interface-name:flannel*\n' },
      'unmanaged',
    ],
    ['as it has noted', { 'run/NetworkManager/devices/5': '[device]\nmanaged=false\n' }, 'unmanaged'],
  ])('NetworkManager: %s', (_, files, expected) => {
    expect(managers(files, 'NetworkManager').networkManager).toBe(expected)
    expect(managers(files).networkManager).toBeUndefined()
  })

  it('the first .link file that matches has the MAC policy', () => {
    const usual = {
      'usr/lib/systemd/network/99-default.link':
        '[Match]\nOriginalName=*\n[Link]\nMACAddressPolicy=persistent\n',
    }
    expect(managers(usual).macPolicy?.policy).toBe('persistent')
    const own = {
      'etc/systemd/network/10-f.link': '[Match]\nOriginalName=flannel*\n[Link]\nMACAddressPolicy=none\n',
    }
    expect(managers({ ...usual, ...own }).macPolicy?.policy).toBe('none')
  })
})

describe('settings', () => {
  it.each([
    ['/n/node\0--max-semi-space-size=4\0/d/start.cjs\0-iface\0eth0\0', ['-iface', 'eth0']],
    ['/usr/bin/flanneld\0-ip-masq\0', ['-ip-masq']],
    ['flanneld -etcd-password=*** -ip-masq', ['-etcd-password=***', '-ip-masq']],
  ])('the arguments in %j', (cmdline, args) => {
    expect(argumentsAfterProgram(cmdline)).toEqual(args)
  })

  it('what is typed beats the shell, which beats the daemon’s arguments, which beat its variables', () => {
    const started = {
      args: ['-etcd-prefix=/daemon', '-iface=eth1', '-etcd-password=***', '-v=4'],
      env: variablesOf('FLANNELD_IFACE=eth9\0FLANNELD_PUBLIC_IP=192.0.2.7\0HOME=/root\0'),
    }
    const settled = settle(
      { 'etcd-endpoints': 'http://typed:1' },
      { FLANNELD_ETCD_PREFIX: '/shell' },
      started,
    )
    if (typeof settled === 'string') throw new Error(settled)
    const { options } = settled
    expect(options.etcd).toMatchObject({ endpoints: 'http://typed:1', prefix: '/shell' })
    expect(options.etcd.password.reveal()).toBe('')
    expect([options.ifaces, options.publicIP]).toEqual([['eth1'], ip('192.0.2.7')])
  })

  it('a value that makes no sense is told', () => {
    expect(settle({ 'public-ip': 'x' }, {}, { args: [], env: {} })).toContain('invalid public IP address: x')
  })
})

it('mends only after a yes, and only what is safe', async () => {
  const findings = ['a', 'b', 'c'].map((what) => fault('x', 'warn', { what, why: 'y', fix: ['mend', what] }))
  const [asked, ran, said]: [string[], string[], string[]] = [[], [], []]
  const answers = ['y', '', 'Yes']
  const done = await mendAll(
    [ok('x', 'well'), fault('x', 'fail', { what: 'z', why: 'y', mend: 'by hand' }), ...findings],
    {
      ask: async (question) => {
        asked.push(question)
        return answers.shift() ?? ''
      },
      run: async (argv) => {
        ran.push(argv.join(' '))
        return argv[1] === 'c' ? 'refused' : undefined
      },
      say: (line) => said.push(line),
    },
  )
  expect([done, asked.length, asked[0], ran]).toEqual([
    true,
    3,
    'a\nRun: mend a [y/N] ',
    ['mend a', 'mend c'],
  ])
  expect(said).toEqual(['done', 'mend c: refused'])
})

it('finds a chain in the right table', () => {
  const save =
    '*raw\n:FORWARD DROP [0:0]\n*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j X\n-A FORWARDER -j Y\nCOMMIT\n'
  expect(chainOf(save, 'filter', 'FORWARD')).toEqual({ policy: 'ACCEPT', rules: ['-A FORWARD -j X'] })
  expect(chainOf('', 'filter', 'FORWARD')).toEqual({ policy: 'ACCEPT', rules: [] })
})

it('reads /proc/net/udp', () => {
  const text = `   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  372: 00000000:2118 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 18077 2 0000000000000000 0
  380: 00000000:0044 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 18078 2 0000000000000000 0
`
  expect(parseUdp(text, 8472)).toEqual([18077])
})

it('breaks lines at spaces only', () => {
  expect(wrap('aa bb cc dddddddd e', 5)).toEqual(['aa bb', 'cc', 'dddddddd', 'e'])
})
