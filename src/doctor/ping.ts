/**
 * Pings of all peers at once. They are programs, since raw sockets need native code, and starting thousands is what takes the
 * time: a shell starts them faster than we could, and all write to one pipe. The three packets of a peer are as large as the
 * overlay's MTU and must not be fragmented, so that as long as all is well one ping proves everything; only a peer that loses some
 * is asked again.
 */
import { spawn } from 'node:child_process'
import { formatIpv4, type Ipv4, parseIpv4, type Subnet } from '../ip.ts'

/** Pings of one shell, and shells at a time: pings wait more than they work. */
const CHUNK = 64
const SHELLS = 4
/** Up to so many addresses, a quarter of the crowd will do. */
const FEW = 256
const COUNT = 3
/** Seconds: between packets, and for the last answer. */
const INTERVAL = 0.01
const WAIT = 0.75
/** Bytes of the IPv4 and ICMP headers. */
const HEADERS = 28
/** Bytes of a packet that fits everywhere. */
const SMALL = 84

export interface PingResult {
  readonly sent: number
  readonly received: number
  /** Milliseconds, the mean; undefined without an answer. */
  readonly rtt: number | undefined
}

export interface PeerProbe {
  readonly subnet: Subnet
  readonly publicIP: Ipv4
  /** Full-size packets to its flannel device. */
  readonly large: PingResult
  /** Only when large ones were lost: small ones there, and to its public address. */
  readonly small?: PingResult
  readonly underlay?: PingResult
}

export interface PingTargets {
  readonly peers: readonly { readonly subnet: Subnet; readonly publicIP: Ipv4 }[]
  /** Bytes that a packet may have in the overlay. */
  readonly mtu: number
  /** The tunnel's local end. */
  readonly source: Ipv4
}

/** There is no program `ping`. */
export class NoPingError extends Error {
  override readonly name = 'NoPingError'
}

/** Pings each address with packets of `size` bytes, IPv4 header and all, and tells of each that is done. */
export type Ping = (targets: {
  readonly addresses: readonly Ipv4[]
  readonly size: number
  readonly source?: Ipv4
  readonly onResult?: () => void
}) => Promise<ReadonlyMap<Ipv4, PingResult>>

const NONE: PingResult = { sent: COUNT, received: 0, rtt: undefined }

/**
 * Pings every peer, and tells of each how many are done. Rejects with what `ping` rejects with. Some lost packets say little at
 * first: a raw socket gets every answer that comes to this node until ping has told it which it wants, and overflows in the
 * crowd. So the few that lost some are pinged again among themselves.
 */
export async function probePeers(
  { peers, mtu, source }: PingTargets,
  ping: Ping,
  progress: (done: number) => void,
): Promise<PeerProbe[]> {
  let done = 0
  const onResult = (): void => progress(++done)
  const first = await ping({ addresses: peers.map(({ subnet }) => subnet.address), size: mtu, onResult })
  const again = await ping({
    addresses: [...first].flatMap(([address, { sent, received }]) =>
      received > 0 && received < sent ? [address] : [],
    ),
    size: mtu,
  })
  const probes = peers.map(
    (peer): PeerProbe => ({
      ...peer,
      large: again.get(peer.subnet.address) ?? first.get(peer.subnet.address) ?? NONE,
    }),
  )
  const doubtful = probes.filter(({ large }) => large.received < large.sent)
  const [small, underlay] = await Promise.all([
    ping({ addresses: doubtful.map(({ subnet }) => subnet.address), size: SMALL }),
    ping({ addresses: [...new Set(doubtful.map(({ publicIP }) => publicIP))], size: SMALL, source }),
  ])
  return probes
    .map((probe) => {
      if (probe.large.received === probe.large.sent) return probe
      const { subnet, publicIP } = probe
      return {
        ...probe,
        small: small.get(subnet.address) ?? NONE,
        underlay: underlay.get(publicIP) ?? NONE,
      }
    })
    .sort((a, b) => a.subnet.address - b.subnet.address)
}

/** iputils' ping, in parallel. Rejects with a NoPingError. */
export const systemPing: Ping = async ({ addresses, size, source, onResult }) => {
  const flags = ['-n', '-q', '-M', 'do', '-c', COUNT, '-i', INTERVAL, '-W', WAIT, '-s', size - HEADERS]
  if (source !== undefined) flags.push('-I', formatIpv4(source))
  const results = new Map<Ipv4, PingResult>()
  const chunkSize = addresses.length > FEW ? CHUNK : CHUNK / 4
  let next = 0
  const worker = async (): Promise<void> => {
    while (next < addresses.length) {
      const chunk = addresses.slice(next, next + chunkSize)
      next += chunkSize
      await pingChunk(flags.join(' '), chunk, (address, result) => {
        results.set(address, result)
        onResult?.()
      })
    }
  }
  await Promise.all(Array.from({ length: SHELLS }, worker))
  return results
}

function pingChunk(
  flags: string,
  addresses: readonly Ipv4[],
  take: (address: Ipv4, result: PingResult) => void,
): Promise<void> {
  const script = `command -v ping >/dev/null || exit 127; for a; do ping ${flags} "$a" 2>&1 & done; wait`
  return new Promise((resolve, reject) => {
    const child = spawn('sh', ['-c', script, 'sh', ...addresses.map(formatIpv4)], {
      env: { ...process.env, LC_ALL: 'C' },
      stdio: ['ignore', 'pipe', 'ignore'],
    })
    let rest = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      rest = takeStatistics(rest + text, take)
    })
    child.on('error', reject)
    child.on('close', (code) => {
      takeStatistics(`${rest}\n`, take)
      if (code === 127) reject(new NoPingError('there is no program ping'))
      else resolve()
    })
  })
}

const STATISTICS =
  /--- (\S+) ping statistics ---\n(\d+) packets transmitted, (\d+) received[^\n]*\n(?:rtt [^=]*= [\d.]+\/([\d.]+)\/[^\n]*\n|\n)/g

/**
 * The summaries in what several pings print to one pipe; each is one write of less than PIPE_BUF bytes, and so in one piece
 * (pipe(7)). Returns what comes after the last whole one.
 */
export function takeStatistics(text: string, take: (address: Ipv4, result: PingResult) => void): string {
  let end = 0
  for (const match of text.matchAll(STATISTICS)) {
    end = match.index + match[0].length
    const address = parseIpv4(match[1] ?? '')
    const rtt = match[4] === undefined ? undefined : Number(match[4])
    const sent = Math.max(1, Number(match[2]))
    if (address !== undefined) take(address, { sent, received: Number(match[3]), rtt })
  }
  return text.slice(end)
}
