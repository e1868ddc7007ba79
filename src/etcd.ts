import type { Logger } from './log.ts'
import type { Options } from './options.ts'
import { readPasswordFile } from './secrets.ts'
import { EtcdClient } from './subnet/etcd/client.ts'
import { parseEndpoints } from './subnet/etcd/endpoints.ts'

/**
 * A client for etcd as the options have it, with the password out of the file or credential that holds it. Throws an
 * EndpointError, PasswordFileError or TlsFilesError for what cannot work; nothing is sent yet.
 */
export function openEtcd(
  { etcd }: Pick<Options, 'etcd'>,
  env: Readonly<Record<string, string | undefined>>,
  log: Logger,
): EtcdClient {
  return new EtcdClient({
    endpoints: parseEndpoints(etcd.endpoints),
    username: etcd.username,
    password: etcd.password.reveal() || readPasswordFile(etcd.passwordFile, env, log),
    tls: { caFile: etcd.caFile, certFile: etcd.certFile, keyFile: etcd.keyFile },
    log,
  })
}
