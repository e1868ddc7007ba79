import { getSystemErrorName } from 'node:util'
import { probe } from './arp.ts'
import type { Underlay } from './backend/backend.ts'
import { type Clock, Nap } from './clock.ts'
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
import { dumpLinks, type Link } from './netlink/link.ts'
import type { Notification } from './netlink/monitor.ts'
import type { InterfaceAddress } from './subnet/validate.ts'

/** Milliseconds: the notifications of one change of an interface come in groups. */
const SETTLES = 30
/** Groups that follow each other closely are waited for this often at most. */
const GROUPS = 10

export interface UnderlayWatcherParts {
  readonly rtnl: Pick<Rtnl, 'dump' | 'get'>
  readonly choice: InterfaceChoice
  readonly log: Logger
  readonly clock: Clock
  /** Milliseconds between looks without a notification. */
  readonly period: number
  readonly current: ExternalInterface
  readonly onChange: (before: ExternalInterface) => void
  /** It was down or without a carrier, and is no more: whatever was sent to us meanwhile is lost. */
  readonly onReturn: () => void
}

/**
 * The interface under the overlay, whatever the backend. It is looked at after a notification that may mean it, after lost
 * ones, and on a timer, and chosen again when it is not as it was. While there is none to choose, the last one stands: it
 * may come back.
 */
export class UnderlayWatcher {
  readonly #parts: UnderlayWatcherParts
  #current: ExternalInterface
  #trouble = ''
  /** Whether packets could pass, as last told; `back` until that was acted on. */
  #wire: 'whole' | 'cut' | 'back' = 'whole'
  /** Whether the log has it that the wire is cut. */
  #told = false
  /** It was chosen before anybody listened for changes. */
  #suspected = true
  readonly #nap = new Nap()

  constructor(parts: UnderlayWatcherParts) {
    this.#parts = parts
    this.#current = parts.current
  }

  get current(): ExternalInterface {
    return this.#current
  }

  /** Neither down nor without a carrier, as far as the kernel has told since the start. */
  get up(): boolean {
    return this.#wire !== 'cut'
  }

  /** Remembers what the kernel says of the interface, for `run` to look into. */
  observe(notifications: readonly Notification[]): void {
    for (const notification of notifications) {
      if (notification.kind === 'link' && notification.value.index === this.#current.index)
        this.#wireIs(!notification.deleted && (notification.value.flags & IFF_RUNNING) !== 0)
      if (this.#isAbout(notification)) this.#suspect()
    }
  }

  /** Notifications were lost. */
  observeOverrun(): void {
    this.#suspect()
  }

  /** Looks when it has to, until the signal fires. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, period } = this.#parts
    while (!signal.aborted) {
      if (!this.#suspected) await this.#nap.sleep(clock, period, signal)
      for (let groups = 0; this.#suspected && groups < GROUPS; groups++) {
        this.#suspected = false
        await clock.sleep(SETTLES, signal)
      }
      if (!signal.aborted) this.#look()
    }
  }

  #suspect(): void {
    this.#suspected = true
    this.#nap.wake()
  }

  #isAbout({ kind, value }: Notification): boolean {
    const { index, name } = this.#current
    // Whatever may be what is missing.
    if (this.#trouble !== '' && (kind === 'link' || kind === 'address')) return true
    if (this.#trouble !== '' && kind === 'route') return value.destination.length === 0
    if (kind === 'link') return value.index === index || value.name === name
    return kind === 'address' && value.index === index && typeof value.address === 'number'
  }

  #wireIs(whole: boolean): void {
    if (!whole) this.#wire = 'cut'
    else if (this.#wire === 'cut') this.#wire = 'back'
  }

  #look(): void {
    const { rtnl, choice, log, onChange, onReturn } = this.#parts
    const before = this.#current
    let now: ExternalInterface
    try {
      now = this.#isAsItWas() ? before : chooseInterface(readNetworkView(rtnl), choice, quiet(log))
      if (now.index !== before.index) this.#read(now.index)
    } catch (error) {
      if (!(error instanceof InterfaceError || error instanceof NetlinkError)) throw error
      if (this.#trouble === '') log.warn(`${error.message}; keeping ${before.name} as it was`)
      this.#trouble = error.message
      return
    }
    if (this.#trouble !== '') log.info(`interface ${now.name} can be used again`)
    this.#trouble = ''
    if (this.#wire === 'cut' && !this.#told) {
      this.#told = true
      log.warn(`${now.name} is down or has no carrier: nothing passes to other nodes until it is back`)
    }
    if (this.#wire === 'back') {
      this.#wire = 'whole'
      if (this.#told) log.info(`${now.name} is up again`)
      this.#told = false
      onReturn()
    }
    if (before.index === now.index && describe(before) === describe(now)) return
    this.#current = now
    log.warn(
      `the interface for inter-host traffic changed from ${describe(before)} to ${describe(now)}; following it`,
    )
    onChange(before)
  }

  /** Spares reading all routes of the node. Throws NetlinkError. */
  #isAsItWas(): boolean {
    const { rtnl } = this.#parts
    const { index, name, mtu, address } = this.#current
    const link = this.#read(index)
    if (this.#trouble !== '' || link?.name !== name || link.mtu !== mtu) return false
    return rtnl.dump(dumpAddresses({ family: 4 })).some((of) => of.index === index && of.address === address)
  }

  /** Reads the interface, and whether packets can pass: a lost notification may have told of that, or nobody asked for any yet. */
  #read(index: number): Link | undefined {
    const link = this.#parts.rtnl.dump(dumpLinks()).find((link) => link.index === index)
    this.#wireIs(link !== undefined && (link.flags & IFF_RUNNING) !== 0)
    return link
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
