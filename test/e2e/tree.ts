import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { REPOSITORY } from '../netns/lab.ts'
import { run } from '../netns/process.ts'

/** What the machines have installed: a Debian with systemd, and what the tutorial asks for. */
const PACKAGES = [
  ...['systemd-sysv', 'dbus', 'procps', 'iproute2', 'iputils-ping', 'openssh-server', 'openssh-client'],
  ...['docker.io', 'etcd-server', 'etcd-client', 'iptables', 'openssl', 'busybox-static'],
  // For the package, which has to get along with them; a test starts them when it wants them.
  ...['udev', 'network-manager'],
]
const HOOKS = [
  'systemctl --quiet enable systemd-networkd',
  'systemctl --quiet disable NetworkManager NetworkManager-dispatcher NetworkManager-wait-online',
]
const CACHE = join(REPOSITORY, 'build/e2e')

/**
 * The folder with the root file system that all machines are laid over. It is made from this machine's own Debian
 * packages (under a minute), and kept until the list of packages or of package sources changes.
 */
export async function debianTree(): Promise<string> {
  const sources = await packageSources()
  const hash = createHash('sha256')
    .update(JSON.stringify([PACKAGES, HOOKS, sources]))
    .digest('hex')
  const tree = join(CACHE, hash.slice(0, 12))
  if (existsSync(tree)) return tree
  mkdirSync(CACHE, { recursive: true })
  for (const old of readdirSync(CACHE)) rmSync(join(CACHE, old), { recursive: true, force: true })
  const unfinished = `${tree}.${process.pid}`
  const hooks = HOOKS.map((command) => `--customize-hook=chroot "$1" ${command}`)
  const suite = /^VERSION_CODENAME=(.*)$/m.exec(await run(['cat', '/etc/os-release']))?.[1] ?? 'stable'
  const options = ['--quiet', '--variant=minbase', `--include=${PACKAGES.join(',')}`, ...hooks]
  await run(['mmdebstrap', ...options, suite, unfinished, '-'], sources)
  renameSync(unfinished, tree)
  return tree
}

/** Where this machine has its own packages from, as lines of a sources.list. Other vendors' are left out. */
async function packageSources(): Promise<string> {
  const format = '$(ORIGIN) deb $(REPO_URI) $(CODENAME) $(COMPONENT)'
  const targets = await run(['apt-get', 'indextargets', '--format', format, 'Created-By: Packages'])
  const own = [...targets.matchAll(/^(?:Debian|Ubuntu) (deb .*)$/gm)].map(([, line]) => `${line}\n`)
  if (own.length === 0) throw new Error('apt has no package lists of Debian; run apt-get update')
  return [...new Set(own)].join('')
}
