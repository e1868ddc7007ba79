import { daemonChecks } from './daemon.ts'
import { deviceChecks } from './device.ts'
import { dockerChecks } from './docker.ts'
import { entryChecks } from './entries.ts'
import type { Facts } from './facts.ts'
import { fileChecks } from './files.ts'
import type { Finding } from './finding.ts'
import { firewallChecks } from './firewall.ts'
import { kernelChecks } from './kernel.ts'
import { leaseChecks } from './leases.ts'
import { offloadCheck } from './offload.ts'
import { peerChecks } from './peers.ts'
import { portChecks } from './port.ts'
import { rivalChecks } from './rivals.ts'

/** Pure: all checks over what was read, from the ground up. */
export function examine(facts: Facts): Finding[] {
  return [
    daemonChecks,
    kernelChecks,
    firewallChecks,
    deviceChecks,
    portChecks,
    rivalChecks,
    offloadCheck,
    leaseChecks,
    entryChecks,
    dockerChecks,
    fileChecks,
    peerChecks,
  ].flatMap((check) => check(facts))
}
