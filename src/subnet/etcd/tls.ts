import type { X509Certificate } from 'node:crypto'
import { readFileSync, statSync } from 'node:fs'
import type { Agent } from 'node:https'
import type { Logger } from '../../log.ts'
import { closeIdle, KEEP_ALIVE_MS } from './exchange.ts'

/** Paths of PEM files; an empty path means that the file is not used. */
export interface TlsFiles {
  readonly caFile: string
  readonly certFile: string
  readonly keyFile: string
}

/** A TLS set-up that cannot work: a missing or unreadable file, or a key that does not fit. One line. */
export class TlsFilesError extends Error {
  override readonly name = 'TlsFilesError'
}

/** As for Go, every certificate in the file is an authority, be it an intermediate one whose issuer is not there. */
const RULES = { minVersion: 'TLSv1.2', allowPartialTrustChain: true } as const

/**
 * Makes the https agent from PEM files, and makes a new one when a file was replaced, so that the next connection
 * uses a renewed certificate. A replacement that cannot be used (half written, or a key that does not fit yet)
 * is no reason to stop: the previous one stays in use, and the files are looked at again.
 */
export class TlsAgent {
  readonly #files: TlsFiles
  readonly #log: Logger
  #agent: Agent | undefined
  /** Requests that meet new files together share one agent. */
  #making: Promise<Agent> | undefined
  #stamp = ''
  #complained = ''

  /** Reads the files, so that a wrong path is known before anything else is done. Throws a TlsFilesError. */
  constructor(files: TlsFiles, log: Logger) {
    if ((files.certFile === '') !== (files.keyFile === '')) {
      throw new TlsFilesError(
        `KeyFile and CertFile must both be present[key: ${files.keyFile}, cert: ${files.certFile}]: ` +
          'set both -etcd-keyfile and -etcd-certfile',
      )
    }
    this.#files = files
    this.#log = log
    readPem(files)
    if (files.keyFile !== '' && (statSync(files.keyFile).mode & 0o004) !== 0) {
      log.warn(`-etcd-keyfile: every user of this machine can read ${files.keyFile}: chmod 600 it`)
    }
  }

  /** The agent for the next request. Throws a TlsFilesError only when no usable set of files was ever read. */
  async agent(): Promise<Agent> {
    const stamp = this.#stampOf()
    if (this.#agent !== undefined && stamp === this.#stamp) return this.#agent
    this.#making ??= this.#make(stamp).finally(() => {
      this.#making = undefined
    })
    return await this.#making
  }

  /** Closes what waits in the pool; requests under way keep their connection. */
  closeIdle(): void {
    if (this.#agent !== undefined) closeIdle(this.#agent)
  }

  close(): void {
    this.#agent?.destroy()
  }

  async #make(stamp: string): Promise<Agent> {
    try {
      const [https, tls, crypto] = await Promise.all([
        import('node:https'),
        import('node:tls'),
        import('node:crypto'),
      ])
      const pem = readPem(this.#files)
      const secureContext = tls.createSecureContext({ ...pem, ...RULES })
      const ca = pem.ca ?? systemRoots(tls)
      const previous = this.#agent
      this.#agent = new https.Agent({
        keepAlive: true,
        keepAliveMsecs: KEEP_ALIVE_MS,
        ...RULES,
        ...pem,
        ...(pem.ca === undefined && ca !== undefined
          ? { ca }
          : pem.ca === undefined
            ? {}
            : { secureContext }),
      })
      if (previous !== undefined) {
        this.#log.info('The TLS files for etcd were replaced; new connections use them')
        closeIdle(previous)
        // Nor are those kept that are in use still.
        previous.maxFreeSockets = 0
      }
      this.#complained = ''
      this.#checkDates(pem.cert === undefined ? undefined : new crypto.X509Certificate(pem.cert))
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error)
      if (this.#agent === undefined) throw asFilesError(error, this.#files)
      if (this.#complained !== reason) {
        this.#complained = reason
        this.#log.warn(`The replaced TLS files for etcd cannot be used, keeping the previous ones: ${reason}`)
      }
    }
    this.#stamp = stamp
    return this.#agent
  }

  /** The server refuses such a certificate, often without saying why. It is the server's clock that counts, so we try. */
  #checkDates(certificate: X509Certificate | undefined): void {
    if (certificate === undefined) return
    const { validFrom, validTo } = certificate
    const now = Date.now()
    const name = `the client certificate ${this.#files.certFile} (-etcd-certfile)`
    if (now > Date.parse(validTo)) this.#log.warn(`${name} has expired on ${validTo}: renew it`)
    if (now < Date.parse(validFrom)) {
      this.#log.warn(`${name} is not valid before ${validFrom}: check this machine's clock`)
    }
  }

  #stampOf(): string {
    const { caFile, certFile, keyFile } = this.#files
    return [caFile, certFile, keyFile].map(stampOfFile).join()
  }
}

function stampOfFile(path: string): string {
  if (path === '') return ''
  const stat = statSync(path, { throwIfNoEntry: false })
  return stat === undefined ? 'missing' : `${stat.ino}:${stat.size}:${stat.mtimeMs}`
}

interface Pem {
  readonly ca?: Buffer
  readonly cert?: Buffer
  readonly key?: Buffer
}

function readPem(files: TlsFiles): Pem {
  return {
    ...(files.caFile === '' ? {} : { ca: readPemFile('-etcd-cafile', files.caFile) }),
    ...(files.certFile === '' ? {} : { cert: readPemFile('-etcd-certfile', files.certFile) }),
    ...(files.keyFile === '' ? {} : { key: readPemFile('-etcd-keyfile', files.keyFile) }),
  }
}

function readPemFile(flag: string, path: string): Buffer {
  let pem: Buffer
  try {
    pem = readFileSync(path)
  } catch (error) {
    throw new TlsFilesError(`${flag}: ${error instanceof Error ? error.message : String(error)}`)
  }
  if (!pem.includes('-----BEGIN ')) throw new TlsFilesError(`${flag}: ${path} is not a PEM file`)
  // PKCS #8 says so in its first line, the older form in a header below it (RFC 7468, RFC 1421).
  if (/-----BEGIN ENCRYPTED PRIVATE KEY-----|^Proc-Type: 4,ENCRYPTED/m.test(pem.toString('latin1'))) {
    throw new TlsFilesError(
      `${flag}: ${path} is encrypted, and nobody is there to type its passphrase: decrypt it with openssl pkey -in ${path} ` +
        '-out FILE, and chmod 600 that',
    )
  }
  return pem
}

/** Without -etcd-cafile the machine's own roots count, as they do for Go; Node alone would use its bundled ones. */
function systemRoots(tls: typeof import('node:tls')): string[] | undefined {
  return [...tls.getCACertificates('default'), ...tls.getCACertificates('system')]
}

function asFilesError(error: unknown, { caFile, certFile, keyFile }: TlsFiles): TlsFilesError {
  if (error instanceof TlsFilesError) return error
  const reason = error instanceof Error ? error.message : String(error)
  return new TlsFilesError(
    `the TLS files for etcd cannot be used: ${reason}; check that -etcd-certfile ${certFile} and -etcd-keyfile ${keyFile} ` +
      `belong together${caFile === '' ? '' : `, and -etcd-cafile ${caFile}`}`,
  )
}
