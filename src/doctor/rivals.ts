import type { Facts } from './facts.ts'
import { type Finding, fault, ok, some } from './finding.ts'

/** NET_ADDR_SET of linux/netdevice.h: user space has set the MAC. */
const NET_ADDR_SET = 3

/** Programs that would change the tunnel's device: udev its MAC, networkd and NetworkManager its addresses and routes. */
export function rivalChecks(facts: Facts): Finding[] {
  return [...macPolicy(facts), ...managers(facts)]
}

/** udev leaves alone what user space has set; a MAC that the kernel drew, a persistent policy replaces (systemd.link(5)). */
function macPolicy({ network, managers: { macPolicy: rule }, tunnel }: Facts): Finding[] {
  const { device: link, macAssigned } = network
  if (tunnel?.vxlan === undefined || link === undefined || rule === undefined || macAssigned === undefined)
    return []
  if (macAssigned === NET_ADDR_SET || !/persistent|random/.test(rule.policy))
    return [ok('MACAddressPolicy', `udev leaves the MAC of ${link.name} alone`)]
  return [
    fault('MACAddressPolicy', 'warn', {
      what: `${rule.file} has MACAddressPolicy=${rule.policy}, and the MAC of ${link.name} was drawn by the kernel`,
      why: 'udev may give the device another MAC than the lease tells the other nodes',
      mend: `printf '[Match]\\nOriginalName=flannel.*\\n[Link]\\nMACAddressPolicy=none\\n' > /etc/systemd/network/10-flannel.link; systemctl restart flanneld`,
    }),
  ]
}

function managers({ managers: { networkd, networkManager }, tunnel, network }: Facts): Finding[] {
  if (tunnel?.device === undefined) return []
  const name = network.device?.name ?? tunnel.device.name
  const findings: Finding[] = []
  if (networkd !== undefined && networkd.length > 0) {
    findings.push(
      fault('networkd', 'warn', {
        what: `systemd-networkd would configure ${name}: it matches ${some(networkd)}`,
        why: 'networkd takes addresses and routes away that it did not set',
        mend: `printf '[Match]\\nName=flannel*\\n[Link]\\nUnmanaged=yes\\n' > /etc/systemd/network/05-flannel.network; networkctl reload`,
      }),
    )
  } else if (networkd !== undefined) findings.push(ok('networkd', `leaves ${name} alone`))
  if (networkManager === 'managed') {
    findings.push(
      fault('NetworkManager', 'warn', {
        what: `NetworkManager may manage ${name}`,
        why: 'it takes addresses and routes away that it did not set',
        mend: `printf '[keyfile]\\nunmanaged-devices=interface-name:flannel*\\n' > /etc/NetworkManager/conf.d/flannel.conf; systemctl reload NetworkManager`,
      }),
    )
  } else if (networkManager === 'unmanaged') findings.push(ok('NetworkManager', `leaves ${name} alone`))
  return findings
}
