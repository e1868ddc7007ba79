import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { run } from './process.ts'

/** Paths of PEM files. `caFile` signs both the server's and the client's certificate. */
export interface TlsFiles {
  readonly caFile: string
  readonly serverCertFile: string
  readonly serverKeyFile: string
  readonly clientCertFile: string
  readonly clientKeyFile: string
}

/** Makes a throw-away CA, a server certificate valid for `addresses`, and a client certificate, with openssl. */
export async function makeTls(dir: string, addresses: readonly string[]): Promise<TlsFiles> {
  const at = (name: string): string => join(dir, name)
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes']
  await run(
    ['openssl', 'req', '-x509', ...key, '-days', '2', '-subj', '/CN=lab CA'].concat([
      '-keyout',
      at('ca.key'),
      '-out',
      at('ca.pem'),
    ]),
  )
  const sign = async (name: string, extensions: string): Promise<void> => {
    writeFileSync(at(`${name}.ext`), extensions)
    await run(
      ['openssl', 'req', ...key, '-subj', `/CN=${name}`, '-keyout', at(`${name}.key`)].concat([
        '-out',
        at(`${name}.csr`),
      ]),
    )
    await run(
      [
        'openssl',
        'x509',
        '-req',
        '-in',
        at(`${name}.csr`),
        '-CA',
        at('ca.pem'),
        '-CAkey',
        at('ca.key'),
      ].concat(['-CAcreateserial', '-days', '2', '-extfile', at(`${name}.ext`), '-out', at(`${name}.pem`)]),
    )
  }
  const names = ['IP:127.0.0.1', ...addresses.map((address) => `IP:${address}`)]
  await sign('server', `subjectAltName=${names.join(',')}\nextendedKeyUsage=serverAuth,clientAuth\n`)
  await sign('client', 'extendedKeyUsage=clientAuth\n')
  return {
    caFile: at('ca.pem'),
    serverCertFile: at('server.pem'),
    serverKeyFile: at('server.key'),
    clientCertFile: at('client.pem'),
    clientKeyFile: at('client.key'),
  }
}
