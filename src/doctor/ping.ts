/**
 * Pings of all peers at once. `ping` is a program of its own for each, since raw sockets need native code; one process a peer is
 * enough as long as all is well, because its three packets are as large as the overlay's MTU and must not be fragmented. Only
 * what these do not prove is asked of a peer separately.
 */
import { spawn } from 'node:child_process'
import { formatIpv4, type Ipv4, type Subnet } from '../ip.ts'

/** Processes at a time: they wait more than they work. */
const AT_ONCE = 192
const COUNT = 3
/** Seconds: between packets, and for the last answer. */
const INTERVAL = 0.02
const WAIT = 0.9
/** IPv4 and ICMP headers. */
const HEADERS = 28

export interface PingResult {
  readonly sent: number
  readonly received: number
  /** Milliseconds, the mean; undefined without an answer. */
  readonly rtt: number | undefined
  /** What the kernel says of a packet that does not fit: the MTU of the path, where it knows. */
  readonly tooBig: boolean
}

export interface PeerProbe {
  readonly subnet: Subnet
  readonly publicIP: Ipv4
  /** Full-size packets to its flannel device. */
  readonly large: PingResult
  /** Only when large ones were lost: small ones there, and both sizes to its public address. */
  readonly small?: PingResult
  readonly underlaySmall?: PingResult
  readonly underlayLarge?: PingResult
}

export interface PingTargets {
  readonly peers: readonly { readonly subnet: Subnet; readonly publicIP: Ipv4 }[]
  /** Bytes that a packet may have in the overlay, and between nodes. */
  readonly mtu: number
  readonly underlayMtu: number
  /** The tunnel's local end. */
  readonly source: Ipv4
}

/** One ping; `size` is that of the whole IPv4 packet. */
export type Ping = (target: {
  readonly address: Ipv4
  readonly size: number
  readonly source?: Ipv4
}) => Promise<PingResult>

/** Pings every peer, and tells after each how many are done. Rejects when there is no program `ping`. */
export async function probePeers(
  { peers, mtu, underlayMtu, source }: PingTargets,
  ping: Ping,
  progress: (done: number) => void,
): Promise<PeerProbe[]> {
  const probe = async (peer: PingTargets['peers'][number]): Promise<PeerProbe> => {
    const { subnet, publicIP } = peer
    const large = await ping({ address: subnet.address, size: mtu })
    if (large.received === large.sent && large.sent > 0) return { subnet, publicIP, large }
    const [small, underlaySmall, underlayLarge] = await Promise.all([
      ping({ address: subnet.address, size: 84 }),
      ping({ address: publicIP, size: 84, source }),
      ping({ address: publicIP, size: underlayMtu, source }),
    ])
    return { subnet, publicIP, large, small, underlaySmall, underlayLarge }
  }
  const probes: PeerProbe[] = []
  let next = 0
  const worker = async (): Promise<void> => {
    for (let peer = peers[next++]; peer !== undefined; peer = peers[next++]) {
      probes.push(await probe(peer))
      progress(probes.length)
    }
  }
  await Promise.all(Array.from({ length: Math.min(AT_ONCE, peers.length) }, worker))
  return probes.sort((a, b) => a.subnet.address - b.subnet.address)
}

/** iputils' ping. `-M do` sets the DF bit (ip(7), IP_PMTUDISC_DO), so that nobody cuts the packet up. */
export const systemPing: Ping = ({ address, size, source }) => {
  const args = ['-n', '-q', '-M', 'do', '-c', String(COUNT), '-i', String(INTERVAL), '-W', String(WAIT)]
  args.push('-s', String(Math.max(0, size - HEADERS)))
  if (source !== undefined) args.push('-I', formatIpv4(source))
  args.push(formatIpv4(address))
  return new Promise((resolve, reject) => {
    const child = spawn('ping', args, {
      env: { ...process.env, LC_ALL: 'C' },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let text = ''
    const take = (part: Buffer): void => {
      text += part.toString()
    }
    child.stdout.on('data', take)
    child.stderr.on('data', take)
    child.on('error', reject)
    child.on('close', () => resolve(parsePing(text)))
  })
}

/** What `ping -q` prints at its end; a ping that could not send counts as one with no answer. */
export function parsePing(text: string): PingResult {
  const [, sent = COUNT, received = 0] =
    /(\d+) packets transmitted, (\d+) (?:packets )?received/.exec(text)?.map(Number) ?? []
  const rtt = /= [\d.]+\/([\d.]+)\//.exec(text)?.[1]
  return {
    sent: Math.max(sent, 1),
    received,
    rtt: rtt === undefined ? undefined : Number(rtt),
    tooBig: /message too long|frag needed/i.test(text),
  }
}
