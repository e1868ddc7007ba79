/**
 * docs/tutorial.md, done: every command on three machines with a real systemd, etcd and Docker. Each must succeed and
 * print what the document says, but for times, hashes and the like. With E2E_WRITE=1 the document is rewritten to say
 * what was printed. Then, on the same machines, what a reader need not see.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { differences } from '../netns/checker.ts'
import { type EtcdNode, REPOSITORY } from '../netns/lab.ts'
import { waitFor } from '../netns/wait.ts'
import { ADDRESSES, NODES, type NodeName, PEER, Site } from './site.ts'
import { type Command, normalise, parseWalk, withOutputs } from './walk.ts'

const TUTORIAL = join(REPOSITORY, 'docs/tutorial.md')
const WRITE = process.env.E2E_WRITE === '1'

let site: Site
beforeAll(async () => {
  site = await Site.create()
})
afterAll(() => site?.close())

describe('the tutorial', () => {
  const text = readFileSync(TUTORIAL, 'utf8')
  const outputs = new Map<Command, string>()
  afterAll(() => {
    if (WRITE) writeFileSync(TUTORIAL, withOutputs(text, outputs))
  })

  const sections = parseWalk(text).filter(({ commands }) => commands.length > 0)
  test.for(sections.map((section) => [section.title, section] as const))(
    '%s',
    async ([, section], { skip }) => {
      const needsPeer = section.commands.some((command) => command.text.includes('flannel-v0.11'))
      skip(needsPeer && PEER === undefined, 'FLANNEL_PEER names no flanneld v0.11')
      for (const command of section.commands) {
        const output = await perform(command)
        outputs.set(command, output)
        if (!WRITE) expect(normalise(output), command.text).toBe(normalise(command.output))
      }
    },
  )
})

/** Runs the command where it belongs; resolves to what the first of the machines printed. */
async function perform({ where, text }: Command): Promise<string> {
  const machines = site.machines.filter(({ name }) => where === 'kube-node*' || where === name)
  const leaders = machines.map((machine) => machine.leader())
  const printed = await Promise.all(machines.map((machine) => machine.succeed(text)))
  if (text === 'reboot') {
    await Promise.all(machines.map((machine, i) => machine.booted(leaders[i])))
    // The bus over which it was asked for may be gone before the answer is.
    return ''
  }
  return (printed[0] ?? '').replace(/[ \t]+$/gm, '').replace(/\n$/, '')
}

describe('the machines of the tutorial', () => {
  test('hold exactly what the leases call for, and reach each other everywhere', expectWholeNetwork)

  test('keep it when networkd, which did not make it, starts over', async () => {
    await onAll('systemctl restart systemd-networkd systemd-networkd-wait-online')
    await expectWholeNetwork()
  })

  test('have a systemd that sees a flanneld that lives, and one that does not', async () => {
    const node = site.machine('kube-node3')
    const show = (property: string): Promise<string> => node.succeed(`systemctl show -P ${property} flanneld`)
    const restarts = Number(await show('NRestarts'))
    await node.succeed(`mkdir -p /run/systemd/system/flanneld.service.d
      printf '[Service]\\nWatchdogSec=4\\n' > /run/systemd/system/flanneld.service.d/watchdog.conf
      systemctl daemon-reload; systemctl restart flanneld`)
    const seen = new Set<string>()
    const alive = async (): Promise<boolean> => seen.add(await show('WatchdogTimestampMonotonic')).size > 2
    await waitFor(alive, { what: 'two signs of life', timeout: 30_000, interval: 200 })
    expect(Number(await show('NRestarts'))).toBe(restarts)

    await node.succeed('systemctl kill -s STOP flanneld')
    const restarted = async (): Promise<boolean> =>
      Number(await show('NRestarts')) > restarts && (await show('SubState')).trim() === 'running'
    await waitFor(restarted, { what: 'a new flanneld', timeout: 60_000, interval: 200 })
    await expectWholeNetwork()
  })

  test('come back from a power cut with the same subnets and containers', async () => {
    const before = await leases()
    const leaders = site.machines.map((machine) => machine.cutPower())
    await Promise.all(site.machines.map((machine, i) => machine.booted(leaders[i])))
    await expectWholeNetwork()
    expect((await leases()).map(({ key }) => key)).toEqual(before.map(({ key }) => key))
  })
})

/** Runs a command on each machine at once; it must succeed. */
function onAll(command: string): Promise<readonly string[]> {
  return Promise.all(site.machines.map((machine) => machine.succeed(command)))
}

/** What etcd says, in the order of the keys. */
async function leases(): Promise<readonly Pick<EtcdNode, 'key' | 'value'>[]> {
  const node = site.machine('kube-node1')
  const keys = (await node.succeed('etcdctl ls --sort $FLANNEL_ETCD_PREFIX/subnets')).trim().split('\n')
  return Promise.all(keys.map(async (key) => ({ key, value: await node.succeed(`etcdctl get ${key}`) })))
}

/**
 * Each node's kernel is exactly right; each node reaches every `flannel.1` and every container, and each container every
 * container, which sees it by its own address.
 */
async function expectWholeNetwork(): Promise<void> {
  const all = await leases()
  const subnets = new Map<NodeName, string>()
  for (const { key, value = '' } of all) {
    const node = NODES.find((name) => ADDRESSES[name] === JSON.parse(value).PublicIP)
    if (node) subnets.set(node, key.slice(key.lastIndexOf('/') + 1))
  }
  expect([...subnets.keys()].sort()).toEqual(NODES)

  const tunnelEnds = [...subnets.values()].map((subnet) => subnet.slice(0, subnet.indexOf('-')))
  const inspect = `docker inspect -f '{{.NetworkSettings.IPAddress}}' web`
  const containers = (await onAll(inspect)).map((address) => address.trim())
  await Promise.all(
    site.machines.map(async (machine, i) => {
      const expected = { leases: all, own: subnets.get(machine.name) ?? '', local: ADDRESSES[machine.name] }
      const right = async (): Promise<boolean> => {
        expect(await differences(machine, expected)).toEqual([])
        return true
      }
      await waitFor(right, { what: `${machine.name} as the leases say`, interval: 100 })

      const targets = [...tunnelEnds, ...containers].join(' ')
      await machine.succeed(`for ip in ${targets}; do ping -q -c 1 -W 5 $ip || exit; done`)
      for (const [j, address] of containers.entries()) {
        const answer = await machine.succeed(`docker exec web wget -q -O - http://${address}/cgi-bin/whoami`)
        expect(answer).toBe(`here is web-on-${NODES[j]}, and you come from ${containers[i]}\n`)
      }
    }),
  )
}
