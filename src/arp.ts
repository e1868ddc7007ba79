/**
 * Who else holds an address: ARP probes, as in RFC 5227. A probe names no sender's address, so that nobody's ARP cache
 * takes anything from it, and a machine answers it even if the address asked for is the asker's own too.
 */
import type { Clock } from './clock.ts'
import type { Ipv4, MacAddress } from './ip.ts'
import type { NativeSocket } from './native.ts'

/** Probes, and milliseconds between them and after the last: on a link that works an answer takes less than one. */
const PROBES = 3
const PAUSE_MS = 200

// linux/if_ether.h, linux/if_arp.h; the frame of an ARP packet for IPv4 over Ethernet (RFC 826).
const FRAME = 42
const SENDER_MAC = 22
const SENDER_IP = 28
const TARGET_IP = 38
/** ETH_P_ARP, ARPHRD_ETHER, ETH_P_IP, the lengths of both addresses. */
const ARP_FOR_IPV4 = [0x08, 0x06, 0x00, 0x01, 0x08, 0x00, 6, 4]
const ETHERTYPE = 12
const ARPOP_REQUEST = 1

export interface ProbeOptions {
  /** Of the interface to ask through; the caller closes it. */
  readonly socket: Pick<NativeSocket, 'send' | 'receive' | 'watch'>
  /** Of that interface. */
  readonly mac: MacAddress
  readonly address: Ipv4
  /** All interfaces of this machine: Linux answers for every address it has on each of them. */
  readonly own: ReadonlySet<MacAddress>
  readonly clock: Clock
  readonly signal: AbortSignal
}

/** The MAC of another machine that says it has the address; undefined when none answers within 0.6 s. */
export async function probe(options: ProbeOptions): Promise<MacAddress | undefined> {
  const { socket, mac, address, own, clock, signal } = options
  const frame = probeFrame(mac, address)
  const answer = Buffer.alloc(64)
  const found = new AbortController()
  let holder: MacAddress | undefined
  socket.watch(() => {
    for (let length = socket.receive(answer); length >= 0; length = socket.receive(answer)) {
      const sender = length >= FRAME && length <= answer.length ? senderFor(answer, address) : undefined
      if (sender === undefined || own.has(sender)) continue
      holder = sender
      found.abort()
    }
  })
  const stop = AbortSignal.any([signal, found.signal])
  for (let i = 0; i < PROBES && !stop.aborted; i++) {
    // A link that is down takes none, and so has nobody on it.
    socket.send(frame)
    await clock.sleep(PAUSE_MS, stop)
  }
  return holder
}

function probeFrame(mac: MacAddress, address: Ipv4): Buffer {
  const frame = Buffer.alloc(FRAME)
  const sender = Buffer.from(mac.replaceAll(':', ''), 'hex')
  frame.fill(0xff, 0, 6)
  sender.copy(frame, 6)
  frame.set(ARP_FOR_IPV4, ETHERTYPE)
  frame.writeUInt16BE(ARPOP_REQUEST, ETHERTYPE + ARP_FOR_IPV4.length)
  sender.copy(frame, SENDER_MAC)
  frame.writeUInt32BE(address, TARGET_IP)
  return frame
}

/** Who says, by a request or a reply, that the address is its own. */
function senderFor(frame: Buffer, address: Ipv4): MacAddress | undefined {
  if (!ARP_FOR_IPV4.every((byte, i) => frame[ETHERTYPE + i] === byte)) return undefined
  if (frame.readUInt32BE(SENDER_IP) !== address) return undefined
  const octets = frame.subarray(SENDER_MAC, SENDER_MAC + 6)
  return Array.from(octets, (octet) => octet.toString(16).padStart(2, '0')).join(':')
}
