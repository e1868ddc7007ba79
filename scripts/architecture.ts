import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { dirname, join } from 'node:path'

const root = dirname(import.meta.dirname)

/** A processor architecture by the names that others have for it; `name` is Go's and Debian's. */
export interface Architecture {
  readonly name: 'amd64' | 'arm64'
  readonly node: 'x64' | 'arm64'
  /** Of the cross compiler, its programs and its libraries. */
  readonly gnu: string
  /** Of QEMU's user mode. */
  readonly qemu: string
}

export const architectures: readonly Architecture[] = [
  { name: 'amd64', node: 'x64', gnu: 'x86_64-linux-gnu', qemu: 'x86_64' },
  { name: 'arm64', node: 'arm64', gnu: 'aarch64-linux-gnu', qemu: 'aarch64' },
]

export const isNative = ({ node }: Architecture): boolean => node === process.arch

/** The command in front of a program of that architecture: none, or QEMU with the cross compiler's libraries. */
export function emulator(architecture: Architecture): string[] {
  const { gnu, qemu } = architecture
  return isNative(architecture) ? [] : [`qemu-${qemu}-static`, '-L', `/usr/${gnu}`]
}

/** The compiler's or binutils' program that makes code for that architecture. */
export function tool(architecture: Architecture, program: 'gcc' | 'strip'): string {
  const { gnu } = architecture
  return isNative(architecture) ? program.replace('gcc', process.env.CC || 'cc') : `${gnu}-${program}`
}

/**
 * The folder of npm's package of Node for that architecture. `npm ci` installs the one of this machine; another is
 * fetched to `build/`, in the version and with the checksum that package-lock.json holds.
 */
export function nodePackage({ node }: Architecture): string {
  const name = `node-linux-${node}`
  const installed = join(root, 'node_modules', name)
  if (existsSync(join(installed, 'bin/node'))) return installed
  const { version, integrity } = lockedPackage(`node_modules/${name}`)
  const folder = join(root, 'build', `${name}-${version}`)
  if (existsSync(join(folder, 'bin/node'))) return folder

  const written = `${folder}.${process.pid}`
  mkdirSync(written, { recursive: true })
  try {
    execFileSync('npm', ['pack', '--silent', `${name}@${version}`, '--pack-destination', written])
    const archive = join(written, `${name}-${version}.tgz`)
    const digest = `sha512-${createHash('sha512').update(readFileSync(archive)).digest('base64')}`
    if (digest !== integrity)
      throw new Error(`${name} ${version} is ${digest}, package-lock.json says ${integrity}`)
    execFileSync('tar', ['-xzf', archive, '-C', written, '--no-same-owner'])
    renameSync(join(written, 'package'), folder)
  } finally {
    rmSync(written, { recursive: true, force: true })
  }
  return folder
}

export interface LockedPackage {
  readonly version: string
  readonly integrity: string
  readonly license?: string
}

/** What package-lock.json says of a package, by its folder. Throws when it is not there. */
export function lockedPackage(folder: string): LockedPackage {
  const { packages } = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')) as {
    packages: Readonly<Record<string, LockedPackage>>
  }
  const found = packages[folder]
  if (found === undefined) throw new Error(`package-lock.json has no ${folder}`)
  return found
}
