/** This node's key pair: X25519 (RFC 7748), base64 as `wg` has it. The private one never leaves the machine. */
import { createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject } from 'node:crypto'
import { chmodSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { makeFolder } from '../../files.ts'
import type { Logger } from '../../log.ts'
import type { WireGuardKey } from '../../netlink/wireguard.ts'
import { BackendError } from '../backend.ts'

export interface KeyPair {
  readonly privateKey: WireGuardKey
  readonly publicKey: WireGuardKey
}

/** Where newer flannel keeps it, too; WIREGUARD_KEY_FILE names another place. */
export const KEY_FILE = '/run/flannel/wgkey'

/**
 * The key in the file; a file that is not there is made, with a new key, for root alone (0600). So deleting the file and
 * restarting changes the key. Throws a BackendError that never shows what the file holds.
 */
export function loadKeyPair(path: string, log: Logger): KeyPair {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    if (code !== 'ENOENT') throw cannot('read', path, message)
    return makeKeyPair(path, log)
  }
  const raw = decodeKey(text.trim())
  if (raw === undefined) {
    throw new BackendError(
      `Error registering network: ${path} holds no WireGuard key; delete it, and the next start makes a new one`,
    )
  }
  if ((statSync(path).mode & 0o077) !== 0) {
    log.warn(
      `${path} could be read by others than its owner; closing it: rotate the key by deleting the file`,
    )
    chmodSync(path, 0o600)
  }
  return pairOf(createPrivateKey({ key: Buffer.concat([PKCS8, raw]), format: 'der', type: 'pkcs8' }))
}

function makeKeyPair(path: string, log: Logger): KeyPair {
  const pair = pairOf(generateKeyPairSync('x25519').privateKey)
  const fresh = `${path}.${process.pid}`
  try {
    makeFolder(dirname(path))
    // No line end: flannel's reader takes none.
    writeFileSync(fresh, pair.privateKey, { mode: 0o600, flag: 'wx', flush: true })
    renameSync(fresh, path)
  } catch (error) {
    rmSync(fresh, { force: true })
    throw cannot('write', path, (error as Error).message)
  }
  log.info(`made a new WireGuard key in ${path}`, { publicKey: pair.publicKey })
  return pair
}

/** The 32 bytes of a key in base64, undefined when it is none. */
export function decodeKey(text: string): Buffer | undefined {
  return /^[A-Za-z0-9+/]{43}=$/.test(text) ? Buffer.from(text, 'base64') : undefined
}

// What goes before the 32 bytes in PKCS #8 (RFC 8410): version, 1.3.101.110 (X25519), two OCTET STRING headers.
const PKCS8 = Buffer.from('302e020100300506032b656e04220420', 'hex')

function pairOf(key: KeyObject): KeyPair {
  const { d } = key.export({ format: 'jwk' })
  const { x } = createPublicKey(key).export({ format: 'jwk' })
  const base64 = (text = ''): string => Buffer.from(text, 'base64url').toString('base64')
  return { privateKey: base64(d), publicKey: base64(x) }
}

function cannot(what: string, path: string, why: string): BackendError {
  return new BackendError(
    `Error registering network: cannot ${what} the WireGuard key ${path}: ${why}; ` +
      'let flanneld have it, or name another file in WIREGUARD_KEY_FILE',
  )
}
