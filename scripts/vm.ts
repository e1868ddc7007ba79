/**
 * Runs a command in a virtual machine with Debian's kernel, which has the devices that this machine's kernel may lack:
 *
 *     node scripts/vm.ts vitest run test/vm
 *
 * There is no disk image: the machine's root is this machine's own, read-only through 9p, under a tmpfs that takes what is
 * written and is gone in the end. So it has whatever is installed here, the checkout included. It needs no root and no
 * /dev/kvm, no part of the kernel package is installed, and the guest has no network but the namespaces that it makes.
 */
import { execFileSync, spawn } from 'node:child_process'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'

const root = dirname(import.meta.dirname)
const cache = join(root, 'build/vm')

/** What has to be there before the root is; all else is loaded from it, as the kernel asks for it. */
const MODULES = ['virtio_pci', '9pnet_virtio', '9p', 'overlay']

/** Seconds after which the machine is turned off. */
const LIMIT = Number(process.env.VM_LIMIT ?? '900')

/** Unpacks Debian's kernel and a busybox into `build/vm`, unless they are there, and returns the folder. */
function unpack(): string {
  const parts = join(cache, 'parts')
  if (existsSync(parts)) return parts
  const fresh = `${parts}-${process.pid}`
  const packages = join(fresh, 'packages')
  mkdirSync(packages, { recursive: true })
  const image = /Depends: (linux-image-\S+)/.exec(run('apt-cache', 'depends', 'linux-image-amd64'))?.[1]
  if (image === undefined) throw new Error('apt knows no linux-image-amd64; run apt-get update')
  execFileSync('apt-get', ['-qq', 'download', image, 'busybox-static'], {
    cwd: packages,
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  for (const name of readdirSync(packages)) run('dpkg-deb', '-x', join(packages, name), fresh)
  rmSync(packages, { recursive: true })
  run('depmod', '-b', fresh, versionIn(fresh))
  renameSync(fresh, parts)
  return parts
}

function versionIn(parts: string): string {
  const [version] = readdirSync(join(parts, 'lib/modules'))
  if (version === undefined) throw new Error(`there is no kernel in ${parts}; remove ${cache}`)
  return version
}

/** A cpio archive (newc) with busybox, the modules that make the root reachable, and the script that goes there. */
function initramfs(parts: string): Buffer {
  const version = versionIn(parts)
  const modules = join(parts, 'lib/modules', version)
  const dependencies = new Map(
    readFileSync(join(modules, 'modules.dep'), 'utf8')
      .split('\n')
      .map((line) => line.split(/[:\s]+/).filter((word) => word !== ''))
      .map(([module = '', ...needs]) => [module, needs]),
  )
  const inOrder: string[] = []
  for (const name of MODULES) {
    const file = [...dependencies.keys()].find((path) => path.endsWith(`/${name}.ko`))
    // What is not there is built in.
    if (file !== undefined) inOrder.push(...(dependencies.get(file) ?? []).toReversed(), file)
  }
  const staging = join(cache, `staging-${process.pid}`)
  for (const folder of ['bin', 'modules', 'lower', 'upper', 'root'])
    mkdirSync(join(staging, folder), { recursive: true })
  const files = [...new Set(inOrder)].map((path, i) => {
    const name = `modules/${String(i).padStart(2, '0')}.ko`
    writeFileSync(join(staging, name), readFileSync(join(modules, path)))
    return name
  })
  writeFileSync(join(staging, 'bin/busybox'), readFileSync(join(parts, 'bin/busybox')))
  chmodSync(join(staging, 'bin/busybox'), 0o755)
  writeFileSync(join(staging, 'init'), INIT)
  chmodSync(join(staging, 'init'), 0o755)
  const names = ['bin', 'bin/busybox', 'modules', ...files, 'lower', 'upper', 'root', 'init']
  const archive = execFileSync(join(parts, 'bin/busybox'), ['cpio', '-o', '-H', 'newc'], {
    cwd: staging,
    input: `${names.join('\n')}\n`,
    maxBuffer: 1 << 28,
    stdio: ['pipe', 'pipe', 'ignore'],
  })
  rmSync(staging, { recursive: true })
  return archive
}

/** The kernel's command line has `vm_modules=` and `vm_script=`, paths on this machine. */
const INIT = `#!/bin/busybox sh
/bin/busybox mkdir /proc && /bin/busybox mount -t proc proc /proc
for module in /modules/*.ko; do /bin/busybox insmod $module || echo "cannot load $module"; done
for word in $(/bin/busybox cat /proc/cmdline); do
  case $word in vm_*=*) eval "$word" ;; esac
done
/bin/busybox mount -t 9p -o ro,trans=virtio,version=9p2000.L,cache=loose,msize=512000 host /lower
/bin/busybox mount -t tmpfs tmpfs /upper
/bin/busybox mkdir /upper/data /upper/work
/bin/busybox mount -t overlay -o lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work overlay /root
cd /root
for at in proc sys dev run tmp; do /bin/busybox mkdir -p $at; done
/bin/busybox mount -t proc proc proc
/bin/busybox mount -t sysfs sys sys
/bin/busybox mount -t devtmpfs dev dev
/bin/busybox mkdir -p dev/shm dev/pts
for at in run dev/shm; do /bin/busybox mount -t tmpfs tmpfs $at; done
/bin/busybox rm -rf lib/modules
/bin/busybox mkdir -p lib/modules
/bin/busybox ln -s $vm_modules lib/modules/
exec /bin/busybox switch_root /root /bin/sh $vm_script
`

/** Runs the command and resolves to its exit status. */
function boot(command: readonly string[]): Promise<number> {
  const parts = unpack()
  const version = versionIn(parts)
  const script = join(cache, `run-${process.pid}.sh`)
  const initrd = join(cache, `run-${process.pid}.cpio`)
  writeFileSync(initrd, initramfs(parts))
  const quoted = command.map((word) => `'${word.replaceAll("'", "'\\''")}'`).join(' ')
  writeFileSync(
    script,
    [
      'export PATH=' +
        `${join(root, 'node_modules/.bin')}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin`,
      'export HOME=/root CI=1 NO_COLOR=1 VM=1',
      ...(process.env.FLANNEL_PEER ? [`export FLANNEL_PEER='${process.env.FLANNEL_PEER}'`] : []),
      'ip link set lo up',
      // Its device file, by which the kernel would load it, comes with it.
      'modprobe tun',
      `cd ${root}`,
      quoted,
      'echo "vm: exit status $?"',
      'echo o > /proc/sysrq-trigger',
      // Nothing can be read any more, not even a program that sleeps.
      'while :; do :; done',
    ].join('\n'),
  )
  const modules = join(parts, 'lib/modules', version)
  const args = [
    ...['-accel', 'tcg,thread=multi', '-cpu', 'max', '-smp', '2', '-m', '3072'],
    ...['-display', 'none', '-monitor', 'none', '-serial', 'stdio', '-no-reboot', '-nodefaults'],
    ...['-kernel', join(parts, 'boot', `vmlinuz-${version}`), '-initrd', initrd],
    ...[
      '-append',
      `console=ttyS0 quiet loglevel=1 panic=-1 mitigations=off vm_modules=${modules} vm_script=${script}`,
    ],
    ...['-fsdev', 'local,id=host,path=/,security_model=none,readonly=on,multidevs=remap'],
    ...['-device', 'virtio-9p-pci,fsdev=host,mount_tag=host'],
    ...['-device', 'virtio-rng-pci'],
  ]
  return new Promise((resolve, reject) => {
    const child = spawn('qemu-system-x86_64', args, { stdio: ['ignore', 'pipe', 'inherit'] })
    const timer = setTimeout(() => {
      process.stderr.write(`\nvm: turned off after ${LIMIT} s\n`)
      child.kill('SIGKILL')
    }, LIMIT * 1000)
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => child.kill('SIGKILL'))
    let tail = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      process.stdout.write(text)
      tail = (tail + text).slice(-4096)
    })
    child.on('error', reject)
    child.on('close', () => {
      clearTimeout(timer)
      for (const file of [script, initrd]) rmSync(file, { force: true })
      const status = /vm: exit status (\d+)/.exec(tail)?.[1]
      resolve(status === undefined ? 1 : Number(status))
    })
  })
}

function run(program: string, ...args: string[]): string {
  return execFileSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] })
}

process.exitCode = await boot(process.argv.slice(2))
