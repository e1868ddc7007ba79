/**
 * A daemon is ended and started again and again, by SIGTERM and SIGKILL, before and after it is ready, while pods make new
 * connections to another node's pod and, through SNAT, to the world outside. Nothing of it may show: no connection that fails
 * or is seen from a wrong address, no entry or rule that goes and comes, the same interface index and MAC.
 */
import { type Daemon, Lab, monotonic, peerLeases, startMonitor, waitFor } from '../netns/lab.ts'
import { lines, type Namespace } from '../netns/namespace.ts'
import { stop } from '../netns/process.ts'
import { ruled, settled } from '../netns/settled.ts'
import { kernelState } from '../netns/state.ts'
import { Random } from './random.ts'
import { startLoad, startServer } from './traffic.ts'

const PORT = 7070
/** A restart in so many is killed before it is ready. */
const EARLY = 0.2

export interface RestartResult {
  readonly connections: number
  readonly slow: number
  /** Milliseconds for one restart, the average. */
  readonly each: number
}

/** Rejects with the seed and with what showed. `say` gets a line now and then. */
export async function restarts(options: {
  readonly count: number
  readonly seed: number
  readonly say: (line: string) => void
}): Promise<RestartResult> {
  const { count, seed, say } = options
  const random = new Random(seed)
  say(`SOAK_SEED=${random.seed}: ${count} restarts under load`)
  const lab = await Lab.create({ nodes: 2 })
  try {
    const etcd = await lab.startEtcd()
    await etcd.config({ Network: '172.30.0.0/16', SubnetLen: 21, Backend: { Type: 'vxlan' } })
    await etcd.seed(peerLeases(15, { network: '172.30.0.0', length: 21 }))
    const start = (i: number): Promise<Daemon> => lab.daemon(i, { args: ['-ip-masq'] })
    let one = await start(1)
    const two = await start(2)
    for (const daemon of [one, two]) await daemon.waitReady()
    const pods = [await lab.pod(one), await lab.pod(two)] as const
    await settled(lab, one, 1)
    await settled(lab, two, 2)
    for (const daemon of [one, two]) await ruled(daemon)

    const node = lab.node(1)
    for (const place of [pods[1].namespace, lab.switch]) {
      const server = await startServer(place, PORT)
      lab.onClose(() => server.close())
    }
    const before = await kernelState(node)
    const kernel = await startMonitor(node, 'link address route neigh nexthop')
    const firewall = await startFirewallMonitor(lab, node)
    const traffic = await startLoad(pods[0].namespace, PORT, {
      [pods[1].address]: pods[0].address,
      [lab.outside]: lab.address(1),
    })
    const begin = monotonic()
    for (let i = 1; i <= count; i++) {
      await one.stop(random.pick(['SIGTERM', 'SIGKILL']))
      one = await start(1)
      if (i < count && random.chance(EARLY)) {
        const until = monotonic() + random.between(0, 80)
        await waitFor(() => monotonic() > until, { what: 'time to pass', interval: 2 })
      } else {
        await one.waitReady()
      }
      if (i % 100 === 0) say(`${i} restarts`)
    }
    const each = (monotonic() - begin) / count
    await settled(lab, one, 1)
    await ruled(one)
    const report = await traffic.stop()
    const shown = [
      ...report.failures,
      // Without the neighbours that the kernel itself makes for multicast, and collects.
      ...(await kernel.stop()).filter((line) => /Deleted .*(flannel\.1|172\.30\.)(?!.* NOARP)/.test(line)),
      ...(await firewall()).filter((line) => /^delete /.test(line)),
    ]
    if (shown.length > 0) throw new Error(`it showed: ${shown.slice(0, 20).join('; ')}`)
    const after = await kernelState(node)
    for (const [what, text] of Object.entries(before)) {
      if (after[what] !== text) throw new Error(`${what} was ${text} and is ${after[what]}`)
    }
    const { connections, slow } = report
    return { connections, slow, each }
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    throw new Error(`SOAK_SEED=${seed}: ${reason}`, { cause: error })
  } finally {
    await lab.close()
  }
}

/** Starts `nft monitor` and waits until it listens; the function returned stops it and resolves to its lines. */
async function startFirewallMonitor(lab: Lab, node: Namespace): Promise<() => Promise<readonly string[]>> {
  const child = node.start(['nft', 'monitor'], { stdio: ['ignore', 'pipe', 'ignore'] })
  lab.onClose(() => stop(child, 'SIGKILL'))
  let text = ''
  child.stdout?.on('data', (part: Buffer) => {
    text += part
  })
  const marked = async (): Promise<boolean> => {
    await node.run('nft', 'add table ip marker; delete table ip marker')
    return text.includes('marker')
  }
  await waitFor(marked, { what: 'nft monitor to listen', interval: 100 })
  return async () => {
    await stop(child)
    return lines(text).filter((line) => !line.includes('marker'))
  }
}
