import { getSystemErrorName } from 'node:util'
import { probe } from './arp.ts'
import type { Underlay } from './backend/backend.ts'
import type { Clock } from './clock.ts'
import {
  chooseInterface,
  type ExternalInterface,
  type InterfaceChoice,
  InterfaceError,
  readNetworkView,
} from './iface.ts'
import { contains, formatIpv4, type MacAddress, type Subnet, subnetOf } from './ip.ts'
import type { Logger } from './log.ts'
import { openArpSocket } from './native.ts'
import { dumpAddresses } from './netlink/address.ts'
import type { Rtnl } from './netlink/conn.ts'
import { IFF_RUNNING } from './netlink/constants.ts'
import { NetlinkError } from './netlink/errors.ts'
import { dumpLinks } from './netlink/link.ts'
import type { Notification } from './netlink/monitor.ts'
import type { InterfaceAddress } from './subnet/validate.ts'

/** Milliseconds: the notifications of one change of an interface come in groups. */
const SETTLES = 30

/**
 * The interface under the overlay, chosen again whenever it may have changed. While there is none to choose, the last
 * one stands: it may come back.
 */
export class UnderlayWatcher {
  readonly #rtnl: Rtnl
  readonly #choice: InterfaceChoice
  readonly #log: Logger
  readonly #onChange: (before: Underlay) => void
  readonly #onReturn: () => void
  #current: ExternalInterface
  #timer: NodeJS.Timeout | undefined
  #trouble = ''
  /** Whether packets could pass, as last told; `back` until that was acted on. */
  #wire: 'whole' | 'cut' | 'back' = 'whole'
  /** Whether the log has it that the wire is cut. */
  #told = false

  constructor(parts: {
    readonly rtnl: Rtnl
    readonly choice: InterfaceChoice
    readonly log: Logger
    readonly current: ExternalInterface
    readonly onChange: (before: Underlay) => void
    /** It was down or without a carrier, and is no more: whatever was sent to us meanwhile is lost. */
    readonly onReturn: () => void
  }) {
    this.#rtnl = parts.rtnl
    this.#choice = parts.choice
    this.#log = parts.log
    this.#current = parts.current
    this.#onChange = parts.onChange
    this.#onReturn = parts.onReturn
  }

  get current(): ExternalInterface {
    return this.#current
  }

  /** Neither down nor without a carrier, as far as the kernel has told since the start. */
  get up(): boolean {
    return this.#wire !== 'cut'
  }

  /** Takes in what the kernel says of the interface; those who know the overlay say when to look. */
  observe(notifications: readonly Notification[]): void {
    for (const { kind, deleted, value } of notifications) {
      if (kind !== 'link' || value.index !== this.#current.index) continue
      if (deleted || (value.flags & IFF_RUNNING) === 0) this.#wire = 'cut'
      else if (this.#wire === 'cut') this.#wire = 'back'
    }
  }

  /** It may have changed: look, once things have settled. */
  suspect(): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => this.#look(), SETTLES)
  }

  close(): void {
    clearTimeout(this.#timer)
  }

  #look(): void {
    const before = this.#current
    let now: ExternalInterface
    try {
      now = chooseInterface(readNetworkView(this.#rtnl), this.#choice, quiet(this.#log))
    } catch (error) {
      if (!(error instanceof InterfaceError || error instanceof NetlinkError)) throw error
      if (this.#trouble === '') this.#log.warn(`${error.message}; keeping ${before.name} as it was`)
      this.#trouble = error.message
      return
    }
    if (this.#trouble !== '') this.#log.info(`interface ${now.name} can be used again`)
    this.#trouble = ''
    if (this.#wire === 'cut' && !this.#told) {
      this.#told = true
      this.#log.warn(`${now.name} is down or has no carrier: nothing passes to other nodes until it is back`)
    }
    if (this.#wire === 'back') {
      this.#wire = 'whole'
      if (this.#told) this.#log.info(`${now.name} is up again`)
      this.#told = false
      this.#onReturn()
    }
    if (before.index === now.index && describe(before) === describe(now)) return
    this.#current = now
    this.#log.warn(
      `the interface for inter-host traffic changed from ${describe(before)} to ${describe(now)}; following it`,
    )
    this.#onChange(before)
  }
}

/**
 * This node's own addresses, for checking leases against them; those of pods' bridges are left out: a bridge may still
 * hold an earlier subnet of ours. Throws NetlinkError.
 */
export function underlayAddresses(rtnl: Rtnl, { index }: Underlay, network: Subnet): InterfaceAddress[] {
  return rtnl.dump(dumpAddresses({ family: 4 })).flatMap((of) => {
    const { address, length } = of
    if (typeof address !== 'number') return []
    return of.index === index || !contains(network, address) ? [{ address, length }] : []
  })
}

/**
 * The MAC of another machine on the link that answers for the public IP; undefined when none does, and when nobody there can
 * be asked: an address that lies beyond a router, an interface without a MAC. Throws NetlinkError.
 */
export async function findRival(parts: {
  readonly rtnl: Rtnl
  readonly underlay: Underlay
  readonly clock: Clock
  readonly log: Logger
  readonly signal: AbortSignal
}): Promise<MacAddress | undefined> {
  const { rtnl, underlay, clock, log, signal } = parts
  const { index, publicIP } = underlay
  const onLink = rtnl.dump(dumpAddresses({ family: 4 })).some(({ index: of, address, length }) => {
    // A prefix of 32 bits has no link; what answers there are routers, for everybody.
    if (of !== index || typeof address !== 'number' || length === 32) return false
    return contains(subnetOf(address, length), publicIP)
  })
  const links = rtnl.dump(dumpLinks())
  const mac = links.find((link) => link.index === index)?.mac
  if (!onLink || mac === undefined) return undefined
  const socket = openArpSocket(index)
  if (typeof socket === 'number') {
    log.info(
      `cannot ask the link whether another machine has this node's address: ${getSystemErrorName(socket)}`,
    )
    return undefined
  }
  try {
    const own = new Set(links.flatMap((link) => link.mac ?? []))
    return await probe({ socket, mac, address: publicIP, own, clock, signal })
  } finally {
    socket.close()
  }
}

function describe({ name, address, mtu, publicIP }: ExternalInterface): string {
  const published = publicIP === address ? '' : `, public IP ${formatIpv4(publicIP)}`
  return `${name} ${formatIpv4(address)} mtu ${mtu}${published}`
}

/** For choosing again what was already explained once. */
function quiet(log: Logger): Logger {
  const debug: Logger['debug'] = (message, fields) => log.debug(message, fields)
  return { trace: debug, debug, info: debug, warn: debug, error: debug }
}
