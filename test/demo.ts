/**
 * `make demo`: three nodes in network namespaces, a real etcd, a pod on each node, and what an operator would look at
 * to see that all is well. Exits with 1 when a check fails. An argument names another flanneld to show instead; BACKEND another
 * backend.
 */
import { existsSync, readFileSync } from 'node:fs'
import { chosenBackend } from './netns/backend.ts'
import { differences } from './netns/checker.ts'
import { type Daemon, EndedEarly, isOurs, Lab, monotonic, OURS, PREFIX, waitFor } from './netns/lab.ts'
import { startMirror } from './netns/mirror.ts'
import { lines } from './netns/namespace.ts'
import type { Pod } from './netns/pod.ts'
import { run } from './netns/process.ts'

const { config: BACKEND, device: DEVICE } = chosenBackend()
const CONFIG = JSON.stringify({ Network: '172.30.0.0/16', SubnetLen: 21, Backend: BACKEND })
const NODES = [1, 2, 3] as const

/** What is not plain to see of a backend. */
const ABOUT: Readonly<Record<string, string>> = {
  alloc:
    "alloc makes leases and files, no more. Who moves the packets is the operator's choice; below, this demo.",
  extension:
    "extension runs the commands of its config: here those of flannel's sample, which do what host-gw does.",
}

const colour = process.stdout.isTTY && !process.env.NO_COLOR
const paint = (code: number) => (text: string) => (colour ? `\x1b[${code}m${text}\x1b[0m` : text)
const bold = paint(1)
const dim = paint(2)
const red = paint(31)
const green = paint(32)

let failed = 0

function say(text = ''): void {
  process.stdout.write(`${text}\n`)
}

function title(text: string): void {
  say(`\n${bold(text)}`)
}

/** A command as a person would type it, and its output below. */
function shell(command: string, output: readonly string[]): void {
  say(`  ${dim(`$ ${command}`)}`)
  for (const line of output) say(`    ${line}`)
}

function check(what: string, right: boolean, otherwise: readonly string[] = []): void {
  if (!right) failed++
  say(`  ${right ? green('ok  ') : red('FAIL')}  ${what}`)
  if (!right) for (const line of otherwise) say(`        ${line}`)
}

async function show(lab: Lab, binary: string): Promise<void> {
  const version = await run(['etcd', '--version']).catch(() => undefined)
  const etcd = await lab.startEtcd({ inMemory: version === undefined })
  await etcd.config(CONFIG)
  title('Set-up')
  if (version === undefined)
    say(red('  There is no etcd on this machine: this is an imitation of it, in memory.'))
  else say(`  ${lines(version)[0]}`)
  say(`  etcd at ${etcd.endpoints} holds ${PREFIX}/config:`)
  say(`    ${CONFIG}`)
  const about = ABOUT[BACKEND.Type]
  if (about !== undefined) say(`  ${about}`)
  const daemons: Daemon[] = []
  for (const i of NODES) daemons.push(await lab.daemon(i, { binary, args: ['-ip-masq'] }))
  for (const [i, daemon] of daemons.entries()) {
    const after = await daemon.waitReady()
    say(`  node ${i + 1}  ${lab.address(i + 1).padEnd(10)}  READY=1 after ${after.toFixed(0)} ms`)
  }
  const pods: Pod[] = []
  for (const daemon of daemons) pods.push(await lab.pod(daemon))

  title('Leases in etcd')
  say(dim(`  ${leaseRow('key', 'PublicIP', 'type', 'data', 'ttl')}`))
  for (const { key, value, ttl } of await etcd.leases()) {
    const { PublicIP, BackendType, BackendData } = JSON.parse(value ?? '{}')
    say(
      `  ${leaseRow(key.split('/').at(-1) ?? '', PublicIP, BackendType ?? '', Object.values(BackendData ?? {}).join(' '), String(ttl))}`,
    )
  }

  const complete = await Promise.all(daemons.map((daemon, i) => settle(lab, daemon, i + 1)))
  for (const [i, daemon] of daemons.entries()) await showNode(daemon, i + 1)

  title('Checks')
  for (const [i, found] of complete.entries()) {
    check(`node ${i + 1} holds exactly what the leases call for`, found.length === 0, found)
  }
  if (BACKEND.Type === 'alloc') await routeByHand(lab, daemons)
  await checkPings(daemons, pods)
  await checkSources(lab, pods)
  if (isOurs(binary)) await checkHealing(lab, daemons, pods)
  if (BACKEND.Type === 'extension') await checkRemoval(lab, daemons)
}

/** What alloc leaves to a cloud's route table, to BGP, or to whoever reads the leases. */
async function routeByHand(lab: Lab, daemons: readonly Daemon[]): Promise<void> {
  for (const [i, { namespace }] of daemons.entries()) {
    const routes = daemons.map((other, k) => `route add ${subnetOf(other)} via ${lab.address(k + 1)}`)
    routes.splice(i, 1)
    await namespace.ipBatch(routes)
    if (i > 0) continue
    say('  and now somebody makes routes of the leases, on node 1:')
    for (const route of routes) shell(`ip ${route}`, [])
  }
}

/** The command for a node that leaves takes away what that for its coming had made. */
async function checkRemoval(lab: Lab, daemons: readonly Daemon[]): Promise<void> {
  const [first, , third] = daemons
  if (first === undefined || third === undefined) return
  await third.stop()
  await lab.etcd.delete(`${PREFIX}/subnets/${third.leaseKey()}`)
  const left = async (): Promise<boolean> =>
    (await first.namespace.routes()).every((route) => !route.startsWith(subnetOf(third)))
  const gone = await waitFor(left, { what: 'the route to go' }).then(
    () => true,
    () => false,
  )
  check(`node 3 leaves, and node 1 has run its SubnetRemoveCommand`, gone)
}

function subnetOf(daemon: Daemon): string {
  return daemon.leaseKey().replace('-', '/')
}

function leaseRow(key: string, publicIP: string, type: string, mac: string, ttl: string): string {
  return [key.padEnd(15), publicIP.padEnd(10), type.padEnd(5), mac.padEnd(17), ttl].join('  ')
}

/** Waits until the node's kernel state is right, or a while; resolves to what is still different. */
async function settle(lab: Lab, daemon: Daemon, i: number): Promise<readonly string[]> {
  if (BACKEND.Type === 'alloc') return (await daemon.namespace.routes()).filter(isUncalledFor)
  if (BACKEND.Type !== 'vxlan') return reachable(lab, daemon)
  let found: readonly string[] = []
  const look = async (): Promise<boolean> => {
    const leases = await lab.etcd.leases()
    found = await differences(daemon.namespace, { leases, own: daemon.leaseKey(), local: lab.address(i) })
    return found.length === 0
  }
  await waitFor(look, { what: `node ${i}`, timeout: 5000, interval: 50 }).catch(() => undefined)
  return found
}

/** With alloc, docker0's route is the only one in the network. */
function isUncalledFor(route: string): boolean {
  return route.startsWith('172.30.') && !route.includes(' dev docker0 proto kernel ')
}

/** Waits until all pods answer this node; resolves to those that do not. */
async function reachable(lab: Lab, daemon: Daemon): Promise<readonly string[]> {
  const subnets = (await lab.etcd.leases()).map(({ key }) => key.split('/').at(-1)?.split('-')[0] ?? '')
  const pods = subnets.map((first) => first.replace(/\d+$/, '2'))
  let silent: readonly string[] = pods
  const look = async (): Promise<boolean> => {
    const answers = await Promise.all(pods.map((pod) => daemon.namespace.ping(pod)))
    silent = pods.filter((_, i) => !answers[i])
    return silent.length === 0
  }
  await waitFor(look, { what: 'pods', timeout: 5000, interval: 50 }).catch(() => undefined)
  return silent.map((pod) => `silent: ${pod}`)
}

async function showNode(daemon: Daemon, i: number): Promise<void> {
  const { namespace, subnetFile, dockerFile } = daemon
  title(`Node ${i}`)
  shell('cat /run/flannel/subnet.env', lines(readFileSync(subnetFile, 'utf8')))
  if (existsSync(dockerFile)) shell('cat /run/flannel/docker', lines(readFileSync(dockerFile, 'utf8')))
  shell('ip route', await namespace.routes())
  if (DEVICE === undefined) return
  shell(`ip -br address show dev ${DEVICE}`, lines(await namespace.ip(`-br address show dev ${DEVICE}`)))
  if (BACKEND.Type !== 'vxlan') return
  shell(`ip neigh show dev ${DEVICE}`, await namespace.neighbours(DEVICE))
  shell(`bridge fdb show dev ${DEVICE}`, await namespace.fdb(DEVICE))
}

/** Every tunnel device and every pod, from every node and from every pod. */
async function checkPings(daemons: readonly Daemon[], pods: readonly Pod[]): Promise<void> {
  const tunnelEnds =
    DEVICE === undefined ? [] : daemons.map((daemon) => daemon.leaseKey().split('-')[0] ?? '')
  const targets = [...tunnelEnds, ...pods.map(({ address }) => address)]
  const sources = [
    ...daemons.map(({ namespace }, i) => ({ name: `node ${i + 1}`, namespace })),
    ...pods.map(({ namespace }, i) => ({ name: `pod ${i + 1}`, namespace })),
  ]
  for (const { name, namespace } of sources) {
    const answers = await Promise.all(targets.map((target) => namespace.ping(target, 2)))
    const silent = targets.filter((_, i) => !answers[i])
    const all = `${targets.length - silent.length} of ${targets.length}`
    const what = `${name} pings ${DEVICE === undefined ? '' : `every ${DEVICE} and `}every pod: ${all} answer`
    check(what, silent.length === 0, [`silent: ${silent.join(' ')}`])
  }
}

/** A pod sees another pod's own address; a host outside sees the node's. */
async function checkSources(lab: Lab, pods: readonly Pod[]): Promise<void> {
  const [first, second] = pods
  if (!first || !second) return
  const inside = await startMirror(second.namespace)
  lab.onClose(() => inside.close())
  const outside = await startMirror(lab.switch)
  lab.onClose(() => outside.close())
  const byPod = await inside.seenFrom(first.namespace, second.address).catch(String)
  check(`pod 2 sees pod 1 as ${byPod}, its own address`, byPod === first.address)
  const byHost = await outside.seenFrom(first.namespace, lab.outside).catch(String)
  check(`a host outside sees pod 1 as ${byHost}, node 1's address`, byHost === lab.address(1))
}

function damages(subnet: string): readonly string[] {
  if (BACKEND.Type === 'host-gw') return [`ip route del ${subnet}`]
  if (DEVICE === undefined) return []
  return [
    `ip route flush dev ${DEVICE}`,
    ...(BACKEND.Type === 'vxlan' ? [`ip neigh flush dev ${DEVICE} nud permanent`] : []),
    `ip link del ${DEVICE}`,
  ]
}

/** What people do to a node by mistake, and how long the damage lasts. */
async function checkHealing(lab: Lab, daemons: readonly Daemon[], pods: readonly Pod[]): Promise<void> {
  const [first] = daemons
  const target = pods[1]?.address ?? ''
  if (!first) return
  const [, second] = daemons
  for (const damage of damages(second === undefined ? '' : subnetOf(second))) {
    await lab.observer.watch(first.namespace.name)
    const begin = monotonic()
    await first.namespace.run(...damage.split(' '))
    const found = await settle(lab, first, 1)
    const tables = Object.values(await lab.observer.firstSeen(first.namespace.name))
    const writtenAt = tables.flatMap((table) => Object.values<number>(table)).map((at) => at / 1e6 - begin)
    const works = found.length === 0 && writtenAt.length > 0 && (await first.namespace.ping(target, 2))
    check(`node 1: "${damage}" is healed after ${Math.max(...writtenAt).toFixed(0)} ms`, works, found)
  }
}

async function main(): Promise<void> {
  const begin = monotonic()
  const binary = process.argv[2] ?? OURS
  // `make demo | head` is no reason to stop half-way.
  process.stdout.on('error', () => undefined)
  say(bold('flanneld: three nodes, one etcd, the real kernel'))
  const lab = await Lab.create({ nodes: NODES.length })
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => void lab.close().finally(() => process.exit(1)))
  }
  try {
    await show(lab, binary)
  } catch (error) {
    if (!(error instanceof EndedEarly)) throw error
    check(`flanneld starts: ${error.reason}`, false)
  } finally {
    await lab.close()
  }
  const left = (await run(['ip', 'netns', 'list'])).includes(lab.name)
  check('everything is removed again', !left)
  const seconds = ((monotonic() - begin) / 1000).toFixed(1)
  say(
    failed === 0 ? green(`\nAll is well. (${seconds} s)`) : red(`\n${failed} checks failed. (${seconds} s)`),
  )
  process.exitCode = failed === 0 ? 0 : 1
}

await main()
