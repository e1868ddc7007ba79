import type { Link } from '../netlink/link.ts'
import type { Facts } from './facts.ts'
import { type Finding, fault, ok, some } from './finding.ts'

/** The tunnel's UDP port has one owner; VXLAN devices share theirs, but not their VNI. */
export function portChecks(facts: Facts): Finding[] {
  const { tunnel, network, daemon } = facts
  if (tunnel?.udp === undefined || tunnel.device === undefined) return []
  const { port, option } = tunnel.udp
  const name = network.device?.name ?? tunnel.device.name
  const findings = vxlanDevices(facts, name)
  // The udp backend's own is flanneld's.
  const pid = typeof daemon === 'string' ? undefined : daemon.daemon.pid
  const owners = network.udp.filter((socket) => socket.pid !== pid)
  if (owners.length > 0) {
    findings.push(
      fault('UDP port', 'fail', {
        what: `UDP port ${port} is taken by ${some(owners.map((owner) => `${owner.name} (pid ${owner.pid})`))}`,
        why: `${name} cannot come up: the kernel answers "Address already in use"`,
        mend: `stop that program, or set another "${option}" in the network config, on all nodes`,
      }),
    )
  }
  return findings.length > 0 ? findings : [ok('UDP port', `${port} is free for ${name}, or held by it`)]
}

function vxlanDevices({ tunnel, network }: Facts, name: string): Finding[] {
  if (tunnel?.vxlan === undefined) return []
  const { port, vni } = tunnel.vxlan
  const others = network.links.filter(
    ({ kind, name: other, vxlan }) => kind === 'vxlan' && other !== name && vxlan?.port === port,
  )
  const same = others.filter(({ vxlan }) => vxlan?.vni === vni)
  if (same.length > 0) {
    return [
      fault('UDP port', 'fail', {
        what: `${namesOf(same)} has UDP port ${port} and VNI ${vni}, which ${name} needs`,
        why: `the kernel makes no second device with them, or keeps ${name} down`,
        mend: `ip link del ${same[0]?.name}, or set another Port or VNI in the network config, on all nodes`,
      }),
    ]
  }
  if (others.length === 0) return []
  return [
    fault('UDP port', 'warn', {
      what: `${namesOf(others)} uses UDP port ${port} too`,
      why: `another overlay network (Cilium's default is this port) may take packets, or keep ${name} from coming up`,
      mend: 'give one of the two another port: "Port" in the network config',
    }),
  ]
}

function namesOf(links: readonly Link[]): string {
  return some(links.map(({ name }) => name))
}
