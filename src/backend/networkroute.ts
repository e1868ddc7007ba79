import { type Subnet, sameSubnet } from '../ip.ts'
import type { Rtnl } from '../netlink/conn.ts'
import { RT_TABLE_MAIN, RTN_UNICAST, RTPROT_BOOT, RTPROT_KERNEL } from '../netlink/constants.ts'
import type { Notification } from '../netlink/monitor.ts'
import { passing } from '../netlink/request.ts'
import { deleteRoute, dumpRoutes, type Route, replaceRoute } from '../netlink/route.ts'
import { DeltaTracker, type EntryState } from './delta.ts'
import type { Surprised } from './model.ts'
import { deletions, type May, type Operation, type TableKey, writes } from './operations.ts'
import { routeKey } from './routekeys.ts'

export interface NetworkRouteOptions {
  readonly rtnl: Rtnl
  readonly network: Subnet
  /** RT_SCOPE_* that flannel gives it for this backend. */
  readonly scope: number
  readonly device: () => { readonly index: number; readonly name: string }
}

/**
 * The one route of backends that find the peer by themselves: the whole network, by their device. Ours are all routes on
 * the device and what else stands where the one belongs, but for the kernel's own.
 */
export class NetworkRoute {
  readonly #options: NetworkRouteOptions
  readonly #routes = new DeltaTracker<string, Route>(() => true)
  #wanted: string | undefined

  constructor(options: NetworkRouteOptions) {
    this.#options = options
  }

  /** By the device as it is now. */
  want(): void {
    const { network, scope, device } = this.#options
    if (this.#wanted !== undefined) this.#routes.unwant(this.#wanted)
    const route: Route = {
      destination: network,
      table: RT_TABLE_MAIN,
      protocol: RTPROT_BOOT,
      scope,
      type: RTN_UNICAST,
      tos: 0,
      metric: 0,
      gateway: undefined,
      nexthopId: undefined,
      oif: device().index,
      source: undefined,
      onlink: false,
      multipath: undefined,
      cloned: false,
    }
    this.#wanted = routeKey(route)
    this.#routes.want(this.#wanted, route)
  }

  /** Reads the main table; tells whether it was not as believed. Throws NetlinkError. */
  load(surprised: Surprised): void {
    const ours = (route: Route): boolean => this.#owns(route)
    const surprising = this.#routes.holdExactly((begin) => {
      this.#options.rtnl.each(dumpRoutes({ table: RT_TABLE_MAIN }), () => passing(ours, begin()))
    }, routeKey)
    for (const key of surprising) surprised({ table: 'route', key })
  }

  observe(notification: Notification): TableKey[] | undefined {
    if (notification.kind !== 'route') return []
    const { value, deleted, replaced } = notification
    const key = routeKey(value)
    // The kernel says what came, not what went.
    if (replaced && this.#inPlace(value) && this.#routes.held(key) === undefined) return undefined
    if (!this.#owns(value)) return []
    const news = deleted ? this.#routes.lose(key) : this.#routes.hold(key, value)
    return news ? [{ table: 'route', key }] : []
  }

  writes(may: May): Iterable<Operation> {
    const { name } = this.#options.device()
    return writes('route', this.#routes, (route) => replaceRoute(route, name), may)
  }

  deletions(may: May): Iterable<Operation> {
    return deletions('route', this.#routes, deleteRoute, may)
  }

  /** Another program's in its place has another key. */
  state(): EntryState {
    if (this.#wanted === undefined) return 'missing'
    const state = this.#routes.state(this.#wanted)
    if (state !== 'missing') return state
    for (const { held } of this.#routes.extra()) if (this.#inPlace(held)) return 'differs'
    return 'missing'
  }

  get counts() {
    return this.#routes.counts
  }

  #owns(route: Route): boolean {
    if (route.table !== RT_TABLE_MAIN || route.protocol === RTPROT_KERNEL) return false
    return route.oif === this.#options.device().index || this.#inPlace(route)
  }

  #inPlace({ destination, metric, tos }: Route): boolean {
    return metric === 0 && tos === 0 && sameSubnet(destination, this.#options.network)
  }
}
