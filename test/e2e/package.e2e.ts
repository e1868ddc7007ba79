/**
 * The Debian package on two machines with a real systemd and Docker: installed, configured, upgraded under traffic, removed,
 * purged. On the first, networkd, udev and NetworkManager want every device there is.
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

/** Not in the way of network-online.target, which flanneld waits for. */
const EVERY_DEVICE = `[Match]
Name=!docker0
[Network]
DHCP=ipv4
LinkLocalAddressing=ipv4
[Link]
RequiredForOnline=no
`
const ADDRESSES = { 'deb-node1': '172.28.1.1', 'deb-node2': '172.28.1.2' } as const

describe('the Debian package', () => {
  const folder = mkdtempSync(join(tmpdir(), 'flannel-e2e-deb-'))
  let lab: Lab
  let machines: Machine[]

  const onAll = (command: string): Promise<readonly string[]> =>
    Promise.all(machines.map((machine) => machine.succeed(command)))
  const first = (): Machine => machines[0] as Machine
  let before: string

  /** What an operator can see of the first machine, but for what changes by itself. */
  const snapshot = async (): Promise<string> => {
    const files = 'find /etc /usr /run /var/lib -xdev -iname "*flannel*"'
    const shown = await first().succeed(
      `ip -o -4 addr show; ip -4 route show table all; ip rule; ip neigh show nud permanent; iptables-save; ${files}`,
    )
    return shown.replaceAll(/^#.*\n|\[\d+:\d+\]|^\d+: |valid_lft \w+| linkdown/gm, '')
  }

  /** Has a packet go every 20 ms between the bridges of the two while `meanwhile` goes on; returns how many were lost. */
  const lostUnderTraffic = async (meanwhile: () => Promise<unknown>): Promise<number> => {
    const shell = '. /run/flannel/subnet.env; echo $FLANNEL_SUBNET | cut -d/ -f1'
    const [source, target] = (await onAll(shell)).map((line) => line.trim())
    await first().succeed(`rm -f /run/enough; ping -q -c 1 -W 5 -I ${source} ${target}`)
    const pings = first().succeed(`while said=$(ping -q -i 0.02 -c 50 -I ${source} ${target})
      do echo "$said" | grep received; [ ! -e /run/enough ] || exit 0; done; exit 1`)
    const [said] = await Promise.all([pings, meanwhile().finally(() => first().succeed('touch /run/enough'))])
    return said
      .trim()
      .split('\n')
      .reduce((lost, line) => lost + 50 - Number(/, (\d+) received/.exec(line)?.[1]), 0)
  }

  beforeAll(async () => {
    const native = architectures.find(isNative) as Architecture
    const version = (number: string): { readonly source: string } => {
      const source = join(folder, `${number}.deb`)
      buildPackage(native, join(REPOSITORY, 'out/flanneld'), source, { version: number, compress: false })
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
    await first().succeed(`cat > /etc/systemd/network/90-every.network <<'EOF'\n${EVERY_DEVICE}EOF
      networkctl reload
      mount -o remount,rw /sys && systemctl start systemd-udevd NetworkManager`)
    before = await snapshot()
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
    }
  })

  test('keeps networkd, udev and NetworkManager off the device, which take another one', async () => {
    // Twice, for udev's MAC is the same each time, and the kernel's is not.
    const macs = new Set<string>()
    for (const port of [9998, 9999]) {
      await first().succeed(
        `ip link del other.1 2>/dev/null; ip link add other.1 type vxlan id 9 dstport ${port} dev host0`,
      )
      const taken = async (): Promise<boolean> => {
        expect(await linkFile('other.1')).toMatch(/\/99-default\.link$/)
        expect(await setupState('other.1')).toMatch(/^config/)
        expect(await first().succeed('nmcli -t -f DEVICE,STATE device')).toMatch(/^other\.1:connected/m)
        return true
      }
      await waitFor(taken, { what: 'another device taken by all three', timeout: 60_000, interval: 200 })
      macs.add(await first().succeed('cat /sys/class/net/other.1/address'))
    }
    expect(macs.size).toBe(1)

    expect(await linkFile('flannel.1')).toBe('/usr/lib/systemd/network/50-flannel.link')
    expect(await setupState('flannel.1')).toBe('unmanaged')
    expect(await first().succeed('nmcli -t -f DEVICE,STATE device')).toMatch(/^flannel\.1:unmanaged$/m)
    const mac = (await first().succeed('cat /sys/class/net/flannel.1/address')).trim()
    expect(
      (await lab.etcd.leases()).map(({ value }) => JSON.parse(value ?? '').BackendData.VtepMAC),
    ).toContain(mac)
  })

  test('goes on when the administrator has networkd take the device, with an address and a default route', async () => {
    const file = '/etc/systemd/network/05-flannel.network'
    const since = (await first().succeed('date +%s')).trim()
    const lost = await lostUnderTraffic(async () => {
      await first().succeed(
        `(echo '[Match]'; echo Name=flannel.1; echo '[Network]'; echo DHCP=ipv4; echo LinkLocalAddressing=ipv4
          echo DefaultRouteOnDevice=yes) > ${file}; networkctl reload`,
      )
      const told = async (): Promise<boolean> => {
        const said = await first().succeed(`journalctl -o cat -u flanneld --since=@${since}`)
        expect(said).toMatch(/warn {2}flannel\.1: removed address 169\.254\..*by=.*systemd-networkd/)
        expect(said).toMatch(
          /warn {2}repaired what was changed behind our back: .*delete route 0\.0\.0\.0\/0/,
        )
        return true
      }
      await waitFor(told, { what: 'a word on both', timeout: 60_000, interval: 500 })
    })
    // networkd begins by taking all addresses and routes off, and for a moment they are.
    expect(lost).toBeLessThanOrEqual(5)
    expect(
      await first().succeed('ip -4 -o addr show dev flannel.1; ip route show default dev flannel.1'),
    ).toMatch(/^\d+: flannel\.1 +inet \S+\/32 .*\n$/)
    await first().succeed(`rm ${file}; networkctl reload`)
  })

  test('is upgraded under traffic, and no packet is lost', async () => {
    const pids = async (): Promise<string[]> =>
      (await first().succeed('systemctl show -P MainPID flanneld docker')).split('\n').filter(Boolean)
    const [flanneld, docker] = await pids()
    const lost = await lostUnderTraffic(async () => {
      await onAll(
        'dpkg -i new.deb && until [ "$(systemctl is-active flanneld)" = active ]; do sleep 0.1; done',
      )
      const replaced = async (): Promise<boolean> => (await pids())[0] !== flanneld
      await waitFor(replaced, { what: 'another flanneld', timeout: 20_000, interval: 200 })
    })
    expect(lost).toBe(0)
    expect(await first().succeed('tail -1 /etc/default/flanneld; dpkg -s flanneld | grep Version')).toBe(
      'FLANNELD_IP_MASQ=true\nVersion: 0.0.2\n',
    )
    // Docker was not restarted along with it.
    expect((await pids())[1]).toBe(docker)
  })

  test('is removed, and containers go on talking', async () => {
    expect(await lostUnderTraffic(() => first().succeed('dpkg --remove flanneld'))).toBe(0)
    const { output } = await first().run(
      'ls /usr/bin/flanneld /etc/default/flanneld; systemctl is-active flanneld',
    )
    expect(output).toMatch(/cannot access '\/usr\/bin\/flanneld'(.*\n)+\/etc\/default\/flanneld\ninactive\n$/)
  })

  test('is purged, and with Docker on a network of its own again, all is as before it came', async () => {
    await first().succeed('dpkg --purge flanneld && ip link del other.1')
    await first().succeed(`systemctl -q stop docker.socket docker && ip link del docker0
      rm /var/lib/docker/network/files/local-kv.db && systemctl start docker`)
    expect(await snapshot()).toBe(before)
  })

  test('is purged while another flanneld has taken over, and touches nothing of that one', async () => {
    const second = machines[1] as Machine
    await second.succeed('dpkg --remove flanneld')
    // As any flanneld does when it starts.
    await second.succeed(
      'cp -p /run/flannel/subnet.env copy && touch copy && mv copy /run/flannel/subnet.env',
    )
    await second.succeed('dpkg --purge flanneld')
    const left = await second.succeed(
      'ls /run/flannel; ip -o link show flannel.1; iptables -t nat -S POSTROUTING',
    )
    expect(left).toMatch(
      /^docker\nsubnet\.env\n\d+: flannel\.1: (.*\n)+.*-s 10\.5\.0\.0\/16 -d 10\.5\.0\.0\/16 .*-j RETURN/,
    )
  })

  /** The .link file that udev took for a device of the first machine. */
  async function linkFile(device: string): Promise<string> {
    const properties = await first().succeed(`udevadm info -q property -p /sys/class/net/${device}`)
    return /^ID_NET_LINK_FILE=(.*)$/m.exec(properties)?.[1] ?? ''
  }

  /** networkd's word for what it does with a device of the first machine. */
  async function setupState(device: string): Promise<string> {
    return /(\S+)\s*$/.exec(await first().succeed(`networkctl list --no-legend ${device}`))?.[1] ?? ''
  }
})
