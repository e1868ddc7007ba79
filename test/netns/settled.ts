import { differences, type Expected } from './checker.ts'
import type { Daemon, Lab } from './lab.ts'
import { waitFor } from './wait.ts'

/** Waits until flannel's six rules are there, or however many; they may come after READY=1, as flannel's do. */
export async function ruled(daemon: Daemon, count = 6): Promise<void> {
  let rules = ''
  const look = async (): Promise<boolean> => {
    rules = await daemon.namespace.run('iptables-save')
    return [...rules.matchAll(/^-A (POSTROUTING|FORWARD) .*172\.30\./gm)].length === count
  }
  await waitFor(look, { what: () => `${count} rules: ${rules}` })
}

/**
 * Waits until the kernel of node `i` holds exactly what the leases in etcd call for; rejects with what differs. `more`
 * is for what is not as usual: another VNI, port or MTU.
 */
export async function settled(
  lab: Lab,
  daemon: Daemon,
  i: number,
  more: Partial<Expected> = {},
): Promise<void> {
  let found: readonly string[] = []
  const look = async (): Promise<boolean> => {
    const leases = more.leases ?? (await lab.etcd.leases())
    const expected = { leases, own: daemon.leaseKey(), local: lab.address(i), ...more }
    found = await differences(daemon.namespace, expected)
    return found.length === 0
  }
  const what = (): string =>
    `node ${i} to be right: ${found.slice(0, 20).join('; ')}; ${daemon.log().slice(-2000)}`
  await waitFor(look, { what, interval: 30 })
}
