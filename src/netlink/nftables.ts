import { NetlinkError } from './errors.ts'
import type { NetlinkSocket } from './socket.ts'

/**
 * Calls back when somebody changed the nftables ruleset, once for all that is queued: what changed is for the owner of
 * rules to look up. A full queue (ENOBUFS) is a change like any other.
 */
export function watchNftables(socket: NetlinkSocket, onChange: () => void): void {
  socket.onReadable(() => {
    for (let reading = true; reading; ) {
      try {
        reading = socket.receive() !== undefined
      } catch (error) {
        if (!(error instanceof NetlinkError)) throw error
      }
    }
    onChange()
  })
}
