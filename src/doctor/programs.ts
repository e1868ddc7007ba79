import { execFile } from 'node:child_process'
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'

/** Milliseconds and bytes that one program may take and print. */
const TIMEOUT = 10_000
const MOST = 64 << 20

/** What a program prints, undefined when it is not there or fails. */
export function output(program: string, ...args: string[]): Promise<string | undefined> {
  return new Promise((resolve) => {
    const options = { timeout: TIMEOUT, maxBuffer: MOST, env: { ...process.env, LC_ALL: 'C' } }
    execFile(program, args, options, (error, stdout) => resolve(error === null ? stdout : undefined))
  })
}

/**
 * Tries a command in a network namespace of its own, which goes with it: so nothing is left of what it makes. true when it went
 * well, else its complaint; undefined when it cannot be tried.
 */
export function tryApart(...argv: string[]): Promise<true | string | undefined> {
  return new Promise((resolve) => {
    execFile('unshare', ['--net', ...argv], { timeout: TIMEOUT }, (error, _, stderr) => {
      if (error === null) return resolve(true)
      const said = stderr.trim()
      resolve(/^RTNETLINK|^Error|^open:|^ioctl/.test(said) ? said.split('\n')[0] : undefined)
    })
  })
}

export function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return undefined
  }
}

/** Names of files in a folder, sorted; none when it is not there. */
export function list(path: string): string[] {
  try {
    return readdirSync(path).sort()
  } catch {
    return []
  }
}

/** The arguments of each program of this name that runs in this network namespace: those elsewhere have other interfaces. */
export function argumentsOf(name: string): string[][] {
  const here = linkAt('/proc/self/ns/net')
  return processes().flatMap((pid) =>
    read(`/proc/${pid}/comm`)?.trim() === name && linkAt(`/proc/${pid}/ns/net`) === here
      ? [read(`/proc/${pid}/cmdline`)?.split('\0') ?? []]
      : [],
  )
}

function processes(): string[] {
  return list('/proc').filter((name) => /^\d+$/.test(name))
}

/** Inodes of the UDP sockets of this network namespace that are bound to a port (proc_net_udp: the tenth column). */
export function parseUdp(text: string, port: number): number[] {
  return text.split('\n').flatMap((line) => {
    const words = line.trim().split(/\s+/)
    const bound = Number.parseInt(words[1]?.split(':')[1] ?? '', 16)
    return bound === port ? [Number(words[9])] : []
  })
}

/** The programs that hold these sockets. The kernel's own have none. */
export function holdersOf(inodes: readonly number[]): { readonly name: string; readonly pid: number }[] {
  if (inodes.length === 0) return []
  const links = new Set(inodes.map((inode) => `socket:[${inode}]`))
  return processes().flatMap((pid) => {
    const held = list(`/proc/${pid}/fd`).some((fd) => links.has(linkAt(`/proc/${pid}/fd/${fd}`)))
    return held ? [{ name: read(`/proc/${pid}/comm`)?.trim() ?? '', pid: Number(pid) }] : []
  })
}

function linkAt(path: string): string {
  try {
    return readlinkSync(path)
  } catch {
    return ''
  }
}
