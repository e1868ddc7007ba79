import type { Backend, BackendContext, Network, Underlay } from '../backend.ts'
import { NO_REPAIRS } from '../model.ts'

/** alloc: a lease and the files, and nothing in the kernel; whoever routes between the nodes is the operator's choice. */
export function openBackend({ underlay }: BackendContext): Backend {
  return {
    attributes: () => ({ publicIP: underlay.publicIP, backendType: '', backendData: undefined }),
    start: async () => new AllocNetwork(underlay),
  }
}

class AllocNetwork implements Network {
  readonly name = 'alloc'
  readonly status = { peers: 0, skipped: 0, tables: {}, repairs: NO_REPAIRS }
  #underlay: Underlay

  constructor(underlay: Underlay) {
    this.#underlay = underlay
  }

  get mtu(): number {
    return this.#underlay.mtu
  }

  setUnderlay(underlay: Underlay): void {
    this.#underlay = underlay
  }

  // Peers and the kernel are none of its business.
  replaceLeases(): void {}
  putLease(): void {}
  removeLease(): void {}
  observe(): void {}
  observeOverrun(): void {}
  apply(): void {}

  async run(signal: AbortSignal): Promise<void> {
    if (!signal.aborted)
      await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }))
  }
}
