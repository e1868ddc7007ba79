/**
 * Whether this computer can boot the machines of the tutorial: it boots one, and its services with it. The first time it
 * makes the root file system, too. Exits with 1, and one line of why on standard output, when it cannot.
 */
import { Lab } from '../netns/lab.ts'
import { Machine } from './machine.ts'
import { debianTree } from './tree.ts'

async function probe(): Promise<void> {
  const tree = await debianTree()
  const lab = await Lab.create({ nodes: 0 })
  try {
    const files = { 'etc/hostname': 'probe\n' }
    const machine = new Machine({ name: 'probe', network: lab.switch, tree, lab: lab.name, files })
    lab.onClose(() => machine.close())
    await machine.booted()
    await machine.succeed('systemctl start docker etcd')
  } finally {
    await lab.close()
  }
}

try {
  await probe()
} catch (error) {
  const reason = error instanceof Error ? error.message : String(error)
  process.stdout.write(`${reason.replaceAll(/\s*\n\s*/g, ' ').slice(0, 400)}\n`)
  process.exitCode = 1
}
