import { type Lab, monotonic, type Namespace, waitFor } from '../netns/lab.ts'
import type { Random } from './random.ts'
import type { Place, World } from './world.ts'

/** Something that happens to a world. */
export interface Fault {
  readonly name: string
  /** How often it is chosen, beside the others. */
  readonly weight: number
  /** Whether packets between pods may be lost from then until all is right again. */
  readonly cutsWire?: boolean
  /** Two of one group at once would undo each other, or leave it open which of them was the last. */
  readonly group?: 'etcd' | 'daemon' | 'MTU' | 'address'
  /**
   * Resolves when it is over; what it broke may still be broken then. The dice are its own, so that what it throws does not
   * depend on what else happens meanwhile.
   */
  readonly happen: (world: World, place: Place, random: Random) => Promise<unknown>
}

interface Scene {
  readonly world: World
  readonly lab: Lab
  readonly place: Place
  readonly random: Random
}

/** What somebody with a shell on the node might do; on a node in trouble some of it fails. */
function shell(
  name: string,
  act: (node: Namespace, scene: Scene) => Promise<unknown>,
  { weight = 2, ...more }: Partial<Pick<Fault, 'weight' | 'group'>> = {},
): Fault {
  return {
    ...{ name, weight, ...more, cutsWire: true },
    happen: (world, place, random) =>
      act(place.daemon.namespace, { world, lab: world.lab, place, random }).catch(() => undefined),
  }
}

async function pass(milliseconds: number): Promise<void> {
  const begin = monotonic()
  await waitFor(() => monotonic() - begin > milliseconds, { what: 'time to pass', timeout: 60_000 })
}

/** The subnet's first address of any lease but the node's own. */
async function anyone({
  lab,
  place,
  random,
}: Scene): Promise<{ first: string; subnet: string; mac: string; ip: string }> {
  const others = (await lab.etcd.leases()).filter(({ key }) => !key.endsWith(`/${place.daemon.leaseKey()}`))
  const { key, value } = random.pick(others)
  const name = key.slice(key.lastIndexOf('/') + 1)
  const { PublicIP: ip, BackendData } = JSON.parse(value ?? '{}')
  return { first: name.split('-')[0] ?? '', subnet: name.replace('-', '/'), mac: BackendData.VtepMAC, ip }
}

const OF_PEERS: readonly Fault[] = [
  { name: 'a peer joins', weight: 10, happen: (world, _, random) => world.join(random) },
  { name: 'a peer leaves', weight: 8, happen: (world, _, random) => world.leave(random) },
  { name: 'a peer has a new MAC or address', weight: 8, happen: (world, _, random) => world.rekey(random) },
  {
    name: 'twenty peers come and go',
    weight: 3,
    happen: async (world, _, random) => {
      for (let i = 0; i < 20; i++) await (random.chance(0.5) ? world.join(random) : world.leave(random))
    },
  },
]

const OF_THE_KERNEL: readonly Fault[] = [
  shell('route deleted', async (node, scene) => node.ip(`route del ${(await anyone(scene)).subnet}`), {
    weight: 4,
  }),
  shell('route given another gateway', async (node, scene) => {
    const [one, two] = [await anyone(scene), await anyone(scene)]
    return node.ip(`route replace ${one.subnet} via ${two.first} dev flannel.1 onlink`)
  }),
  shell('route shadowed', async (node, scene) =>
    node.ip(`route prepend ${(await anyone(scene)).subnet} via ${scene.lab.outside} dev eth0`),
  ),
  shell('route appended to', async (node, scene) =>
    node.ip(`route append ${(await anyone(scene)).subnet} via ${scene.lab.outside} dev eth0`),
  ),
  shell('all routes flushed', (node) => node.ip('route flush dev flannel.1')),
  shell('ARP entry deleted', async (node, scene) =>
    node.ip(`neigh del ${(await anyone(scene)).first} dev flannel.1`),
  ),
  shell('ARP entry given another MAC', async (node, scene) =>
    node.ip(
      `neigh replace ${(await anyone(scene)).first} lladdr 02:00:00:00:0b:ad dev flannel.1 nud permanent`,
    ),
  ),
  shell('all ARP entries flushed', (node) => node.ip('neigh flush dev flannel.1 nud permanent')),
  shell('FDB entry deleted', async (node, scene) => {
    const { mac, ip } = await anyone(scene)
    return node.bridge(`fdb del ${mac} dev flannel.1 dst ${ip} self`)
  }),
  shell('FDB entry pointed elsewhere', async (node, scene) =>
    node.bridge(`fdb replace ${(await anyone(scene)).mac} dev flannel.1 dst 10.200.250.250 self permanent`),
  ),
  shell('FDB entry duplicated', async (node, scene) =>
    node.bridge(`fdb append ${(await anyone(scene)).mac} dev flannel.1 dst 10.200.250.251 self permanent`),
  ),
  shell('stray entries added', async (node) => {
    await node.ip('route add 172.30.199.0/24 via 172.30.199.0 dev flannel.1 onlink')
    await node.ip('neigh add 172.30.199.0 lladdr 02:00:00:00:0b:ad dev flannel.1 nud permanent')
    return node.bridge('fdb add 02:00:00:00:0b:ad dev flannel.1 dst 10.200.250.252 self permanent')
  }),
  shell('device deleted', (node) => node.ip('link del flannel.1'), { weight: 1 }),
  shell('device set down', (node) => node.ip('link set flannel.1 down'), { weight: 1 }),
  shell('device renamed', (node) => node.ip('link set flannel.1 name stolen0'), { weight: 1 }),
  shell('device MAC changed', (node) => node.ip('link set flannel.1 address 02:00:00:00:77:77'), {
    weight: 1,
  }),
  shell('device MTU changed', (node) => node.ip('link set flannel.1 mtu 1300'), { weight: 1 }),
  shell('device address flushed', (node) => node.ip('-4 address flush dev flannel.1'), { weight: 1 }),
  shell(
    'eth0 down and up',
    async (node, { lab }) => {
      await node.ip('link set eth0 down')
      await node.ip('link set eth0 up')
      return node.ip(`route replace default via ${lab.outside}`)
    },
    { group: 'address' },
  ),
  shell(
    'eth0 MTU changed',
    async (node, { random, place }) => {
      const mtu = random.pick([1400, 1450, 1500])
      await node.ip(`link set eth0 mtu ${mtu}`)
      place.mtu = mtu - 50
    },
    { group: 'MTU' },
  ),
  shell(
    'eth0 address changed',
    async (node, { lab, random, place }) => {
      const address = random.pick([
        lab.address(place.number),
        `10.77.9.${10 * place.number + random.between(1, 9)}`,
      ])
      if (address === place.address) return
      await node.ipBatch([
        'address flush dev eth0',
        `address add ${address}/16 dev eth0`,
        `route replace default via ${lab.outside}`,
      ])
      place.address = address
    },
    { weight: 1, group: 'address' },
  ),
]

const FLUSH_NAT = 'iptables -t nat -F POSTROUTING'
const OF_THE_FIREWALL: readonly Fault[] = [
  FLUSH_NAT,
  'iptables -F',
  'iptables -t nat -D POSTROUTING 2',
  'nft flush ruleset',
].map(
  (command): Fault => ({
    name: command,
    weight: 1,
    happen: (_, { daemon }) => daemon.namespace.run(...command.split(' ')).catch(() => undefined),
  }),
)

const OF_ETCD: readonly Fault[] = (
  [
    { name: 'connections to etcd reset', weight: 3, happen: ({ proxy }) => proxy.cut() },
    {
      name: 'etcd stalls',
      weight: 3,
      happen: async ({ proxy }, _, random) => {
        await proxy.set({ toClient: { kind: 'stall' } })
        await pass(random.between(100, 3000))
        await proxy.set({ toClient: { kind: 'pass' } })
      },
    },
    {
      name: 'etcd is slow',
      weight: 2,
      happen: async ({ proxy }, _, random) => {
        await proxy.set({ toClient: { kind: 'slow', delay: random.between(50, 500) } })
        await pass(random.between(500, 2000))
        await proxy.set({ toClient: { kind: 'pass' } })
        // What is still on its way slowly must not be overtaken.
        await pass(500)
        await proxy.cut()
      },
    },
    {
      name: 'etcd refuses connections',
      weight: 3,
      happen: async ({ proxy }, _, random) => {
        await proxy.set({ door: 'refuse' })
        await proxy.cut()
        await pass(random.between(100, 3000))
        await proxy.set({ door: 'open' })
      },
    },
    {
      name: 'answers of etcd are corrupted',
      weight: 2,
      happen: async ({ proxy }, _, random) => {
        await proxy.set({ toClient: { kind: 'corrupt', every: random.between(3, 400) } })
        await pass(random.between(100, 1000))
        await proxy.set({ toClient: { kind: 'pass' } })
        await proxy.cut()
      },
    },
    {
      name: 'answers of etcd are cut short',
      weight: 2,
      happen: async ({ proxy }, _, random) => {
        await proxy.set({ toClient: { kind: 'truncate', after: random.between(0, 4000) } })
        await pass(random.between(100, 1000))
        await proxy.set({ toClient: { kind: 'pass' } })
      },
    },
    {
      name: 'etcd is killed and restarted',
      weight: 1,
      happen: async ({ lab }) => {
        await lab.etcd.stop('SIGKILL')
        await lab.etcd.restart()
      },
    },
    {
      name: 'etcd is restarted',
      weight: 1,
      happen: async ({ lab }) => {
        await lab.etcd.stop()
        await lab.etcd.restart()
      },
    },
  ] satisfies readonly Fault[]
).map((fault): Fault => ({ ...fault, group: 'etcd' }))

const OF_THE_DAEMON: readonly Fault[] = (['SIGTERM', 'SIGKILL'] as const).map((signal) => ({
  name: `daemon restarted by ${signal}`,
  weight: 6,
  group: 'daemon',
  happen: async (world, place, random) => {
    // Node 3 is the one that shows what grows.
    if (place.number === 3) return
    await world.restart(place, signal, async () => {
      for (let i = random.between(0, 5); i > 0; i--) await random.pick(OF_PEERS).happen(world, place, random)
    })
  },
}))

export const FAULTS: readonly Fault[] = [
  ...OF_PEERS,
  ...OF_THE_KERNEL,
  ...OF_THE_FIREWALL,
  ...OF_ETCD,
  ...OF_THE_DAEMON,
]
