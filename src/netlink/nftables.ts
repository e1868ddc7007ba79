import { AF_UNSPEC, NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN, NFTA_GEN_ID } from './constants.ts'
import { NetlinkError } from './errors.ts'
import type { DumpRequest } from './request.ts'
import type { NetlinkSocket } from './socket.ts'
import { AttributeReader } from './wire.ts'

// struct nfgenmsg { __u8 nfgen_family; __u8 version; __be16 res_id; }
const NFGEN_HDRLEN = 4

/**
 * The generation of this network namespace's ruleset, 32 bits, which every transaction of nf_tables raises, iptables-nft's
 * included: as long as it stays, no rule has changed.
 */
export function getGeneration(): DumpRequest<number> {
  return {
    type: NFNL_SUBSYS_NFTABLES | NFT_MSG_GETGEN,
    flags: 0,
    encode: (writer) => writer.octets(AF_UNSPEC, 0, 0, 0),
    operation: () => 'read the generation of the nftables ruleset',
    decode: decodeGeneration,
  }
}

function decodeGeneration(bytes: Uint8Array, start = 0, end = bytes.length): number | undefined {
  const attributes = new AttributeReader().begin(bytes, start + NFGEN_HDRLEN, end)
  let id: number | undefined
  while (attributes.next()) if (attributes.type === NFTA_GEN_ID) id = attributes.u32be()
  return attributes.failed ? undefined : id
}

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
