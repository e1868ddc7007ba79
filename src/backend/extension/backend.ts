/**
 * extension: the operator's own commands make the network.
 *
 *     PreStartupCommand    before the lease; what it says becomes the lease's BackendData
 *     PostStartupCommand   after it             NETWORK, SUBNET, PUBLIC_IP of this node
 *     SubnetAddCommand     a peer came          SUBNET, PUBLIC_IP of the peer; its data on standard input
 *     SubnetRemoveCommand  a peer went          the same
 *     ShutdownCommand      this daemon stops    NETWORK, SUBNET, PUBLIC_IP of this node
 */
import { formatIpv4, formatSubnet } from '../../ip.ts'
import type { Lease } from '../../subnet/lease.ts'
import { type Backend, type BackendContext, BackendError } from '../backend.ts'
import { BackendOptions } from '../options.ts'
import { describeFailure, runCommand, say } from './command.ts'
import { ExtensionNetwork } from './network.ts'

/** Milliseconds that a command may take to set the node up. */
const STARTUP_TIMEOUT = 60_000

/** Runs the PreStartupCommand. Rejects with a BackendError when it fails, or for options that are no strings. */
export async function openBackend(context: BackendContext): Promise<Backend> {
  const { underlay, log, network, signal, env } = context
  const options = new BackendOptions('extension', context.options)
  const pre = options.text('PreStartupCommand')
  const post = options.text('PostStartupCommand')
  const shutdown = options.text('ShutdownCommand')
  const add = options.text('SubnetAddCommand')
  const remove = options.text('SubnetRemoveCommand')
  // Flannel passes no PATH at all, and what a shell takes instead is not passed on to what it starts.
  const base = { PATH: env.PATH ?? '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' }
  const startup = async (line: string, variables: Readonly<Record<string, string>>): Promise<string> => {
    const command = { line, env: { ...base, ...variables }, input: '\n', timeout: STARTUP_TIMEOUT }
    const outcome = await runCommand(command, signal)
    if (outcome.kind === 'failed')
      throw new BackendError(`Error registering network: ${describeFailure(line, outcome)}`)
    log.info(`Ran command: ${say(line)} Output: ${say(outcome.output)}`)
    return outcome.output
  }
  const data = pre === undefined ? undefined : await startup(pre, {})
  return {
    attributes: () => ({ publicIP: underlay.publicIP, backendType: 'extension', backendData: data }),
    start: async ({ subnet }: Lease) => {
      const own = {
        NETWORK: formatSubnet(network),
        SUBNET: formatSubnet(subnet),
        PUBLIC_IP: formatIpv4(underlay.publicIP),
      }
      if (post !== undefined) await startup(post, own)
      return new ExtensionNetwork({
        ...context,
        commands: { add, remove, shutdown },
        base,
        own,
      })
    },
  }
}
