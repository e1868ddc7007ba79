import { contains, formatIpv4, formatSubnet } from '../ip.ts'
import { type Facts, ownLease } from './facts.ts'
import { type Finding, fault, ok } from './finding.ts'

/** Docker's bridge is this node's end of the subnet: its address, its MTU, and who masquerades. */
export function dockerChecks(facts: Facts): Finding[] {
  const { docker, network, subnetFile } = facts
  const bridge = network.links.find(({ name }) => name === 'docker0')
  if (bridge === undefined && docker?.args === undefined) return []
  return [...subnet(facts), ...mtu(facts), ...masquerade()]

  function masquerade(): Finding[] {
    if (docker?.args === undefined) return []
    const flanneld =
      subnetFile instanceof Map ? subnetFile.get('FLANNEL_IPMASQ') === 'true' : facts.options.ipMasq
    const off =
      docker.args.some((arg) => /^--?ip-masq=false$/.test(arg)) || docker.settings['ip-masq'] === false
    if (flanneld && !off) {
      return [
        fault('docker --ip-masq', 'warn', {
          what: 'dockerd masquerades, and so does flanneld',
          why: "packets to other nodes' pods get this node's address instead of the pod's",
          mend: restart('--ip-masq=false'),
        }),
      ]
    }
    if (!flanneld && off) {
      return [
        fault('docker --ip-masq', 'warn', {
          what: 'neither dockerd (--ip-masq=false) nor flanneld masquerades',
          why: 'pods reach nothing outside of the overlay',
          mend: 'start flanneld with -ip-masq',
        }),
      ]
    }
    return [
      ok('docker --ip-masq', flanneld ? 'flanneld masquerades, dockerd does not' : 'dockerd masquerades'),
    ]
  }
}

/** How dockerd comes to its options: the file that flanneld writes for it. */
function restart(option: string): string {
  return `give dockerd ${option}: EnvironmentFile=/run/flannel/docker and $DOCKER_NETWORK_OPTIONS in its unit; systemctl restart docker`
}

function subnet(facts: Facts): Finding[] {
  const lease = ownLease(facts)
  const bridge = facts.network.links.find(({ name }) => name === 'docker0')
  if (lease === undefined || bridge === undefined) return []
  const addresses = facts.network.addresses.filter(({ index }) => index === bridge.index)
  const its = addresses.flatMap(({ address, length }) =>
    typeof address === 'number' ? [{ address, length }] : [],
  )
  const fits = its.some(
    ({ address, length }) => contains(lease.subnet, address) && length === lease.subnet.length,
  )
  if (fits) return [ok('docker bridge', `docker0 has the lease ${formatSubnet(lease.subnet)}`)]
  const [first] = its
  const has = first === undefined ? 'no address' : `${formatIpv4(first.address)}/${first.length}`
  return [
    fault('docker bridge', 'fail', {
      what: `docker0 has ${has}, the lease is ${formatSubnet(lease.subnet)}`,
      why: 'containers get addresses that other nodes do not send to this one',
      mend: restart(`--bip=${formatIpv4((lease.subnet.address + 1) >>> 0)}/${lease.subnet.length}`),
    }),
  ]
}

/** A bridge without ports has the MTU that it was made with; Docker gives --mtu to containers either way. */
function mtu(facts: Facts): Finding[] {
  const { device, links, underlay } = facts.network
  const bridge = links.find(({ name }) => name === 'docker0')
  // Without a tunnel, the interface itself is the measure.
  const way = facts.tunnel?.device === undefined && typeof underlay !== 'string' ? underlay : device
  if (facts.tunnel === undefined || way === undefined || bridge === undefined) return []
  if (bridge.mtu <= way.mtu) return [ok('docker MTU', `docker0 has ${bridge.mtu}, ${way.name} ${way.mtu}`)]
  // dockerd leaves its empty bridge at 1500, whatever --mtu says.
  const told = [...(facts.docker?.args ?? []), `--mtu=${facts.docker?.settings.mtu}`]
  if (told.includes(`--mtu=${way.mtu}`)) return [ok('docker MTU', `dockerd has --mtu=${way.mtu}`)]
  return [
    fault('docker MTU', 'warn', {
      what: `docker0 has MTU ${bridge.mtu}, ${way.name} only ${way.mtu}`,
      why: 'large packets from containers do not fit, and where ICMP is blocked connections hang',
      mend: restart(`--mtu=${way.mtu}`),
    }),
  ]
}
