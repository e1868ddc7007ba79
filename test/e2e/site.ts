/**
 * Three machines on one switch, as a reader of docs/tutorial.md has them before the first command:
 *
 *     172.27.0.1/16 br0 -+- vb-kube-node1 === host0 172.27.129.105 kube-node1
 *     (the lab's switch) +- vb-kube-node2 === host0 172.27.129.111 kube-node2
 *                        +- vb-kube-node3 === host0 172.27.129.112 kube-node3
 *
 * root of kube-node1 may log in to all three; the release is unpacked there in /root/flannel.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Lab, REPOSITORY } from '../netns/lab.ts'
import { run } from '../netns/process.ts'
import { Machine, type MachineFile } from './machine.ts'
import { debianTree } from './tree.ts'

export const ADDRESSES = {
  'kube-node1': '172.27.129.105',
  'kube-node2': '172.27.129.111',
  'kube-node3': '172.27.129.112',
} as const
export type NodeName = keyof typeof ADDRESSES
export const NODES = Object.keys(ADDRESSES) as NodeName[]

/** Another flanneld, to come from and to go back to; tests that need it are skipped without. */
export const PEER = process.env.FLANNEL_PEER

export class Site {
  readonly lab: Lab
  readonly #machines: ReadonlyMap<NodeName, Machine<NodeName>>

  private constructor(lab: Lab, machines: ReadonlyMap<NodeName, Machine<NodeName>>) {
    this.lab = lab
    this.#machines = machines
  }

  /** Builds the root file system when there is none yet, and boots the machines. */
  static async create(): Promise<Site> {
    if (process.getuid?.() !== 0) throw new Error('only root can boot machines')
    const tree = await debianTree()
    const keys = await sshKeys()
    const lab = await Lab.create({ nodes: 0, prefix: '172.27' })
    try {
      const machines = NODES.map((name): [NodeName, Machine<NodeName>] => {
        const first = name === 'kube-node1' ? { ...keys.first, ...releaseFiles() } : {}
        const files = { ...hostFiles(name), ...keys.everywhere, ...first }
        const machine = new Machine({ name, network: lab.switch, tree, lab: lab.name, files })
        lab.onClose(() => machine.close())
        return [name, machine]
      })
      await Promise.all(machines.map(([, machine]) => machine.booted()))
      return new Site(lab, new Map(machines))
    } catch (error) {
      await lab.close()
      throw error
    }
  }

  get machines(): readonly Machine<NodeName>[] {
    return [...this.#machines.values()]
  }

  machine(name: NodeName): Machine<NodeName> {
    const machine = this.#machines.get(name)
    if (!machine) throw new Error(`there is no machine ${name}`)
    return machine
  }

  close(): Promise<void> {
    return this.lab.close()
  }
}

type Files = Readonly<Record<string, MachineFile>>

function hostFiles(name: NodeName): Files {
  const hosts = Object.entries(ADDRESSES).map(([host, address]) => `${address} ${host}\n`)
  return {
    'etc/hostname': `${name}\n`,
    'etc/hosts': `127.0.0.1 localhost\n${hosts.join('')}`,
    'etc/systemd/network/10-host0.network': [
      '[Match]\nName=host0\n',
      `[Network]\nAddress=${ADDRESSES[name]}/16\nGateway=172.27.0.1\nLinkLocalAddressing=no\n`,
    ].join('\n'),
  }
}

/** kube-node1's root may log in everywhere. The keys are made for this site and go with it. */
async function sshKeys(): Promise<{ readonly everywhere: Files; readonly first: Files }> {
  const dir = mkdtempSync(join(tmpdir(), 'flannel-e2e-keys-'))
  try {
    const file = join(dir, 'id_ed25519')
    await run(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-C', 'root@kube-node1', '-f', file])
    return {
      everywhere: { 'root/.ssh/authorized_keys': { secret: readFileSync(`${file}.pub`, 'utf8') } },
      first: {
        'root/.ssh/id_ed25519': { secret: readFileSync(file, 'utf8') },
        'root/.ssh/config': 'LogLevel ERROR\nStrictHostKeyChecking accept-new\n',
      },
    }
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
}

function built(path: string): MachineFile {
  return { source: join(REPOSITORY, path) }
}

/** The release as it is unpacked, and the one to come from when there is one. */
function releaseFiles(): Files {
  return {
    'root/flannel/mk-docker-opts.sh': built('dist/mk-docker-opts.sh'),
    'root/flannel/flanneld.service': built('dist/flanneld.service'),
    'root/flannel/flanneld': built('out/flanneld'),
    ...(PEER === undefined ? {} : { 'root/flannel-v0.11.0/flanneld': { source: PEER } }),
  }
}
