/** The machine that a suite's tests work on, one for each test, and its nodes, which are all ended with it. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach } from 'vitest'
import { BackendNode, type RemoteNode, type Row, remote } from './backendnode.ts'
import type { Machine } from './machine.ts'
import { prepare } from './node.ts'
import { Operator } from './operator.ts'

export const ALICE = remote(1)
export const BOB = remote(2)
export const CAROL = remote(3)

export interface Site {
  readonly machine: Machine
  readonly op: Operator
  /** Where the WireGuard key is kept: nodes of one test are one machine, and keep its key. */
  readonly keyFile: string
  newNode(of?: Row): BackendNode
  start(peers: readonly RemoteNode[]): Promise<BackendNode>
  /** Ends the node and starts it again. */
  restart(node: BackendNode, peers: readonly RemoteNode[], as?: Row): Promise<BackendNode>
}

/** To be called where `beforeEach` may be. The site's parts are those of the test that runs. */
export function useSite(row: Row, make: () => Machine): Site {
  let machine: Machine
  let op: Operator
  let dir: string
  const nodes: BackendNode[] = []

  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'flannel-key-'))
    machine = make()
    op = new Operator(machine.open())
    prepare(op)
    op.do(op.address('add', 'eth0', '10.9.255.254/16'))
  })
  afterEach(async () => {
    for (const node of nodes.splice(0)) await node.stop()
    machine.close()
    rmSync(dir, { recursive: true, force: true })
  })
  const site: Site = {
    get machine() {
      return machine
    },
    get op() {
      return op
    },
    get keyFile() {
      return join(dir, 'wgkey')
    },
    newNode(of = row) {
      const node = new BackendNode(machine, op, of, site.keyFile)
      nodes.push(node)
      return node
    },
    start: (peers) => site.newNode().start(peers),
    async restart(node, peers, as = node.row) {
      nodes.splice(nodes.indexOf(node), 1)
      await node.stop()
      const again = site.newNode(as)
      again.before = node.backend?.attributes(undefined).backendType
      return again.start(peers)
    },
  }
  return site
}
