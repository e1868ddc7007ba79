/**
 * The Debian package on two machines with a real systemd and Docker: installed, configured, upgraded under traffic, removed.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Architecture, architectures, isNative } from '../../scripts/architecture.ts'
import { buildPackage } from '../../scripts/deb.ts'
import { Lab, REPOSITORY } from '../netns/lab.ts'
import { waitFor } from '../netns/wait.ts'
import { Machine } from './machine.ts'
import { debianTree } from './tree.ts'

const ADDRESSES = { 'deb-node1': '172.28.1.1', 'deb-node2': '172.28.1.2' } as const

describe('the Debian package', () => {
  const folder = mkdtempSync(join(tmpdir(), 'flannel-e2e-deb-'))
  let lab: Lab
  let machines: Machine[]

  const onAll = (command: string): Promise<readonly string[]> =>
    Promise.all(machines.map((machine) => machine.succeed(command)))
  const first = (): Machine => machines[0] as Machine

  beforeAll(async () => {
    const native = architectures.find(isNative) as Architecture
    const version = (number: string): { readonly source: string } => {
      const source = join(folder, `${number}.deb`)
      buildPackage(native, join(REPOSITORY, 'out/flanneld'), source, number)
      return { source }
    }
    const packages = { 'root/old.deb': version('0.0.1'), 'root/new.deb': version('0.0.2') }
    const tree = await debianTree()
    lab = await Lab.create({ nodes: 0, prefix: '172.28' })
    await lab.startEtcd()
    await lab.etcd.config({ Network: '10.5.0.0/16', Backend: { Type: 'vxlan' } })
    machines = Object.entries(ADDRESSES).map(([name, address]) => {
      const files = {
        'etc/hostname': `${name}\n`,
        'etc/hosts': '127.0.0.1 localhost\n',
        'etc/systemd/network/10-host0.network': `[Match]\nName=host0\n[Network]\nAddress=${address}/16\nGateway=172.28.0.1\n`,
        ...packages,
      }
      const machine = new Machine({ name, network: lab.switch, tree, lab: lab.name, files })
      lab.onClose(() => machine.close())
      return machine
    })
    await Promise.all(machines.map((machine) => machine.booted()))
  })
  afterAll(async () => {
    await lab?.close()
    rmSync(folder, { recursive: true })
  })

  test('installs, and starts nothing before it is told to', async () => {
    await onAll('dpkg -i old.deb')
    const { output } = await first().run('systemctl is-enabled flanneld; systemctl is-active flanneld docker')
    expect(output.split('\n')).toEqual(['disabled', 'inactive', 'active', ''])
  })

  test('runs with the settings of /etc/default/flanneld, and Docker on its subnet', async () => {
    await onAll(`echo FLANNELD_ETCD_ENDPOINTS=${lab.etcd.flags[1]} >> /etc/default/flanneld
      echo FLANNELD_IP_MASQ=true >> /etc/default/flanneld
      systemctl -q enable --now flanneld && systemctl restart docker`)
    for (const machine of machines) {
      const [subnet, bridge] = (
        await machine.succeed(
          '. /run/flannel/subnet.env; echo $FLANNEL_SUBNET; ip -4 -o addr show dev docker0',
        )
      ).split('\n')
      expect(bridge).toContain(` inet ${subnet} `)
      // networkd sees the device and leaves it alone.
      expect(await machine.succeed('networkctl list --no-legend flannel.1')).toMatch(/\bunmanaged\s*$/)
    }
  })

  test('is upgraded under traffic, and no packet is lost', async () => {
    const [source, target] = (
      await onAll('. /run/flannel/subnet.env; echo $FLANNEL_SUBNET | cut -d/ -f1')
    ).map((line) => line.trim())
    await first().succeed(`ping -q -c 1 -W 5 -I ${source} ${target}`)
    const pid = async (): Promise<string> => first().succeed('systemctl show -P MainPID flanneld docker')
    const before = (await pid()).split('\n')
    const ping = first().succeed(`ping -q -i 0.05 -c 400 -I ${source} ${target}`)
    await onAll('dpkg -i new.deb && until [ "$(systemctl is-active flanneld)" = active ]; do sleep 0.1; done')
    const replaced = async (): Promise<boolean> => (await pid()).split('\n')[0] !== before[0]
    await waitFor(replaced, { what: 'another flanneld', timeout: 20_000, interval: 200 })
    expect(await ping).toContain('400 packets transmitted, 400 received, 0% packet loss')
    expect(await first().succeed('tail -1 /etc/default/flanneld; dpkg -s flanneld | grep Version')).toBe(
      'FLANNELD_IP_MASQ=true\nVersion: 0.0.2\n',
    )
    // Docker was not restarted along with it.
    expect((await pid()).split('\n').filter((line) => line !== '')[1]).toBe(before.filter((l) => l !== '')[1])
  })

  test('is purged with nothing left but the routes that containers use', async () => {
    await first().succeed('dpkg --purge flanneld')
    const found = await first().succeed(
      'find /etc /usr /run -xdev -iname "*flannel*" -not -path "/etc/systemd/network/*" 2>/dev/null; echo end',
    )
    expect(found).toBe('end\n')
    expect(await first().succeed('systemctl is-active docker; ip -o link show flannel.1')).toMatch(
      /^active\n.*flannel\.1/,
    )
  })
})
