/** What holds for every backend that routes to its peers, over a fake and a real kernel alike. */
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { PLAIN_ROUTES } from '../../src/backend/routes.ts'
import { Rtnl } from '../../src/netlink/conn.ts'
import { getFamily } from '../../src/netlink/genl.ts'
import { createIpip } from '../../src/netlink/link.ts'
import type { NetlinkRequest } from '../../src/netlink/request.ts'
import {
  deletePeer,
  dumpWireGuard,
  replacePeer,
  setWireGuard,
  type WireGuardDevice,
  type WireGuardPeer,
} from '../../src/netlink/wireguard.ts'
import { BackendNode, type RemoteNode, type Row, remote } from './backendnode.ts'
import { keyOf } from './backends.ts'
import { FakeMachine, type Machine } from './machine.ts'
import { prepare, subnet, underlayOf } from './node.ts'
import { ip, Operator } from './operator.ts'

/** Nodes of one test are one machine, and keep its key. */
let dir: string
let keyFile: string

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'flannel-key-'))
  keyFile = join(dir, 'wgkey')
})
afterEach(() => rmSync(dir, { recursive: true, force: true }))

const ALICE = remote(1)
const BOB = remote(2)
const CAROL = remote(3)

export function backendSuite(row: Row, make: () => Machine): void {
  let machine: Machine
  let op: Operator
  const nodes: BackendNode[] = []

  beforeEach(() => {
    machine = make()
    op = new Operator(machine.open())
    prepare(op)
    op.do(op.address('add', 'eth0', '10.9.255.254/16'))
  })
  afterEach(async () => {
    for (const node of nodes.splice(0)) await node.stop()
    machine.close()
  })

  function newNode(of = row): BackendNode {
    const node = new BackendNode(machine, op, of, keyFile)
    nodes.push(node)
    return node
  }
  const start = (peers: readonly RemoteNode[]) => newNode().start(peers)
  async function restart(node: BackendNode, peers: readonly RemoteNode[]): Promise<BackendNode> {
    nodes.splice(nodes.indexOf(node), 1)
    await node.stop()
    return start(peers)
  }

  it('makes of an empty machine what flannel makes of it', async () => {
    const node = await start([ALICE, BOB])
    node.expectState([ALICE, BOB])
    expect(node.network.mtu).toBe(row.mtu)
    if (row.device !== undefined) expect(op.link(row.device)).toMatchObject({ mtu: row.mtu, up: true })
    expect(node.complaints()).toEqual([])
    expect(node.network.status.peers).toBe(2)
  })

  it('writes nothing over a right state, at a start or later', async () => {
    const node = await restart(await start([ALICE, BOB]), [ALICE, BOB])
    await node.settle(200_000)
    expect(node.writes).toEqual([])
    node.expectState([ALICE, BOB])
  })

  it('follows peers that come, move and go, by event and by snapshot', async () => {
    const node = await start([ALICE])
    const moved = { ...ALICE, ip: '192.0.2.77' }
    node.put(BOB)
    node.put(moved)
    node.expectState([moved, BOB])
    node.remove(BOB)
    node.expectState([moved])
    node.snapshot([ALICE, CAROL])
    node.expectState([ALICE, CAROL])
    node.snapshot([])
    node.expectState([])
    expect(node.complaints()).toEqual([])
  })

  it('withdraws at its start what peers of an earlier run left', async () => {
    const node = await restart(await start([ALICE, BOB]), [BOB])
    node.expectState([BOB])
  })

  it('skips peers of another type, and says so once', async () => {
    const node = await start([ALICE, BOB])
    const attributes = { publicIP: ip(BOB.ip), backendType: 'other', backendData: undefined }
    const foreign = { ...node.leaseOf(BOB), attributes }
    for (let i = 0; i < 3; i++) node.network.replaceLeases([node.leaseOf(ALICE), foreign])
    node.network.apply()
    node.expectState([ALICE])
    expect(node.complaints()).toEqual([expect.stringContaining(`type=other`)])
    expect(node.complaints()[0]).toContain(BOB.subnet)
    expect(node.network.status).toMatchObject({ peers: 1, skipped: 1 })
    node.put(BOB)
    node.expectState([ALICE, BOB])
  })

  it('leaves alone what is not its own', async () => {
    for (const words of [
      // An operator's: of another length, another metric, another protocol, another table; in and out of the network.
      { to: '10.244.64.0/20', via: '192.0.2.9', dev: 'eth0' },
      { to: CAROL.subnet, via: '192.0.2.9', dev: 'eth0', metric: 9 },
      { to: '10.245.77.0/24', via: '192.0.2.9', dev: 'eth0', proto: 4 },
      { to: '10.245.78.0/24', via: '192.0.2.9', dev: 'eth0', table: 100 },
      { to: '10.8.78.0/24', via: '192.0.2.9', dev: 'eth0' },
    ])
      op.do(op.route('add', words))
    op.do(op.nexthop('add', 77, '192.0.2.9', 'eth0'))
    const foreign = {
      routes: [
        '10.244.64.0/20 via 192.0.2.9 dev eth0',
        `${CAROL.subnet} via 192.0.2.9 dev eth0 metric 9`,
        '10.245.77.0/24 via 192.0.2.9 dev eth0 proto static',
        '10.245.78.0/24 via 192.0.2.9 dev eth0 table 100',
        '10.8.78.0/24 via 192.0.2.9 dev eth0',
      ],
      nexthops: ['id 77 via 192.0.2.9 dev eth0 scope link proto boot onlink'],
    }
    const node = await start([ALICE, CAROL])
    node.expectState([ALICE, CAROL], foreign)
    node.snapshot([ALICE])
    await node.settle(61_000)
    node.expectState([ALICE], foreign)
    expect(node.complaints()).toEqual([])
  })

  it('comes back after eth0 was down, or its address was gone', async () => {
    const node = await start([ALICE, BOB])
    op.do(op.set('eth0', { up: false }))
    await node.settle(5_000)
    op.do(op.set('eth0', { up: true }))
    await node.settle()
    node.expectState([ALICE, BOB])
    op.do(op.address('delete', 'eth0', '10.9.255.254/16'))
    op.do(op.address('delete', 'eth0', '192.0.2.1/24'))
    await node.settle(5_000)
    op.do(op.address('add', 'eth0', '192.0.2.1/24'))
    op.do(op.address('add', 'eth0', '10.9.255.254/16'))
    await node.settle()
    node.expectState([ALICE, BOB])
  })

  it('knows what was lost when notifications were', async () => {
    const node = await start([ALICE, BOB])
    const lost = machine.state().routes.filter((line) => /^10\.24/.test(line))
    expect(lost).not.toEqual([])
    for (const line of lost) op.do(op.route('delete', { to: line.replace(/ .*/, '') }))
    node.network.observeOverrun()
    await node.settle()
    node.expectState([ALICE, BOB])
  })
}

/** What holds for those that have one route for each peer. */
export function peerRouteSuite(row: Row, make: () => Machine): void {
  let machine: Machine
  let op: Operator
  let node: BackendNode

  beforeEach(() => {
    machine = make()
    op = new Operator(machine.open())
    prepare(op)
    op.do(op.address('add', 'eth0', '10.9.255.254/16'))
    node = new BackendNode(machine, op, row, keyFile)
  })
  afterEach(async () => {
    await node.stop()
    machine.close()
  })

  it.each<[string, (op: Operator) => void]>([
    ['deleted', (o) => o.do(o.route('delete', { to: ALICE.subnet }))],
    ['replaced', (o) => o.do(o.route('replace', { to: ALICE.subnet, via: '192.0.2.9', dev: 'eth0' }))],
    [
      'replaced by another program',
      (o) => o.do(o.route('replace', { to: ALICE.subnet, via: '192.0.2.9', proto: 4 })),
    ],
    ['shadowed', (o) => o.do(o.route('prepend', { to: ALICE.subnet, via: '192.0.2.9', dev: 'eth0' }))],
  ])('a route that was %s is back at once, and the log says so as flannel does', async (_, damage) => {
    await node.start([ALICE, BOB])
    node.forget()
    damage(op)
    await node.settle()
    node.expectState([ALICE, BOB])
    expect(node.logged.join('\n')).toMatch(/repaired|Route recovered/)
  })

  it('says of a peer what flannel says', async () => {
    await node.start([ALICE])
    node.remove(ALICE)
    node.put(BOB)
    op.do(op.route('delete', { to: BOB.subnet }))
    await node.settle()
    const lines = node.logged.filter((line) => /Subnet|Route/.test(line))
    expect(lines).toEqual([
      `I Subnet added: ${ALICE.subnet} via ${ALICE.ip}`,
      `I Subnet removed: ${ALICE.subnet}`,
      `I Subnet added: ${BOB.subnet} via ${BOB.ip}`,
      `I Route recovered ${BOB.subnet} : ${BOB.ip}`,
    ])
  })

  it("replaces another program's route to a peer's subnet, and stale ones of an earlier run", async () => {
    op.do(op.route('add', { to: ALICE.subnet, via: '192.0.2.9', dev: 'eth0', proto: 4 }))
    op.do(op.route('append', { to: ALICE.subnet, via: '192.0.2.10', dev: 'eth0' }))
    await node.start([ALICE])
    node.expectState([ALICE])
  })

  it("leaves a connected route in a peer's place, says so once, and takes the place when it is free", async () => {
    op.do(op.bridge('docker0'))
    op.do(op.set('docker0', { up: true }))
    op.do(op.address('add', 'docker0', '10.244.1.1/24'))
    const docker = {
      routes: ['10.244.1.0/24 dev docker0 proto kernel scope link src 10.244.1.1'],
      addresses: ['docker0 10.244.1.1/24'],
    }
    // A bridge without a port has no carrier, of which the kernel tells and the one in memory knows nothing.
    const state = () => machine.state().routes.map((line) => line.replace(' linkdown', ''))
    await node.start([ALICE, BOB])
    await node.settle(61_000)
    expect(state()).toContain(docker.routes[0])
    expect(state().filter((line) => line.startsWith(ALICE.subnet))).toHaveLength(1)
    expect(state().filter((line) => line.startsWith(BOB.subnet))).toHaveLength(1)
    expect(node.complaints()).toEqual([expect.stringContaining(`${ALICE.subnet} is leased by another node`)])
    op.do(op.address('delete', 'docker0', '10.244.1.1/24'))
    await node.settle()
    node.expectState([ALICE, BOB])
  })

  // Direct routes are plain ones always.
  it.skipIf(row.options?.DirectRouting)(
    `uses plain routes up to ${PLAIN_ROUTES}, nexthop objects beyond, and plain ones again when there are few`,
    async () => {
      const peers = Array.from({ length: PLAIN_ROUTES + 50 }, (_, i) => remote(i + 1))
      const lines = () => machine.state().routes.filter((line) => / via 10\.9\./.test(line))
      await node.start(peers)
      expect(lines().filter((line) => !line.includes('nhid'))).toHaveLength(PLAIN_ROUTES)
      expect(lines().filter((line) => line.includes('nhid'))).toHaveLength(50)
      expect(machine.state().nexthops).toHaveLength(50)
      node.forget()
      await node.settle(61_000)
      expect(node.writes).toEqual([])
      node.snapshot(peers.slice(-30))
      await node.settle()
      node.expectState(peers.slice(-30))
    },
  )
}

/** What is particular to host-gw. */
export function hostGwSuite(row: Row, make: () => Machine): void {
  let machine: Machine
  let op: Operator
  let node: BackendNode

  beforeEach(() => {
    machine = make()
    op = new Operator(machine.open())
    prepare(op)
    op.do(op.address('add', 'eth0', '10.9.255.254/16'))
    op.do(op.route('add', { to: '0.0.0.0/0', via: '192.0.2.254' }))
    node = new BackendNode(machine, op, row, keyFile)
  })
  afterEach(async () => {
    await node.stop()
    machine.close()
  })
  const out = { routes: ['default via 192.0.2.254 dev eth0'] }

  it('names once a peer that is not on the link, and routes to it as soon as it is', async () => {
    const far = { ...BOB, ip: '203.0.113.2' }
    await node.start([ALICE, far])
    await node.settle(200_000)
    node.expectState([ALICE], out)
    expect(node.complaints()).toEqual([
      expect.stringContaining(`Error adding route to ${far.subnet} via 203.0.113.2: network is unreachable`),
    ])
    op.do(op.route('add', { to: '203.0.113.0/24', dev: 'eth0' }))
    await node.settle(61_000)
    node.expectState([ALICE, far], { routes: [...out.routes, '203.0.113.0/24 dev eth0 scope link'] })
    expect(node.complaints()).toHaveLength(1)
  })

  it('refuses to start behind a NAT', async () => {
    const underlay = { ...underlayOf(op), publicIP: ip('198.51.100.1') }
    await expect(node.open({ underlay })).rejects.toMatchObject({
      name: 'BackendError',
      message: expect.stringContaining(
        'your PublicIP 198.51.100.1 differs from interface IP 192.0.2.1 of eth0',
      ),
    })
  })
}

/** What is particular to wireguard. */
export function wireGuardSuite(row: Row, make: () => Machine): void {
  let machine: Machine
  let op: Operator
  const nodes: BackendNode[] = []

  beforeEach(() => {
    machine = make()
    op = new Operator(machine.open())
    prepare(op)
    op.do(op.address('add', 'eth0', '10.9.255.254/16'))
  })
  afterEach(async () => {
    for (const node of nodes.splice(0)) await node.stop()
    machine.close()
  })
  function newNode(of = row): BackendNode {
    const node = new BackendNode(machine, op, of, keyFile)
    nodes.push(node)
    return node
  }
  /** Somebody else at the device's peers. */
  const operator = (): { readonly rtnl: Rtnl; readonly device: WireGuardDevice } => {
    const rtnl = new Rtnl(machine.generic())
    const family = rtnl.get(getFamily('wireguard'))
    return { rtnl, device: { family, index: op.link('flannel-wg').index, name: 'flannel-wg' } }
  }
  const withKey = (peer: RemoteNode, of: RemoteNode, modifiedIndex: number, node: BackendNode) => {
    const lease = node.leaseOf(peer)
    const backendData = { PublicKey: keyOf(of), Port: 51_820 }
    return { ...lease, modifiedIndex, attributes: { ...lease.attributes, backendData } }
  }

  it('publishes its key and port, and keeps the key over restarts, for root alone', async () => {
    const node = await newNode().start([])
    const key = readFileSync(keyFile, 'utf8')
    expect(statSync(keyFile).mode & 0o777).toBe(0o600)
    const published = node.backend?.attributes(undefined)
    expect(published).toMatchObject({ backendType: 'wireguard', backendData: { Port: 51_820 } })
    const { index } = op.link('flannel-wg')
    await node.stop()
    nodes.length = 0
    const again = await newNode().start([])
    expect(again.backend?.attributes(undefined)).toEqual(published)
    expect(readFileSync(keyFile, 'utf8')).toBe(key)
    expect(op.link('flannel-wg').index).toBe(index)
    expect(node.logged.join()).not.toContain(key)
  })

  it('takes a new key when the file was deleted, on the device that it has', async () => {
    const node = await newNode().start([ALICE])
    const before = JSON.stringify(node.backend?.attributes(undefined).backendData)
    await node.stop()
    nodes.length = 0
    rmSync(keyFile)
    const again = await newNode().start([ALICE])
    const after = again.backend?.attributes(undefined).backendData
    expect(JSON.stringify(after)).not.toBe(before)
    const { rtnl, device } = operator()
    const [part] = rtnl.dump(dumpWireGuard(device))
    expect(after).toEqual({ PublicKey: part?.publicKey, Port: part?.listenPort })
    again.expectState([ALICE])
  })

  it("follows a peer's new key, and leaves no peer of the old one", async () => {
    const node = await newNode().start([ALICE, BOB])
    node.network.putLease(withKey(ALICE, CAROL, 2, node))
    node.network.apply()
    expect([...machine.peers()].sort()).toEqual(
      [`flannel-wg ${keyOf(CAROL)} (none) ${ALICE.ip}:51820 ${ALICE.subnet} 25`, row.peer?.(BOB)].sort(),
    )
  })

  it('lets a node that changed its subnet have both until the old lease is gone', async () => {
    const node = await newNode().start([ALICE])
    const moved = { ...BOB, ip: ALICE.ip }
    node.network.putLease(withKey(moved, ALICE, 2, node))
    node.network.apply()
    const line = (ips: string) => `flannel-wg ${keyOf(ALICE)} (none) ${ALICE.ip}:51820 ${ips} 25`
    expect(machine.peers()).toEqual([line(`${ALICE.subnet},${BOB.subnet}`)])
    node.remove(ALICE)
    expect(machine.peers()).toEqual([line(BOB.subnet)])
    // Of two machines with one key the newest counts.
    node.network.putLease(withKey(CAROL, ALICE, 3, node))
    node.network.apply()
    expect(machine.peers()).toEqual([
      `flannel-wg ${keyOf(ALICE)} (none) ${CAROL.ip}:51820 ${CAROL.subnet} 25`,
    ])
  })

  it('gives a subnet that changes hands to the new node', async () => {
    const node = await newNode().start([ALICE, BOB])
    const thief = withKey({ ...ALICE, ip: BOB.ip }, BOB, 3, node)
    node.network.putLease(thief)
    node.network.apply()
    expect(machine.peers()).toEqual([
      `flannel-wg ${keyOf(BOB)} (none) ${BOB.ip}:51820 ${ALICE.subnet},${BOB.subnet} 25`,
    ])
    node.put(ALICE)
    node.expectState([ALICE, BOB])
  })

  it.each<[string, (device: WireGuardDevice) => NetlinkRequest]>([
    ['removed', (device) => deletePeer(device, keyOf(ALICE))],
    [
      'given more than its subnet',
      (device) =>
        replacePeer(device, wanted(ALICE, { allowedIps: [subnet('10.244.1.0/24'), subnet('10.0.0.0/8')] })),
    ],
    [
      "given another's subnet",
      (device) => replacePeer(device, wanted(ALICE, { allowedIps: [subnet(BOB.subnet)] })),
    ],
    ['sent elsewhere', (device) => replacePeer(device, wanted(ALICE, { endpoint: { address: 1, port: 2 } }))],
    [
      'given another preshared key',
      (device) => replacePeer(device, wanted(ALICE, { presharedKey: keyOf(CAROL) })),
    ],
    ['given another keepalive', (device) => replacePeer(device, wanted(ALICE, { keepalive: 7 }))],
    ['joined by a stranger', (device) => replacePeer(device, wanted(CAROL, {}))],
  ])('a peer that was %s is as it was with the next compare', async (_, damage) => {
    const node = await newNode().start([ALICE, BOB])
    const { rtnl, device } = operator()
    rtnl.execute(damage(device))
    await node.settle(61_000)
    node.expectState([ALICE, BOB])
    await node.settle(1_000)
    node.forget()
    await node.settle(300_000)
    expect(node.logged).toEqual([])
  })

  it('leaves a peer where it answers, though its lease says otherwise, as long as it does', async () => {
    if (!(machine instanceof FakeMachine)) return
    const node = await newNode().start([ALICE, BOB])
    const { index } = op.link('flannel-wg')
    const elsewhere = Buffer.from('02001000cb007107'.padEnd(32, '0'), 'hex')
    const at = () =>
      machine
        .peers()
        .find((line) => line.includes(keyOf(ALICE)))
        ?.split(' ')[3]
    machine.kernel.wireguard.roam(index, keyOf(ALICE), elsewhere, 60)
    await node.settle(61_000)
    expect(at()).toBe('203.0.113.7:4096')
    await node.settle(240_000)
    expect(at()).toBe(`${ALICE.ip}:51820`)
  })

  it('comes back from a device that was deleted, set down, renamed, or given another key', async () => {
    const node = await newNode().start([ALICE, BOB])
    op.do(op.unlink('flannel-wg'))
    await node.settle()
    node.expectState([ALICE, BOB])
    op.do(op.set('flannel-wg', { up: false }))
    await node.settle()
    node.expectState([ALICE, BOB])
    // Before Linux 6.2 only what is down can be renamed.
    op.do(op.set('flannel-wg', { up: false }))
    op.do(op.set('flannel-wg', { rename: 'other' }))
    await node.settle()
    expect(op.hasLink('other')).toBe(false)
    node.expectState([ALICE, BOB])
    const { rtnl, device } = operator()
    rtnl.execute(setWireGuard(device, { privateKey: keyOf(CAROL), listenPort: 1 }))
    await node.settle(61_000)
    const [part] = rtnl.dump(dumpWireGuard(device))
    expect({ PublicKey: part?.publicKey, Port: part?.listenPort }).toEqual(
      node.backend?.attributes(undefined).backendData,
    )
  })

  it('has PSK, port and MTU as configured', async () => {
    const options = { PSK: keyOf(CAROL), ListenPort: 4_500, MTU: 1_300, Mode: 'auto' }
    const configured = { ...row, options }
    const node = await newNode(configured).start([ALICE])
    expect(node.network.mtu).toBe(1_220)
    expect(op.link('flannel-wg').mtu).toBe(1_220)
    expect(node.backend?.attributes(undefined).backendData).toMatchObject({ Port: 4_500 })
    expect(machine.peers()).toEqual([
      `flannel-wg ${keyOf(ALICE)} ${keyOf(CAROL)} ${ALICE.ip}:51820 ${ALICE.subnet} off`,
    ])
    expect(node.logged.join()).not.toContain(keyOf(CAROL))
  })

  it('uses its own port for a peer that names none', async () => {
    const node = await newNode().start([])
    const lease = node.leaseOf(ALICE)
    const backendData = { publickey: keyOf(ALICE) }
    node.network.putLease({ ...lease, attributes: { ...lease.attributes, backendData } })
    node.network.apply()
    node.expectState([ALICE])
  })

  it.each<[string, unknown, string]>([
    ['no data', undefined, 'has no usable PublicKey'],
    ['a key that is none', { PublicKey: 'x' }, 'has no usable PublicKey'],
    [
      'a key of another length',
      { PublicKey: Buffer.alloc(31).toString('base64') },
      'has no usable PublicKey',
    ],
  ])('skips a lease with %s, and says so once', async (_, backendData, words) => {
    const node = await newNode().start([ALICE])
    const lease = node.leaseOf(BOB)
    const bad = { ...lease, attributes: { ...lease.attributes, backendData } }
    for (let i = 0; i < 3; i++) node.network.replaceLeases([node.leaseOf(ALICE), bad])
    node.network.apply()
    node.expectState([ALICE])
    expect(node.complaints()).toEqual([expect.stringContaining(words)])
  })

  it('skips a lease with its own key', async () => {
    const node = await newNode().start([])
    const lease = node.leaseOf(BOB)
    const backendData = node.backend?.attributes(undefined).backendData
    node.network.replaceLeases([{ ...lease, attributes: { ...lease.attributes, backendData } }])
    node.expectState([])
    expect(node.complaints()).toEqual([expect.stringContaining('its PublicKey is our own')])
  })

  it.each<[Record<string, unknown>, string]>([
    [{ PSK: 'short' }, 'PSK must be 32 bytes in base64'],
    [{ PSK: 7 }, 'PSK must be a string in quotes'],
    [{ Mode: 'ipv6' }, 'Mode "ipv6" needs an IPv6 underlay'],
    [{ Mode: 'Auto' }, 'no valid Mode configured'],
    [{ ListenPort: 70_000 }, 'ListenPort must be a whole number from 0 to 65535'],
    [{ PersistentKeepaliveInterval: '25s' }, 'PersistentKeepaliveInterval must be a whole number'],
  ])('refuses the options %j', async (options, words) => {
    await expect(newNode({ ...row, options }).open()).rejects.toMatchObject({
      name: 'BackendError',
      message: expect.stringContaining(words),
    })
  })

  it('refuses a key file that holds no key, without showing what it holds', async () => {
    writeFileSync(keyFile, 'no key at all')
    await expect(newNode().open()).rejects.toMatchObject({
      name: 'BackendError',
      message: expect.stringMatching(/wgkey holds no WireGuard key; delete it(?!.*at all)/),
    })
  })

  it('closes a key file that others could read', async () => {
    writeFileSync(keyFile, `${keyOf(CAROL)}\n`, { mode: 0o644 })
    const node = newNode()
    await node.open()
    expect(statSync(keyFile).mode & 0o777).toBe(0o600)
    expect(node.complaints()).toEqual([expect.stringContaining('could be read by others')])
  })

  it('does not take an interface of that name that is none of its own', async () => {
    op.do(op.bridge('flannel-wg'))
    await expect(newNode().start([])).rejects.toThrow('flannel-wg of kind bridge exists already')
  })
}

/** What Alice's peer is, with something changed. */
function wanted(peer: RemoteNode, changes: Partial<WireGuardPeer>): WireGuardPeer {
  const endpoint = { address: ip(peer.ip), port: 51_820 }
  const allowedIps = [subnet(peer.subnet)]
  return { publicKey: keyOf(peer), presharedKey: undefined, endpoint, keepalive: 25, allowedIps, ...changes }
}

/** What is particular to ipip. */
export function ipipSuite(row: Row, make: () => Machine): void {
  let machine: Machine
  let op: Operator
  const nodes: BackendNode[] = []

  beforeEach(() => {
    machine = make()
    op = new Operator(machine.open())
    prepare(op)
    op.do(op.address('add', 'eth0', '10.9.255.254/16'))
  })
  afterEach(async () => {
    for (const node of nodes.splice(0)) await node.stop()
    machine.close()
  })
  function newNode(of = row): BackendNode {
    const node = new BackendNode(machine, op, of, keyFile)
    nodes.push(node)
    return node
  }
  const made = (name: string, local: string) =>
    op.do(createIpip({ name, local: ip(local), mtu: 1400, txQueueLength: 0 }))

  it("makes flannel's device", async () => {
    await newNode().start([ALICE])
    expect(op.link('flannel.ipip')).toMatchObject({
      ...{ kind: 'ipip', mtu: 1480, txQueueLength: 0, up: true },
      ipip: { local: ip('192.0.2.1'), remote: 0, ttl: 0, tos: 0, pathMtuDiscovery: false },
    })
  })

  it('adopts a device that is right, and corrects its MTU', async () => {
    made('flannel.ipip', '192.0.2.1')
    const { index } = op.link('flannel.ipip')
    const node = await newNode().start([ALICE])
    expect(op.link('flannel.ipip')).toMatchObject({ index, mtu: 1480 })
    node.expectState([ALICE])
  })

  it('makes a device with another local address anew', async () => {
    made('flannel.ipip', '192.0.2.99')
    const node = await newNode().start([ALICE])
    expect(op.link('flannel.ipip').ipip?.local).toBe(ip('192.0.2.1'))
    node.expectState([ALICE])
    expect(node.complaints()).toEqual([
      expect.stringContaining(
        '"flannel.ipip" already exists with incompatable configuration: local IP: 192.0.2.1',
      ),
    ])
  })

  it('names the device that is in the way', async () => {
    made('tun9', '192.0.2.1')
    await expect(newNode().start([])).rejects.toMatchObject({
      name: 'DeviceError',
      message: expect.stringContaining('another IPIP device, tun9, takes what comes for 192.0.2.1'),
    })
  })

  it('does not take an interface of that name that is none of its own', async () => {
    op.do(op.bridge('flannel.ipip'))
    await expect(newNode().start([])).rejects.toThrow('flannel.ipip of kind bridge exists already')
  })

  it('comes back from a device that was deleted, set down or renamed', async () => {
    const node = await newNode().start([ALICE, BOB])
    op.do(op.unlink('flannel.ipip'))
    await node.settle()
    node.expectState([ALICE, BOB])
    op.do(op.set('flannel.ipip', { up: false }))
    await node.settle()
    node.expectState([ALICE, BOB])
    // Before Linux 6.2 only what is down can be renamed.
    op.do(op.set('flannel.ipip', { up: false }))
    op.do(op.set('flannel.ipip', { rename: 'other' }))
    await node.settle()
    expect(op.hasLink('other')).toBe(false)
    node.expectState([ALICE, BOB])
  })

  it('with DirectRouting, takes the tunnel only where there is a router between', async () => {
    op.do(op.route('add', { to: '0.0.0.0/0', via: '192.0.2.254' }))
    const far = { ...BOB, ip: '203.0.113.2' }
    const node = await newNode({ ...row, options: { DirectRouting: true } }).start([ALICE, far])
    const routes = () => machine.state().routes.filter((line) => line.startsWith('10.244'))
    expect(routes()).toEqual([
      `${ALICE.subnet} via ${ALICE.ip} dev eth0 onlink`,
      `${far.subnet} via ${far.ip} dev flannel.ipip onlink`,
    ])
    op.do(op.route('add', { to: `${ALICE.ip}/32`, via: '192.0.2.254' }))
    await node.settle(61_000)
    expect(routes()[0]).toBe(`${ALICE.subnet} via ${ALICE.ip} dev flannel.ipip onlink`)
    op.do(op.route('delete', { to: `${ALICE.ip}/32` }))
    await node.settle(61_000)
    expect(routes()[0]).toBe(`${ALICE.subnet} via ${ALICE.ip} dev eth0 onlink`)
  })
}
