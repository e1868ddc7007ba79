import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export interface Pair {
  readonly certFile: string
  readonly keyFile: string
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

  /** A certificate by `by` for 127.0.0.1, or for `san`; `expired` was valid for a day in 2020. */
  issue(name: string, by: Pair, options: { readonly san?: string; readonly expired?: boolean } = {}): Pair {
    const pair = this.#paths(name)
    const request = join(this.directory, `${name}.csr`)
    const extensions = join(this.directory, `${name}.ext`)
    writeFileSync(
      extensions,
      `subjectAltName=${options.san ?? 'IP:127.0.0.1'}\nextendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=CA:FALSE\n`,
    )
    this.#openssl([
      ...['req', '-new', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'],
      ...['-subj', `/CN=${name}`, '-keyout', pair.keyFile, '-out', request],
    ])
    if (options.expired === true) {
      // `openssl x509` takes no start date before version 3.4; `openssl ca` always did.
      const database = join(this.directory, `${name}.db`)
      const config = join(this.directory, `${name}.cnf`)
      writeFileSync(database, '')
      writeFileSync(
        config,
        `[ca]\ndefault_ca=d\n[d]\ndatabase=${database}\nnew_certs_dir=${this.directory}\nrand_serial=yes\n` +
          'default_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n',
      )
      this.#openssl([
        ...['ca', '-batch', '-notext', '-config', config, '-cert', by.certFile, '-keyfile', by.keyFile],
        ...['-startdate', '20200101000000Z', '-enddate', '20200102000000Z', '-extfile', extensions],
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
