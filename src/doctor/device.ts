import { vtepMac } from '../backend/vxlan/vtep.ts'
import { formatIpv4 } from '../ip.ts'
import type { Link } from '../netlink/link.ts'
import { deviceName, type Facts, isInstalled, ownLease } from './facts.ts'
import { type Finding, fault, ok, some } from './finding.ts'

/** Bytes of outer headers around a packet: Ethernet, IPv4, UDP, VXLAN (RFC 7348). */
export const ENCAPSULATION = 50

/** flannel's port of VXLAN, which is Linux's own and not IANA's 4789. */
const DEFAULT_PORT = 8472

const NET_ADDR_SET = 3

/** The interface under the tunnel, the tunnel's device, and what could get at it. */
export function deviceChecks(facts: Facts): Finding[] {
  const underlay = underlayCheck(facts)
  if (facts.etcd.config !== undefined && facts.etcd.config.backendType !== 'vxlan') return underlay
  return [
    ...underlay,
    ...port(facts),
    ...device(facts),
    ...mtu(facts),
    ...macPolicy(facts),
    ...managers(facts),
    ...offload(facts),
  ]
}

function underlayCheck({ network }: Facts): Finding[] {
  const { underlay } = network
  if (typeof underlay === 'string') {
    return [
      fault('interface', 'fail', {
        what: underlay,
        why: 'flanneld cannot start without an interface that leads to the other nodes',
        mend: 'name one: -iface eth0',
      }),
    ]
  }
  const words = `${underlay.name} ${formatIpv4(underlay.address)} mtu ${underlay.mtu} (${underlay.reason})`
  if (network.links.find(({ index }) => index === underlay.index)?.up === false) {
    return [
      fault('interface', 'fail', {
        what: `${underlay.name} is down`,
        why: 'nothing passes to other nodes',
        mend: `ip link set ${underlay.name} up`,
      }),
    ]
  }
  return [ok('interface', words)]
}

/** One UDP port has one socket; VXLAN devices share theirs, but not their VNI. */
function port({ network, etcd }: Facts): Finding[] {
  const number = etcd.vxlan?.port ?? DEFAULT_PORT
  const vni = etcd.vxlan?.vni ?? 1
  const name = deviceName({ etcd })
  const others = network.links.filter(
    ({ kind, name: other, vxlan }) => kind === 'vxlan' && other !== name && vxlan?.port === number,
  )
  const findings: Finding[] = []
  const same = others.filter(({ vxlan }) => vxlan?.vni === vni)
  if (same.length > 0) {
    findings.push(
      fault('UDP port', 'fail', {
        what: `${namesOf(same)} has UDP port ${number} and VNI ${vni}, which ${name} needs`,
        why: `the kernel makes no second device with them, or keeps ${name} down`,
        mend: `ip link del ${same[0]?.name}, or set another Port or VNI in the network config, on all nodes`,
      }),
    )
  } else if (others.length > 0) {
    findings.push(
      fault('UDP port', 'warn', {
        what: `${namesOf(others)} uses UDP port ${number} too`,
        why: `another overlay network (Cilium's default is this port) may take packets, or keep ${name} from coming up`,
        mend: 'give one of the two another port: "Port" in the network config',
      }),
    )
  }
  const owners = network.udp.filter((socket) => socket.port === number && socket.owner !== undefined)
  if (owners.length > 0) {
    findings.push(
      fault('UDP port', 'fail', {
        what: `UDP port ${number} is taken by ${some(owners.map(({ owner }) => owner ?? ''))}`,
        why: `${name} cannot come up: the kernel answers "Address already in use"`,
        mend: 'stop that program, or set another "Port" in the network config, on all nodes',
      }),
    )
  }
  return findings.length > 0 ? findings : [ok('UDP port', `${number} is free for ${name}, or held by it`)]
}

function namesOf(links: readonly Link[]): string {
  return some(links.map(({ name }) => name))
}

function device(facts: Facts): Finding[] {
  const { device: link, underlay, addresses } = facts.network
  const name = deviceName(facts)
  const restart = 'systemctl restart flanneld'
  if (link === undefined) {
    if (!isInstalled(facts)) return [ok('device', `no ${name} yet: flanneld makes it`)]
    return [
      fault('device', 'fail', {
        what: `there is no ${name}`,
        why: 'no packet gets to another node',
        mend:
          typeof facts.daemon === 'string'
            ? 'systemctl start flanneld'
            : 'look into the log: journalctl -u flanneld',
      }),
    ]
  }
  const wrong: string[] = []
  if (link.kind !== 'vxlan') wrong.push(`it is a ${link.kind ?? 'device'}, not a VXLAN device`)
  if (!link.up) wrong.push('it is down')
  const { vxlan } = link
  const wanted = facts.etcd.vxlan
  if (vxlan !== undefined && wanted !== undefined) {
    if (vxlan.port !== wanted.port)
      wrong.push(`its UDP port is ${vxlan.port}, the config says ${wanted.port}`)
    if (vxlan.vni !== wanted.vni) wrong.push(`its VNI is ${vxlan.vni}, the config says ${wanted.vni}`)
    if (vxlan.learning) wrong.push('it learns addresses (no nolearning)')
    if (vxlan.gbp !== wanted.gbp) wrong.push(`GBP is ${vxlan.gbp ? 'on' : 'off'}, the config says the other`)
  }
  if (vxlan !== undefined && typeof underlay !== 'string') {
    if (vxlan.local !== undefined && vxlan.local !== underlay.address)
      wrong.push(
        `its local address is ${formatIpv4(vxlan.local)}, but ${underlay.name} has ${formatIpv4(underlay.address)}`,
      )
    if (vxlan.parent !== underlay.index) wrong.push(`it does not stand on ${underlay.name}`)
  }
  const own = ownLease(facts)
  if (own !== undefined) {
    const its = addresses.filter(({ index }) => index === link.index).map(({ address }) => address)
    if (!its.includes(own.subnet.address))
      wrong.push(`it lacks the address ${formatIpv4(own.subnet.address)}`)
    const mac = vtepMac(own.attributes.backendData)
    if (mac !== undefined && mac !== link.mac) wrong.push(`its MAC is ${link.mac}, the lease says ${mac}`)
  }
  if (wrong.length === 0) return [ok('device', `${name} is as it should be`)]
  return wrong.map((what) =>
    fault('device', 'fail', {
      what: `${name}: ${what}`,
      why: 'other nodes send to it what it does not take, or it cannot send',
      mend: restart,
    }),
  )
}

function mtu({ network, etcd, subnetFile }: Facts): Finding[] {
  const { device: link, underlay } = network
  if (link === undefined || typeof underlay === 'string') return []
  const most = Math.min(underlay.mtu, etcd.vxlan?.mtu ?? underlay.mtu) - ENCAPSULATION
  const findings: Finding[] = []
  if (link.mtu !== most) {
    const tooBig = link.mtu > most
    findings.push(
      fault('MTU', tooBig ? 'fail' : 'warn', {
        what: `${link.name} has MTU ${link.mtu}; ${underlay.name} leaves room for ${most}`,
        why: tooBig
          ? 'large packets do not fit once they are wrapped: connections open and then hang'
          : 'packets are smaller than they need to be',
        mend: 'systemctl restart flanneld, then docker',
      }),
    )
  }
  const written = subnetFile instanceof Map ? subnetFile.get('FLANNEL_MTU') : undefined
  if (written !== undefined && Number(written) !== link.mtu) {
    findings.push(
      fault('MTU', 'warn', {
        what: `the subnet file says FLANNEL_MTU=${written}, ${link.name} has ${link.mtu}`,
        why: 'Docker and CNI plugins take the MTU from that file',
        mend: 'systemctl restart flanneld, then docker',
      }),
    )
  }
  return findings.length > 0
    ? findings
    : [ok('MTU', `${link.name} has ${link.mtu}, ${underlay.name} ${underlay.mtu}`)]
}

/** udev leaves alone what user space has set; a MAC that the kernel drew, a persistent policy replaces (systemd.link(5)). */
function macPolicy({ network, managers: { macPolicy: rule }, etcd }: Facts): Finding[] {
  const { device: link, macAssigned } = network
  if (link === undefined || rule === undefined || macAssigned === undefined) return []
  if (macAssigned === NET_ADDR_SET || !/persistent|random/.test(rule.policy))
    return [ok('MACAddressPolicy', `udev leaves the MAC of ${link.name} alone`)]
  return [
    fault('MACAddressPolicy', 'warn', {
      what: `${rule.file} has MACAddressPolicy=${rule.policy}, and the MAC of ${link.name} was drawn by the kernel`,
      why: 'udev may give the device another MAC than the lease tells the other nodes',
      mend: `printf '[Match]\\nOriginalName=${deviceName({ etcd }).replace(/\d+$/, '*')}\\n[Link]\\nMACAddressPolicy=none\\n' > /etc/systemd/network/10-flannel.link; systemctl restart flanneld`,
    }),
  ]
}

function managers({ managers: { networkd, networkManager }, etcd }: Facts): Finding[] {
  const name = deviceName({ etcd })
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

/** First releases with "netfilter: nat: never update the UDP checksum when it's 0", by series. */
const MENDED: readonly (readonly [number, number, number])[] = [
  [4, 14, 181],
  [4, 19, 123],
  [5, 4, 41],
  [5, 6, 13],
]

/** Whether NAT spoils the checksum of VXLAN's outer UDP packet when the device leaves checksums to the hardware. */
export function spoilsChecksums(release: string): boolean {
  const [major = 0, minor = 0, patch = 0] = (release.match(/\d+/g) ?? []).map(Number)
  if (major > 5 || (major === 5 && minor >= 7)) return false
  const series = MENDED.find(([a, b]) => a === major && b === minor)
  return series === undefined || patch < series[2]
}

function offload({ network, system }: Facts): Finding[] {
  const { device: link, checksumOffload } = network
  if (link === undefined || checksumOffload === undefined) return []
  if (!checksumOffload || !spoilsChecksums(system.release)) {
    const state = checksumOffload ? 'on, and this kernel is sound' : 'off'
    return [ok('checksum offload', `${state} on ${link.name}`)]
  }
  return [
    fault('checksum offload', 'warn', {
      what: `${link.name} offloads checksums, and Linux ${system.release} may spoil them`,
      why: 'from a node to a service address on another node, connections take a second or a minute to open',
      fix: ['ethtool', '-K', link.name, 'tx-checksum-ip-generic', 'off'],
    }),
  ]
}
