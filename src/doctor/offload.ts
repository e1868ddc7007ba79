import type { Facts } from './facts.ts'
import { type Finding, fault, ok } from './finding.ts'

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

/** Of VXLAN alone: what the others send has a checksum of its own, or none. */
export function offloadCheck({ network, system, tunnel }: Facts): Finding[] {
  const { device: link, checksumOffload } = network
  if (tunnel?.vxlan === undefined || link === undefined || checksumOffload === undefined) return []
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
