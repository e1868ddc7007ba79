import { readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { expect, it } from 'vitest'
import { Rtnl } from '../../src/netlink/conn.ts'
import { getFamily } from '../../src/netlink/genl.ts'
import type { NetlinkRequest } from '../../src/netlink/request.ts'
import {
  deletePeer,
  dumpWireGuard,
  replacePeer,
  setWireGuard,
  type WireGuardDevice,
  type WireGuardPeer,
} from '../../src/netlink/wireguard.ts'
import type { BackendNode, RemoteNode, Row } from './backendnode.ts'
import { keyOf } from './backends.ts'
import { FakeMachine, type Machine } from './machine.ts'
import { subnet } from './node.ts'
import { ip } from './operator.ts'
import { ALICE, BOB, CAROL, useSite } from './site.ts'

/** What is particular to wireguard. */
export function wireGuardSuite(row: Row, make: () => Machine): void {
  const site = useSite(row, make)

  /** Somebody else at the device's peers. */
  const operator = (): { readonly rtnl: Rtnl; readonly device: WireGuardDevice } => {
    const rtnl = new Rtnl(site.machine.generic())
    const family = rtnl.get(getFamily('wireguard'))
    return { rtnl, device: { family, index: site.op.link('flannel-wg').index, name: 'flannel-wg' } }
  }
  const withKey = (peer: RemoteNode, of: RemoteNode, modifiedIndex: number, node: BackendNode) => {
    const lease = node.leaseOf(peer)
    const backendData = { PublicKey: keyOf(of), Port: 51_820 }
    return { ...lease, modifiedIndex, attributes: { ...lease.attributes, backendData } }
  }

  it('publishes its key and port, and keeps the key over restarts, for root alone', async () => {
    const node = await site.newNode().start([])
    const key = readFileSync(site.keyFile, 'utf8')
    expect(statSync(site.keyFile).mode & 0o777).toBe(0o600)
    const published = node.backend?.attributes(undefined)
    expect(published).toMatchObject({ backendType: 'wireguard', backendData: { Port: 51_820 } })
    const { index } = site.op.link('flannel-wg')
    const again = await site.restart(node, [])
    expect(again.backend?.attributes(undefined)).toEqual(published)
    expect(readFileSync(site.keyFile, 'utf8')).toBe(key)
    expect(site.op.link('flannel-wg').index).toBe(index)
    expect(node.logged.join()).not.toContain(key)
  })

  it('takes a new key when the file was deleted, on the device that it has', async () => {
    const node = await site.newNode().start([ALICE])
    const before = JSON.stringify(node.backend?.attributes(undefined).backendData)
    rmSync(site.keyFile)
    const again = await site.restart(node, [ALICE])
    const after = again.backend?.attributes(undefined).backendData
    expect(JSON.stringify(after)).not.toBe(before)
    const { rtnl, device } = operator()
    const [part] = rtnl.dump(dumpWireGuard(device))
    expect(after).toEqual({ PublicKey: part?.publicKey, Port: part?.listenPort })
    again.expectState([ALICE])
  })

  it("follows a peer's new key, and leaves no peer of the old one", async () => {
    const node = await site.newNode().start([ALICE, BOB])
    node.network.putLease(withKey(ALICE, CAROL, 2, node))
    node.network.apply()
    expect([...site.machine.peers()].sort()).toEqual(
      [`flannel-wg ${keyOf(CAROL)} (none) ${ALICE.ip}:51820 ${ALICE.subnet} 25`, row.peer?.(BOB)].sort(),
    )
  })

  it('lets a node that changed its subnet have both until the old lease is gone', async () => {
    const node = await site.newNode().start([ALICE])
    const moved = { ...BOB, ip: ALICE.ip }
    node.network.putLease(withKey(moved, ALICE, 2, node))
    node.network.apply()
    const line = (ips: string) => `flannel-wg ${keyOf(ALICE)} (none) ${ALICE.ip}:51820 ${ips} 25`
    expect(site.machine.peers()).toEqual([line(`${ALICE.subnet},${BOB.subnet}`)])
    node.remove(ALICE)
    expect(site.machine.peers()).toEqual([line(BOB.subnet)])
    // Of two machines with one key the newest counts.
    node.network.putLease(withKey(CAROL, ALICE, 3, node))
    node.network.apply()
    expect(site.machine.peers()).toEqual([
      `flannel-wg ${keyOf(ALICE)} (none) ${CAROL.ip}:51820 ${CAROL.subnet} 25`,
    ])
  })

  it('gives a subnet that changes hands to the new node', async () => {
    const node = await site.newNode().start([ALICE, BOB])
    const thief = withKey({ ...ALICE, ip: BOB.ip }, BOB, 3, node)
    node.network.putLease(thief)
    node.network.apply()
    expect(site.machine.peers()).toEqual([
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
    const node = await site.newNode().start([ALICE, BOB])
    const { rtnl, device } = operator()
    rtnl.execute(damage(device))
    await node.settle(10_500)
    node.expectState([ALICE, BOB])
    await node.settle(1_000)
    node.forget()
    await node.settle(300_000)
    expect(node.logged).toEqual([])
  })

  it('leaves a peer where it answers, though its lease says otherwise, as long as it does', async () => {
    if (!(site.machine instanceof FakeMachine)) return
    const node = await site.newNode().start([ALICE, BOB])
    const { index } = site.op.link('flannel-wg')
    const elsewhere = Buffer.from('02001000cb007107'.padEnd(32, '0'), 'hex')
    const at = () =>
      site.machine
        .peers()
        .find((line) => line.includes(keyOf(ALICE)))
        ?.split(' ')[3]
    site.machine.kernel.wireguard.roam(index, keyOf(ALICE), elsewhere, 60)
    await node.settle(61_000)
    expect(at()).toBe('203.0.113.7:4096')
    await node.settle(240_000)
    expect(at()).toBe(`${ALICE.ip}:51820`)
  })

  it('comes back from a device that was deleted, set down, renamed, or given another key', async () => {
    const node = await site.newNode().start([ALICE, BOB])
    site.op.do(site.op.unlink('flannel-wg'))
    await node.settle()
    node.expectState([ALICE, BOB])
    site.op.do(site.op.set('flannel-wg', { up: false }))
    await node.settle()
    node.expectState([ALICE, BOB])
    // Before Linux 6.2 only what is down can be renamed.
    site.op.do(site.op.set('flannel-wg', { up: false }))
    site.op.do(site.op.set('flannel-wg', { rename: 'other' }))
    await node.settle()
    expect(site.op.hasLink('other')).toBe(false)
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
    const node = await site.newNode(configured).start([ALICE])
    expect(node.network.mtu).toBe(1_220)
    expect(site.op.link('flannel-wg').mtu).toBe(1_220)
    expect(node.backend?.attributes(undefined).backendData).toMatchObject({ Port: 4_500 })
    expect(site.machine.peers()).toEqual([
      `flannel-wg ${keyOf(ALICE)} ${keyOf(CAROL)} ${ALICE.ip}:51820 ${ALICE.subnet} off`,
    ])
    expect(node.logged.join()).not.toContain(keyOf(CAROL))
  })

  it('uses its own port for a peer that names none', async () => {
    const node = await site.newNode().start([])
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
    const node = await site.newNode().start([ALICE])
    const lease = node.leaseOf(BOB)
    const bad = { ...lease, attributes: { ...lease.attributes, backendData } }
    for (let i = 0; i < 3; i++) node.network.replaceLeases([node.leaseOf(ALICE), bad])
    node.network.apply()
    node.expectState([ALICE])
    expect(node.complaints()).toEqual([expect.stringContaining(words)])
  })

  it('skips a lease with its own key', async () => {
    const node = await site.newNode().start([])
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
    await expect(site.newNode({ ...row, options }).open()).rejects.toMatchObject({
      name: 'BackendError',
      message: expect.stringContaining(words),
    })
  })

  it('refuses a key file that holds no key, without showing what it holds', async () => {
    writeFileSync(site.keyFile, 'no key at all')
    await expect(site.newNode().open()).rejects.toMatchObject({
      name: 'BackendError',
      message: expect.stringMatching(/wgkey holds no WireGuard key; delete it(?!.*at all)/),
    })
  })

  it('closes a key file that others could read', async () => {
    writeFileSync(site.keyFile, `${keyOf(CAROL)}\n`, { mode: 0o644 })
    const node = site.newNode()
    await node.open()
    expect(statSync(site.keyFile).mode & 0o777).toBe(0o600)
    expect(node.complaints()).toEqual([expect.stringContaining('could be read by others')])
  })

  it('does not take an interface of that name that is none of its own', async () => {
    site.op.do(site.op.bridge('flannel-wg'))
    await expect(site.newNode().start([])).rejects.toThrow('flannel-wg of kind bridge exists already')
  })
}

/** What Alice's peer is, with something changed. */
function wanted(peer: RemoteNode, changes: Partial<WireGuardPeer>): WireGuardPeer {
  const endpoint = { address: ip(peer.ip), port: 51_820 }
  const allowedIps = [subnet(peer.subnet)]
  return { publicKey: keyOf(peer), presharedKey: undefined, endpoint, keepalive: 25, allowedIps, ...changes }
}
