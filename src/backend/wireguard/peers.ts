import { formatIpv4, formatSubnet, type Subnet, sameSubnet, subnetKey } from '../../ip.ts'
import type { Logger } from '../../log.ts'
import type { Endpoint, WireGuardKey, WireGuardPeer } from '../../netlink/wireguard.ts'
import type { Lease } from '../../subnet/lease.ts'
import { DeltaTracker } from '../delta.ts'
import { UnusableLease } from '../model.ts'
import { decodeKey } from './key.ts'

/** A peer as the kernel can show it: `more` is what it may send and we never allow. */
export type HeldPeer = WireGuardPeer & { readonly more?: boolean }

export interface WireGuardPeersOptions {
  readonly ownKey: WireGuardKey
  readonly presharedKey: WireGuardKey | undefined
  readonly keepalive: number
  /** For peers whose lease names no port, as flannel's before v0.26.6. */
  readonly listenPort: number
  readonly log: Logger
}

/** One node with one subnet, as its lease describes it. */
interface Node {
  readonly subnet: Subnet
  readonly key: WireGuardKey
  readonly endpoint: Endpoint
  modifiedIndex: number
}

/**
 * The remote nodes, and through them the WireGuard peers that are wanted: one for each key, to which exactly the leased
 * subnets are allowed. Writes nothing to the kernel.
 */
export class WireGuardPeers {
  readonly table = new DeltaTracker<WireGuardKey, HeldPeer, WireGuardPeer>(samePeer)
  readonly #options: WireGuardPeersOptions
  readonly #nodes = new Map<number, Node>()
  readonly #byKey = new Map<WireGuardKey, Set<Node>>()

  constructor(options: WireGuardPeersOptions) {
    this.#options = options
  }

  *subnets(): Generator<Subnet> {
    for (const { subnet } of this.#nodes.values()) yield subnet
  }

  get size(): number {
    return this.#nodes.size
  }

  node(subnet: Subnet): Node | undefined {
    return this.#nodes.get(subnetKey(subnet))
  }

  /** Whether its subnet is among those that the peer with its key may have. */
  isAllowed({ key, subnet }: Node): boolean {
    return this.table.wanted(key)?.allowedIps.some((allowed) => sameSubnet(allowed, subnet)) ?? false
  }

  /** A new or changed lease. Throws UnusableLease when it is none of ours; what stood for the subnet goes then. */
  put(lease: Lease): void {
    let node: Node
    try {
      node = this.#nodeOf(lease)
    } catch (error) {
      this.remove(lease.subnet)
      throw error
    }
    const { subnet, key, endpoint } = node
    const before = this.#nodes.get(subnetKey(subnet))
    if (before?.key === key && sameEndpoint(before.endpoint, endpoint)) {
      // A renewal changes nothing but who is the newest of those that share a key.
      before.modifiedIndex = node.modifiedIndex
      this.#settle(key)
      return
    }
    this.#options.log.info(`Subnet added: ${formatSubnet(subnet)} via ${formatIpv4(endpoint.address)}`)
    if (before !== undefined) this.#drop(before)
    this.#nodes.set(subnetKey(subnet), node)
    const sharing = this.#byKey.get(key)
    if (sharing === undefined) this.#byKey.set(key, new Set([node]))
    else sharing.add(node)
    this.#settle(key)
  }

  remove(subnet: Subnet): void {
    const node = this.#nodes.get(subnetKey(subnet))
    if (node === undefined) return
    this.#options.log.info(`Subnet removed: ${formatSubnet(subnet)}`)
    this.#nodes.delete(subnetKey(subnet))
    this.#drop(node)
  }

  #drop(node: Node): void {
    const sharing = this.#byKey.get(node.key)
    sharing?.delete(node)
    if (sharing?.size === 0) this.#byKey.delete(node.key)
    this.#settle(node.key)
  }

  /**
   * A key stands for one peer at one endpoint. Leases that share both (a node that changed its subnet, its old lease not
   * yet expired) add up; of those that differ, the newest is right.
   */
  #settle(key: WireGuardKey): void {
    const sharing = [...(this.#byKey.get(key) ?? [])]
    const [first, ...rest] = sharing
    if (first === undefined) {
      this.table.unwant(key)
      return
    }
    const newest = rest.reduce((a, b) => (b.modifiedIndex > a.modifiedIndex ? b : a), first)
    const allowedIps = sharing
      .filter(({ endpoint }) => sameEndpoint(endpoint, newest.endpoint))
      .map(({ subnet }) => subnet)
      .sort(bySubnet)
    const { presharedKey, keepalive } = this.#options
    this.table.want(key, { publicKey: key, presharedKey, endpoint: newest.endpoint, keepalive, allowedIps })
  }

  #nodeOf({ subnet, attributes, modifiedIndex }: Lease): Node {
    const { backendType, backendData, publicIP } = attributes
    const name = `${formatSubnet(subnet)} via ${formatIpv4(publicIP)}`
    if (backendType !== 'wireguard') {
      throw new UnusableLease(`Ignoring non-wireguard subnet: type=${backendType} (${name})`)
    }
    const { publickey: key, port } = fields(backendData)
    if (typeof key !== 'string' || decodeKey(key) === undefined) {
      throw new UnusableLease(
        `error decoding subnet lease JSON: ${name} has no usable PublicKey in its BackendData`,
      )
    }
    if (key === this.#options.ownKey) {
      throw new UnusableLease(
        `ignoring lease ${name}: its PublicKey is our own; two machines with one key (a cloned image?) cannot talk: ` +
          'delete the key file on one and restart flanneld there',
      )
    }
    const usable = typeof port === 'number' && Number.isInteger(port) && port > 0 && port <= 65_535
    const endpoint = { address: publicIP, port: usable ? port : this.#options.listenPort }
    return { subnet, key, endpoint, modifiedIndex }
  }
}

/** Members by name in lower case: Go's decoder takes any, and the last one counts. */
function fields(data: unknown): Readonly<Record<string, unknown>> {
  if (typeof data !== 'object' || data === null) return {}
  return Object.fromEntries(Object.entries(data).map(([name, value]) => [name.toLowerCase(), value]))
}

function samePeer(a: HeldPeer, b: HeldPeer): boolean {
  return (
    a.presharedKey === b.presharedKey &&
    a.keepalive === b.keepalive &&
    sameEndpoint(a.endpoint, b.endpoint) &&
    (a.more ?? false) === (b.more ?? false) &&
    a.allowedIps.length === b.allowedIps.length &&
    a.allowedIps.every((subnet, i) => sameSubnet(subnet, b.allowedIps[i] as Subnet))
  )
}

export function sameEndpoint(a: Endpoint | undefined, b: Endpoint | undefined): boolean {
  return a?.address === b?.address && a?.port === b?.port
}

export function bySubnet(a: Subnet, b: Subnet): number {
  return a.address - b.address || a.length - b.length
}
