/**
 * Takes off this node all that a flanneld, ours or Go's, has made: rules, routes, nexthop objects, devices, with
 * -release-lease the lease, and files. First everything is looked for, then the steps are done one by one, or printed.
 * The files are last, and stay when something before them failed: subnet.env tells the next try which network is ours.
 */
import { readFileSync } from 'node:fs'
import { parseFlags } from '../goflag.ts'
import { chooseInterface, type ExternalInterface, InterfaceError, readNetworkView } from '../iface.ts'
import type { Logger } from '../log.ts'
import { systemRunner } from '../masq/exec.ts'
import type { Addresses } from '../masq/rules.ts'
import { Rtnl } from '../netlink/conn.ts'
import { openRtnetlink } from '../netlink/socket.ts'
import { type Options, optionTable, parseOptions } from '../options.ts'
import { hideArguments } from '../secrets.ts'
import { parseDotenv, readSubnetFile } from '../subnetfile.ts'
import { fileFindings } from './cleanup/files.ts'
import { firewallSteps } from './cleanup/firewall.ts'
import { kernelFindings, type Overlay } from './cleanup/kernel.ts'
import { runningDaemon } from './cleanup/running.ts'
import type { Findings, Step } from './cleanup/step.ts'
import { Store } from './cleanup/store.ts'
import { type CommandContext, type CommandFlags, readFlags, usageError } from './command.ts'

const OWN_FLAGS = {
  'dry-run': {
    type: 'bool',
    default: false,
    help: 'change nothing; print the commands that would do the same',
  },
  'release-lease': { type: 'bool', default: false, help: "delete the node's lease in etcd, too" },
} as const satisfies CommandFlags

/** Its own, and the daemon's: the daemon's command line can be given as it is. */
export const FLAGS = { ...optionTable, ...OWN_FLAGS } as const satisfies CommandFlags

/** What an operator is told. */
class Report {
  failures = 0
  readonly #context: CommandContext

  constructor(context: CommandContext) {
    this.#context = context
  }

  print(line: string): void {
    this.#context.out.write(`${line}\n`)
  }

  note(line: string): void {
    this.#context.err.write(`flanneld cleanup: ${line}\n`)
  }

  fail(line: string): void {
    this.failures++
    this.note(line)
  }

  /** What `doIt` comes to; undefined, and one line, when it fails. */
  async attempt<T>(what: string, doIt: () => Promise<T> | T): Promise<T | undefined> {
    try {
      return await doIt()
    } catch (error) {
      if (!(error instanceof Error) || error instanceof TypeError) throw error
      this.fail(`${what}: ${error.message}`)
      return undefined
    }
  }
}

export async function run(args: readonly string[], context: CommandContext): Promise<number> {
  const flags = readFlags('cleanup', FLAGS, args, context)
  if (typeof flags === 'number') return flags
  const about = { program: 'flanneld cleanup', version: context.version }
  const parsed = parseOptions(daemonArguments(args), context.env, about)
  if (parsed.kind === 'error') return usageError(context, 'cleanup', parsed.message.split('\n')[0] ?? '')
  if (parsed.kind !== 'run') {
    context.err.write(parsed.text)
    return 0
  }
  hideArguments(['cleanup', ...args])
  const dry = flags['dry-run']
  const report = new Report(context)
  const running = await runningDaemon(parsed.options.controlSocket)
  if (running !== undefined) {
    const line = `${running}: stop it first (systemctl stop flanneld)`
    if (!dry) {
      report.fail(line)
      return 1
    }
    report.print(`# ${line}`)
  }
  const { options } = parsed
  const { env } = context
  const log = quiet(report)
  const rtnl = new Rtnl(openRtnetlink())
  let opened: Store | undefined
  const store = (): Store => {
    opened ??= new Store(options, env, log)
    return opened
  }
  try {
    const releaseLease = flags['release-lease']
    const { steps, files } = await look({ options, env, report, log, rtnl, store, releaseLease })
    if (dry)
      for (const command of [...steps, ...files].flatMap(({ commands }) => commands)) report.print(command)
    else await removeAll(steps, files, report)
  } finally {
    rtnl.close()
    opened?.close()
  }
  return report.failures === 0 ? 0 : 1
}

/** Without the flags that are only ours. */
function daemonArguments(args: readonly string[]): string[] {
  const parsed = parseFlags(FLAGS, args)
  if (parsed.kind !== 'flags') return []
  return Object.entries(parsed.given)
    .filter(([name]) => !Object.hasOwn(OWN_FLAGS, name))
    .flatMap(([name, value]) => [value].flat().map((each) => `-${name}=${each}`))
}

async function removeAll(steps: readonly Step[], files: readonly Step[], report: Report): Promise<void> {
  const remove = async ({ removes, run }: Step): Promise<void> => {
    const done = await report.attempt(`cannot remove ${removes.join(', ')}`, async () => {
      await run()
      return true
    })
    if (done) for (const what of removes) report.print(`removed ${what}`)
  }
  for (const step of steps) await remove(step)
  if (report.failures > 0 && files.length > 0) {
    return report.note('the files stay until the rest is gone: subnet.env tells what is ours')
  }
  for (const step of files) await remove(step)
  if (report.failures === 0 && steps.length + files.length === 0) report.print('nothing to remove')
}

interface Looking {
  readonly options: Options
  readonly env: CommandContext['env']
  readonly report: Report
  readonly log: Logger
  readonly rtnl: Rtnl
  /** Opens it at the first call: mostly it is not needed. */
  readonly store: () => Store
  readonly releaseLease: boolean
}

/** Finds all there is to remove, and says what it cannot tell. */
async function look(
  looking: Looking,
): Promise<{ readonly steps: readonly Step[]; readonly files: readonly Step[] }> {
  const { options, env, report, log, rtnl, store, releaseLease } = looking
  const take = (findings: Findings | undefined): readonly Step[] => {
    for (const stranger of findings?.strangers ?? []) report.note(`left alone: ${stranger}`)
    return findings?.steps ?? []
  }
  const overlay = await findOverlay(looking)
  const underlay = chosenInterface(rtnl, options, log)
  const steps: Step[] = []
  if (overlay !== undefined) {
    const wrote = { masquerade: overlay.masquerade, forward: options.forwardRules }
    const rules = () => firewallSteps(systemRunner, overlay, wrote)
    steps.push(...((await report.attempt('cannot look for firewall rules', rules)) ?? []))
  }
  const kernel = () => kernelFindings(rtnl, overlay, underlay)
  const inKernel = await report.attempt('cannot look for devices and routes', kernel)
  steps.push(...take(inKernel))
  // Other than what is known to be of another network, this may be what was to be removed.
  if (overlay === undefined) report.failures += inKernel?.strangers.length ?? 0
  if (releaseLease) {
    const leases = () => {
      const publicIP = underlay?.publicIP ?? options.publicIP
      if (publicIP !== undefined) return store().leaseFindings(publicIP)
      throw new Error('no interface tells its public IP; name it with -iface, or -public-ip')
    }
    steps.push(...take(await report.attempt("cannot look for this node's lease", leases)))
  }
  return { steps, files: take(fileFindings(options, env)) }
}

interface FoundOverlay extends Overlay, Addresses {
  /** -ip-masq was on, as far as is known. */
  readonly masquerade: boolean
}

/** By subnet.env, else by the config in etcd; undefined, with one line, when neither tells. */
async function findOverlay({ options, report, store }: Looking): Promise<FoundOverlay | undefined> {
  const { network, subnet, problems } = readSubnetFile(options.subnetFile)
  for (const problem of problems) report.note(problem)
  if (network !== undefined && subnet !== undefined && network.length > 0) {
    return { network, subnet, subnetLen: subnet.length, masquerade: masqueraded(options.subnetFile) }
  }
  try {
    const config = await store().config()
    return { network: config.network, subnet: config.network, subnetLen: config.subnetLen, masquerade: false }
  } catch (error) {
    if (!(error instanceof Error)) throw error
    report.note(
      `neither ${options.subnetFile} nor etcd tells the network (${error.message}), so no routes, rules or devices ` +
        "are known to be flannel's; give the flags of the daemon if it had others",
    )
    return undefined
  }
}

function masqueraded(subnetFile: string): boolean {
  const variables = parseDotenv(readFileSync(subnetFile, 'utf8'))
  return typeof variables !== 'string' && variables.get('FLANNEL_IPMASQ') === 'true'
}

function chosenInterface(rtnl: Rtnl, options: Options, log: Logger): ExternalInterface | undefined {
  const { ifaces, ifaceRegexes, publicIP } = options
  try {
    return chooseInterface(readNetworkView(rtnl), { ifaces, ifaceRegexes, publicIP }, log)
  } catch (error) {
    if (!(error instanceof InterfaceError)) throw error
    // Then routes through the underlay cannot be told, which is said of each.
    return undefined
  }
}

/** Only what is amiss. */
function quiet(report: Report): Logger {
  const drop: Logger['info'] = () => undefined
  const note: Logger['warn'] = (message) => report.note(message)
  return { trace: drop, debug: drop, info: drop, warn: note, error: note }
}
