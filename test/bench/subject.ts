import { join } from 'node:path'
import type { PeerLease } from '../netns/etcd.ts'
import { type Daemon, Lab, type Namespace, REPOSITORY, waitFor } from '../netns/lab.ts'

/** A flanneld to measure. */
export interface Subject {
  readonly label: string
  readonly binary: string
}

/** Daemons take one of the last 1,024 subnets for themselves; the 15,360 before are for the made-up peers. */
export const CONFIG = {
  Network: '100.64.0.0/10',
  SubnetLen: 24,
  SubnetMin: '100.124.0.0',
  Backend: { Type: 'vxlan' },
}

/** Ours as it is released, one executable (FLANNELD for another build of it), and FLANNEL_PEER when that is set. */
export function subjects(): readonly Subject[] {
  const ours = { label: 'flanneld', binary: process.env.FLANNELD ?? join(REPOSITORY, 'out/bench/flanneld') }
  const { FLANNEL_PEER: peer } = process.env
  return peer ? [ours, { label: 'peer', binary: peer }] : [ours]
}

/** Rounds in which every subject has its turn, the order reversed each time, so that drift of the machine hits both. */
export function* turns(rounds: number): Generator<Subject> {
  for (let round = 0; round < rounds; round++) {
    yield* round % 2 === 0 ? subjects() : [...subjects()].reverse()
  }
}

/** A numbers list or number from the environment, e.g. BENCH_PEERS="100 1000". */
export function setting(name: string, fallback: string): readonly number[] {
  return (process.env[name] ?? fallback).split(/[\s,]+/).map(Number)
}

/** Runs `body` with a lab of its own, with etcd and the config in it, and removes it again. */
export async function withLab(
  nodes: number,
  body: (lab: Lab) => Promise<void>,
  { config = CONFIG, underlay = '10.77' }: { readonly config?: object; readonly underlay?: string } = {},
): Promise<void> {
  const lab = await Lab.create({ nodes, prefix: underlay })
  try {
    const etcd = await lab.startEtcd()
    await etcd.config(config)
    await body(lab)
  } finally {
    await lab.close()
  }
}

/** Starts the subject on node `i` as on a fresh machine: no device, no rules, no files, no lease of its own. */
export async function startFresh(lab: Lab, i: number, subject: Subject): Promise<Daemon> {
  const node = lab.node(i)
  await removeDevice(node)
  await node.run('sh', '-c', 'nft flush ruleset 2>/dev/null; true')
  for (const table of ['nat', 'filter']) await node.run('iptables', '-t', table, '-F')
  for (const { key, value } of await lab.etcd.leases()) {
    if (value?.includes(`"PublicIP":"${lab.address(i)}"`)) await lab.etcd.delete(key)
  }
  return startSubject(lab, i, subject, lab.memoryFolder())
}

/**
 * Takes the device away, if it is there, after its routes: for each nexthop object with a route the kernel walks through all
 * routes, and nobody on the machine can change a device or a route meanwhile; with 65,000 that is minutes.
 */
export async function removeDevice(node: Namespace): Promise<void> {
  const [device] = await node.ipJson<{ ifname: string }>('link show type vxlan')
  if (device === undefined) return
  const routes = await node.ipJson<{ dst: string; nhid?: number }>(`route show dev ${device.ifname}`)
  const through = routes.flatMap(({ dst, nhid }) =>
    nhid === undefined ? [] : [`route del ${dst} nhid ${nhid}`],
  )
  if (through.length > 0) await node.ipBatch(through)
  await node.ip(`link del ${device.ifname}`)
}

export function startSubject(lab: Lab, i: number, subject: Subject, runDir: string): Promise<Daemon> {
  return lab.daemon(i, { binary: subject.binary, args: ['-ip-masq'], runDir })
}

/**
 * Waits until the kernel of node `i` has told of the route, ARP and FDB entry of every one of `peers`, and resolves to the
 * time of the last one in CLOCK_MONOTONIC milliseconds. The lab's observer must have watched the node from before.
 */
export async function converged(
  lab: Lab,
  i: number,
  peers: readonly PeerLease[],
  timeout = 120_000,
): Promise<number> {
  const { name } = lab.node(i)
  const subnets = peers.map(({ key }) => key.split('-')[0] ?? '')
  let last = 0
  const complete = async (): Promise<boolean> => {
    const counts = await lab.observer.counts(name)
    if (Math.min(counts.route, counts.neighbour, counts.fdb) < peers.length) return false
    const { route, neighbour, fdb } = await lab.observer.firstSeen(name)
    const times = [
      ...subnets.flatMap((subnet) => [route[subnet], neighbour[subnet]]),
      ...peers.map(({ mac }) => fdb[mac]),
    ]
    last = times.reduce<number>((latest, time) => Math.max(latest, time ?? Number.NaN), 0) / 1e6
    return !Number.isNaN(last)
  }
  await waitFor(complete, { what: `${peers.length} peers in the kernel of node ${i}`, timeout, interval: 20 })
  return last
}

/** Waits until the daemon has used next to no CPU for a while, so that a measurement of memory or idling can begin. */
export async function settled(daemon: Daemon): Promise<void> {
  let before = -1
  const quiet = (): boolean => {
    const { cpu } = daemon.status()
    const same = cpu - before < 0.02
    before = cpu
    return same
  }
  await waitFor(quiet, { what: 'the daemon to settle', timeout: 60_000, interval: 1000 })
}

/** What is in etcd now, without what node `i` itself wrote. */
export async function peersOf(lab: Lab, i: number): Promise<readonly PeerLease[]> {
  return (await lab.etcd.leases())
    .map(({ key, value }) => {
      const { PublicIP, BackendData } = JSON.parse(value ?? '{}')
      return { key: key.slice(key.lastIndexOf('/') + 1), publicIP: PublicIP, mac: BackendData.VtepMAC }
    })
    .filter(({ publicIP }) => publicIP !== lab.address(i))
}
