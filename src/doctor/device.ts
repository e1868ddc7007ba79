import { vtepMac } from '../backend/vxlan/vtep.ts'
import { formatIpv4 } from '../ip.ts'
import { IFF_RUNNING } from '../netlink/constants.ts'
import type { Link } from '../netlink/link.ts'
import { type Facts, isInstalled, ownLease } from './facts.ts'
import { type Finding, fault, ok } from './finding.ts'
import type { Tunnel } from './tunnel.ts'

/** The interface under the tunnel, the tunnel's device, and how large a packet may be in it. */
export function deviceChecks(facts: Facts): Finding[] {
  return [...underlayCheck(facts), ...device(facts), ...mtu(facts)]
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
  const link = network.links.find(({ index }) => index === underlay.index)
  if (link?.up === true && (link.flags & IFF_RUNNING) === 0) {
    return [
      fault('interface', 'fail', {
        what: `${underlay.name} has no carrier`,
        why: 'nothing passes to other nodes',
        mend: `look at the cable and at the other end of it: ip link show ${underlay.name}`,
      }),
    ]
  }
  if (link?.up === false) {
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

function device(facts: Facts): Finding[] {
  const { device: link } = facts.network
  const { tunnel } = facts
  if (tunnel?.device === undefined) return []
  const { name } = tunnel.device
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
  const wrong = [
    ...(link.kind === tunnel.device.kind
      ? []
      : [`it is a ${link.kind ?? 'device'}, not of kind ${tunnel.device.kind}`]),
    ...(link.up ? [] : ['it is down']),
    ...differences(facts, link, tunnel),
    ...identity(facts, link),
  ]
  if (wrong.length === 0) return [ok('device', `${link.name} is as it should be`)]
  return wrong.map((what) =>
    fault('device', 'fail', {
      what: `${link.name}: ${what}`,
      why: 'other nodes send to it what it does not take, or it cannot send',
      mend: 'systemctl restart flanneld; after a change of the network config, on every node',
    }),
  )
}

/** What it was made with, against config and interface. */
function differences({ network: { underlay } }: Facts, link: Link, tunnel: Tunnel): string[] {
  const wrong: string[] = []
  const { vxlan, ipip } = link
  const wanted = tunnel.vxlan
  if (vxlan !== undefined && wanted !== undefined) {
    if (vxlan.port !== wanted.port)
      wrong.push(`its UDP port is ${vxlan.port}, the config says ${wanted.port}`)
    if (vxlan.vni !== wanted.vni) wrong.push(`its VNI is ${vxlan.vni}, the config says ${wanted.vni}`)
    if (vxlan.learning) wrong.push('it learns addresses (no nolearning)')
    if (vxlan.gbp !== wanted.gbp) wrong.push(`GBP is ${vxlan.gbp ? 'on' : 'off'}, the config says the other`)
  }
  if (typeof underlay === 'string') return wrong
  const local = vxlan?.local ?? ipip?.local
  if (local !== undefined && local !== underlay.address)
    wrong.push(
      `its local address is ${formatIpv4(local)}, but ${underlay.name} has ${formatIpv4(underlay.address)}`,
    )
  if (vxlan !== undefined && vxlan.parent !== underlay.index)
    wrong.push(`it does not stand on ${underlay.name}`)
  if (ipip !== undefined && ipip.remote !== 0)
    wrong.push(`it leads to ${formatIpv4(ipip.remote)} alone, not to any node`)
  return wrong
}

/** What the lease tells the other nodes of it. */
function identity(facts: Facts, link: Link): string[] {
  const own = ownLease(facts)
  if (own === undefined) return []
  const its = facts.network.addresses
    .filter(({ index }) => index === link.index)
    .map(({ address }) => address)
  const mac = vtepMac(own.attributes.backendData)
  return [
    ...(its.includes(own.subnet.address) ? [] : [`it lacks the address ${formatIpv4(own.subnet.address)}`]),
    ...(mac === undefined || mac === link.mac ? [] : [`its MAC is ${link.mac}, the lease says ${mac}`]),
  ]
}

/** Bytes that a packet may have in the overlay; undefined without a backend or an interface. */
export function roomOf({ tunnel, network: { underlay } }: Facts): number | undefined {
  if (tunnel === undefined || typeof underlay === 'string') return undefined
  return Math.min(underlay.mtu, tunnel.mtu ?? underlay.mtu) - tunnel.overhead
}

function mtu(facts: Facts): Finding[] {
  const { subnetFile } = facts
  const { device: link, underlay } = facts.network
  const room = roomOf(facts)
  if (room === undefined || typeof underlay === 'string') return []
  if (facts.tunnel?.device !== undefined && link === undefined) return []
  const findings: Finding[] = []
  if (link !== undefined && link.mtu !== room) {
    const tooBig = link.mtu > room
    findings.push(
      fault('MTU', tooBig ? 'fail' : 'warn', {
        what: `${link.name} has MTU ${link.mtu}; ${underlay.name} leaves room for ${room}`,
        why: tooBig
          ? 'large packets do not fit once they are wrapped: connections open and then hang'
          : 'packets are smaller than they need to be',
        mend: 'systemctl restart flanneld, then docker',
      }),
    )
  }
  const has = link?.mtu ?? room
  const words = `${link?.name ?? underlay.name} has ${has}`
  const written = subnetFile instanceof Map ? subnetFile.get('FLANNEL_MTU') : undefined
  if (written !== undefined && Number(written) !== has) {
    findings.push(
      fault('MTU', 'warn', {
        what: `the subnet file says FLANNEL_MTU=${written}, ${words}`,
        why: 'Docker and CNI plugins take the MTU from that file',
        mend: 'systemctl restart flanneld, then docker',
      }),
    )
  }
  if (findings.length > 0) return findings
  return [ok('MTU', link === undefined ? words : `${words}, ${underlay.name} ${underlay.mtu}`)]
}
