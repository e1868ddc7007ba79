/**
 * Where the password for etcd comes from, and how it is kept out of the list of processes, which every user can read.
 */
import { readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import type { Logger } from './log.ts'

/** A password file that cannot be used. One line. */
export class PasswordFileError extends Error {
  override readonly name = 'PasswordFileError'
}

/**
 * The content of `-etcd-password-file`, else of the systemd credential `etcd-password` (systemd.exec(5), LoadCredential=),
 * else '', without a newline at its end. Throws a PasswordFileError.
 */
export function readPasswordFile(
  file: string,
  env: Readonly<Record<string, string | undefined>>,
  log: Logger,
): string {
  const { CREDENTIALS_DIRECTORY: credentials } = env
  const path = file || (credentials ? join(credentials, 'etcd-password') : '')
  if (path === '') return ''
  try {
    const password = readFileSync(path, 'utf8').replace(/\r?\n$/, '')
    if ((statSync(path).mode & 0o004) !== 0) {
      log.warn(`-etcd-password-file: every user of this machine can read ${path}: chmod 600 it`)
    }
    return password
  } catch (error) {
    // Other credentials may be there, for ExecStartPre= and the like.
    if (file === '' && (error as NodeJS.ErrnoException).code === 'ENOENT') return ''
    const reason = error instanceof Error ? error.message : String(error)
    throw new PasswordFileError(`-etcd-password-file: ${reason}`)
  }
}

/** The arguments with `***` for the value of -etcd-password and for passwords in URLs; undefined when there are none. */
export function maskArguments(args: readonly string[]): string[] | undefined {
  const masked = args.map((arg, i) => {
    if (/^--?etcd-password=./.test(arg)) return arg.replace(/=.*/s, '=***')
    if (/^--?etcd-password$/.test(args[i - 1] ?? '')) return '***'
    // Up to the last @ before the next URL: a password may hold one.
    return arg.replace(/(:\/\/[^/:@]*):(?:(?!:\/\/).)*@/g, '$1:***@')
  })
  return masked.some((arg, i) => arg !== args[i]) ? masked : undefined
}

/**
 * Overwrites the process's arguments, so that ps shows no password from now on. (From the start until here it did: whoever
 * wants to be sure takes a file.)
 */
export function hideArguments(args: readonly string[]): void {
  const masked = maskArguments(args)
  if (masked !== undefined) process.title = ['flanneld', ...masked].join(' ')
}
