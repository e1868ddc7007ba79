import type { Look } from './look.ts'
import { PEER_STATES, stateOf } from './select.ts'

/**
 * All peers as the map wants them: `{edition, states, peers}`, a peer being its subnet, public IP, position of its state in
 * `states`, when its lease last changed (milliseconds since the epoch, 0 when before this daemon's first list), and the round trip
 * of its last ping in milliseconds (null where there is none).
 */
export function renderMap({ peers }: Look): string {
  return JSON.stringify({
    edition: peers.edition,
    states: PEER_STATES,
    peers: peers.lines.map((line) => [
      line.subnet,
      line.publicIP,
      PEER_STATES.indexOf(stateOf(line)),
      line.changedAt === null ? 0 : Date.parse(line.changedAt),
      line.probe?.rttMs ?? null,
    ]),
  })
}
