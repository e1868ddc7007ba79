/**
 * Pings of all peers: the packets are as large as the overlay's MTU and must not be fragmented, so that as long as all is well
 * one round proves everything. Only a peer that loses some is asked further.
 */
import type { Ipv4, Subnet } from '../ip.ts'
import type { Ping, PingResult } from '../ping.ts'

/** Packets to each peer at first. */
const COUNT = 3
/** Packets at most to one that lost some of the first, so that the loss gets a figure, and to all of these together. */
const MORE = 20
const MORE_OF_ALL = 4_000
/** Bytes of a packet that fits everywhere. */
const SMALL = 84
/** Peers at most whose largest packet is searched for, sizes that are tried at once, and milliseconds to wait for the answers. */
const MEASURED = 16
const SIZES = 16
const WAIT = 400

export interface PeerProbe {
  readonly subnet: Subnet
  readonly publicIP: Ipv4
  /** Full-size packets to the address that answers for its subnet. */
  readonly large: PingResult
  /** Only when none of the large ones was answered: small ones there, and to its public address. */
  readonly small?: PingResult
  readonly underlay?: PingResult
  /** Bytes of the largest packet that was answered, where small ones are and large ones are not. */
  readonly largest?: number
}

export interface PingTarget {
  readonly subnet: Subnet
  readonly publicIP: Ipv4
  /** What answers for the subnet: the tunnel's end, or without a tunnel the node itself. */
  readonly address: Ipv4
}

export interface PingTargets {
  readonly peers: readonly PingTarget[]
  /** Bytes that a packet may have on the way. */
  readonly mtu: number
  /** This node's address on the underlay. */
  readonly source: Ipv4
}

const NONE: PingResult = { sent: COUNT, received: 0, rtt: undefined }

/** Pings every peer, and tells of each how many have been asked. */
export async function probePeers(
  { peers, mtu, source }: PingTargets,
  ping: Ping,
  progress: (done: number) => void,
): Promise<PeerProbe[]> {
  let sent = 0
  progress(0)
  const first = await ping({
    addresses: peers.map(({ address }) => address),
    size: mtu,
    count: COUNT,
    onSent: () => progress(Math.floor(++sent / COUNT)),
  })
  const resultOf = ({ address }: PingTarget): PingResult => first.get(address) ?? NONE
  const some = peers.filter((peer) => isBetween(resultOf(peer)))
  const silent = peers.filter((peer) => resultOf(peer).received === 0)
  const addresses = silent.map(({ address }) => address)
  const [again, small, underlay] = await Promise.all([
    // Many at once may be what it was lost for: this is a smaller crowd.
    ping({
      addresses: some.map(({ address }) => address),
      size: mtu,
      count: Math.max(COUNT, Math.min(MORE, Math.floor(MORE_OF_ALL / some.length))),
    }),
    ping({ addresses, size: SMALL, count: COUNT }),
    ping({
      addresses: silent.flatMap(({ address, publicIP }) => (address === publicIP ? [] : [publicIP])),
      size: SMALL,
      count: COUNT,
      source,
    }),
  ])
  const choked = addresses.filter((address) => (small.get(address)?.received ?? 0) > 0)
  const largest = await measure(choked.slice(0, MEASURED), mtu, ping)
  return peers
    .map((peer): PeerProbe => {
      const { subnet, publicIP, address } = peer
      const large = again.get(address) ?? resultOf(peer)
      const near = small.get(address)
      if (near === undefined) return { subnet, publicIP, large }
      const far = underlay.get(publicIP) ?? near
      const most = largest.get(address)
      return {
        subnet,
        publicIP,
        large,
        small: near,
        underlay: far,
        ...(most === undefined ? {} : { largest: most }),
      }
    })
    .sort((a, b) => a.subnet.address - b.subnet.address)
}

function isBetween({ sent, received }: PingResult): boolean {
  return received > 0 && received < sent
}

/** Bytes of the largest packet that each address answers: one of SMALL it does, one of `mtu` it does not. */
async function measure(
  addresses: readonly Ipv4[],
  mtu: number,
  ping: Ping,
): Promise<ReadonlyMap<Ipv4, number>> {
  const found = await Promise.all(
    addresses.map(async (address): Promise<[Ipv4, number]> => {
      let low = SMALL
      let high = mtu
      while (high - low > 1) {
        const step = Math.max(1, Math.ceil((high - low) / (SIZES + 1)))
        const sizes = Array.from({ length: SIZES }, (_, i) => low + step * (i + 1)).filter((n) => n < high)
        const answered = await Promise.all(
          sizes.map(async (size) => {
            const result = (await ping({ addresses: [address], size, count: 2, wait: WAIT })).get(address)
            return result !== undefined && result.received > 0
          }),
        )
        const best = answered.lastIndexOf(true)
        high = sizes[best + 1] ?? high
        low = sizes[best] ?? low
      }
      return [address, low]
    }),
  )
  return new Map(found)
}
