import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export interface Pair {
  readonly certFile: string
  readonly keyFile: string
}

export interface IssueOptions {
  /** subjectAltName; 127.0.0.1 by default. */
  readonly san?: string
  /** Valid through 2020 only. */
  readonly expired?: boolean
  /** Valid through 2099 only. */
  readonly early?: boolean
  /** RSA of 2048 bits; else an elliptic curve. */
  readonly rsa?: boolean
  /** May sign others. */
  readonly authority?: boolean
}

/** Certificate authorities and certificates for one test, made by openssl. */
export class Certificates {
  readonly directory = mkdtempSync(join(tmpdir(), 'flanneld-tls-'))

  /** A self-signed CA; its certificate is at `caFile`. */
  authority(name: string): Pair & { readonly caFile: string } {
    const pair = this.#paths(name)
    this.#openssl([
      ...[
        'req',
        '-x509',
        '-newkey',
        'ec',
        '-pkeyopt',
        'ec_paramgen_curve:prime256v1',
        '-nodes',
        '-days',
        '2',
      ],
      ...['-subj', `/CN=${name}`, '-keyout', pair.keyFile, '-out', pair.certFile],
    ])
    return { ...pair, caFile: pair.certFile }
  }

  /** A certificate by `by`. */
  issue(name: string, by: Pair, options: IssueOptions = {}): Pair {
    const pair = this.#paths(name)
    const request = join(this.directory, `${name}.csr`)
    const extensions = join(this.directory, `${name}.ext`)
    const uses = options.authority
      ? 'basicConstraints=critical,CA:TRUE\n'
      : `subjectAltName=${options.san ?? 'IP:127.0.0.1'}\nextendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=CA:FALSE\n`
    writeFileSync(extensions, uses)
    const key = options.rsa ? ['rsa:2048'] : ['ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1']
    this.#openssl([
      ...['req', '-new', '-newkey', ...key, '-nodes'],
      ...['-subj', `/CN=${name}`, '-keyout', pair.keyFile, '-out', request],
    ])
    const years = options.expired ? [2020, 2021] : options.early ? [2099, 2100] : undefined
    if (years !== undefined) {
      // `openssl x509` takes no start date before version 3.4; `openssl ca` always did.
      const database = join(this.directory, `${name}.db`)
      const config = join(this.directory, `${name}.cnf`)
      writeFileSync(database, '')
      writeFileSync(
        config,
        `[ca]\ndefault_ca=d\n[d]\ndatabase=${database}\nnew_certs_dir=${this.directory}\nrand_serial=yes\n` +
          'default_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n',
      )
      const [start, end] = years.map((year) => `${year}0101000000Z`)
      this.#openssl([
        ...['ca', '-batch', '-notext', '-config', config, '-cert', by.certFile, '-keyfile', by.keyFile],
        ...['-startdate', `${start}`, '-enddate', `${end}`, '-extfile', extensions],
        ...['-in', request, '-out', pair.certFile],
      ])
    } else {
      this.#openssl([
        ...['x509', '-req', '-in', request, '-CA', by.certFile, '-CAkey', by.keyFile, '-CAcreateserial'],
        ...['-days', '2', '-extfile', extensions, '-out', pair.certFile],
      ])
    }
    return pair
  }

  /** The same pair with its key encrypted, in the form that openssl writes today (PKCS #8) or that it wrote before. */
  encrypt(pair: Pair, form: 'pkcs8' | 'traditional'): Pair {
    const keyFile = `${pair.keyFile}.${form}`
    const how = form === 'pkcs8' ? ['pkcs8', '-topk8'] : ['ec', '-aes128']
    this.#openssl([...how, '-in', pair.keyFile, '-passout', 'pass:secret', '-out', keyFile])
    return { ...pair, keyFile }
  }

  remove(): void {
    rmSync(this.directory, { recursive: true, force: true })
  }

  #paths(name: string): Pair {
    return { certFile: join(this.directory, `${name}.pem`), keyFile: join(this.directory, `${name}.key`) }
  }

  #openssl(args: readonly string[]): void {
    execFileSync('openssl', args, { stdio: ['ignore', 'ignore', 'pipe'] })
  }
}
