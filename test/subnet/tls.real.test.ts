import { copyFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { TlsFiles } from '../../src/subnet/etcd/tls.ts'
import { Certificates, type Pair } from './certificates.ts'
import { EtcdProcess } from './etcdprocess.ts'
import { attributes, LogLines, openClient, openRegistry, PREFIX, subnet } from './support.ts'

const signal = new AbortController().signal
const NO_FILES = { caFile: '', certFile: '', keyFile: '' }

async function listing(url: string, tls: Partial<TlsFiles>): Promise<string> {
  const client = openClient(url, { tls: { ...NO_FILES, ...tls } })
  try {
    return `${(await openRegistry(client).listLeases(signal)).leases.length} leases`
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error)
    expect(message).not.toMatch(/[\r\n]/)
    return message
  } finally {
    client.close()
  }
}

describe('a real etcd that asks for client certificates', () => {
  const certificates = new Certificates()
  let etcd: EtcdProcess
  let caFile: string
  let authority: Pair
  let stranger: Pair & { caFile: string }
  let client: Pair

  const serve = (server: Pair) =>
    EtcdProcess.start({
      scheme: 'https',
      flags: [
        ...['--cert-file', server.certFile, '--key-file', server.keyFile],
        ...['--client-cert-auth', '--trusted-ca-file', caFile],
      ],
    })

  beforeAll(async () => {
    const ca = certificates.authority('ca')
    authority = ca
    caFile = ca.caFile
    stranger = certificates.authority('stranger')
    client = certificates.issue('client', ca)
    etcd = await serve(certificates.issue('server', ca))
  })
  afterAll(async () => {
    await etcd?.remove()
    certificates.remove()
  })

  it('is read and written with the right ones', async () => {
    const kept = openClient(etcd.url, { tls: { caFile, ...client } })
    const lease = await openRegistry(kept).createLease(
      subnet('10.5.1.0/24'),
      attributes('192.168.77.1'),
      signal,
    )
    kept.close()
    expect(lease.ttl).toBe(86_400)
    expect(await listing(etcd.url, { caFile, ...client })).toBe('1 leases')
  })

  it.each<[string, () => Partial<TlsFiles>, RegExp]>([
    ['no CA file', () => client, /unknown CA: name that CA with -etcd-cafile/],
    ['another CA', () => ({ caFile: stranger.caFile, ...client }), /unknown CA|was not signed by the CA/],
    [
      'no client certificate',
      () => ({ caFile }),
      /refused our client certificate or wants one .*-etcd-certfile/,
    ],
    [
      'a client certificate of a stranger',
      () => ({ caFile, ...certificates.issue('imposter', stranger) }),
      /refused our client certificate or wants one/,
    ],
    [
      'an expired client certificate',
      () => ({ caFile, ...certificates.issue('old', authority, { expired: true }) }),
      /refused our client certificate or wants one/,
    ],
    [
      'a key that does not fit',
      () => ({ caFile, certFile: client.certFile, keyFile: certificates.issue('other', authority).keyFile }),
      /the TLS files for etcd cannot be used: .*belong together/,
    ],
  ])('is refused with %s, in one line that says what to do', async (_, tls, message) => {
    expect(await listing(etcd.url, tls())).toMatch(message)
  })

  it('is not spoken to in plain', async () => {
    expect(await listing(etcd.url.replace('https', 'http'), {})).toMatch(/HTTP 400|reset|ended|socket/)
  })

  it.each<[string, { san?: string; expired?: boolean }, RegExp]>([
    ['expired', { expired: true }, /certificate has expired/],
    ['for another name', { san: 'DNS:etcd.example' }, /use a host name that the server's certificate names/],
  ])('is not trusted with a server certificate that is %s', async (_, options, message) => {
    const other = await serve(certificates.issue('bad-server', authority, options))
    try {
      expect(await listing(other.url, { caFile, ...client })).toMatch(message)
    } finally {
      await other.remove()
    }
  })

  it('takes a replaced client certificate at the next connection, and no half-written one', async () => {
    const certFile = join(certificates.directory, 'live.pem')
    const keyFile = join(certificates.directory, 'live.key')
    const log = new LogLines()
    const install = (pair: Pair): void => {
      copyFileSync(pair.certFile, certFile)
      copyFileSync(pair.keyFile, keyFile)
    }
    install(certificates.issue('imposter-2', stranger))
    const live = openClient(etcd.url, { tls: { caFile, certFile, keyFile }, log })
    const registry = openRegistry(live)
    try {
      await expect(registry.listLeases(signal)).rejects.toThrow(/client certificate/)
      install(client)
      await expect(registry.listLeases(signal)).resolves.toBeDefined()
      writeFileSync(certFile, '-----BEGIN CERTIFICATE-----\nMIIB')
      await expect(registry.listLeases(signal)).resolves.toBeDefined()
      await expect(registry.listLeases(signal)).resolves.toBeDefined()
      expect(
        log.matching(/^warn The replaced TLS files for etcd cannot be used, keeping the previous ones/),
      ).toHaveLength(1)
      expect(log.matching(/^info The TLS files for etcd were replaced/)).toHaveLength(1)
      install(certificates.issue('client-2', authority))
      await expect(registry.listLeases(signal)).resolves.toBeDefined()
      expect(log.matching(/^info The TLS files for etcd were replaced/)).toHaveLength(2)
    } finally {
      live.close()
    }
  })
})

describe('a real etcd with authentication', () => {
  let etcd: EtcdProcess

  beforeAll(async () => {
    etcd = await EtcdProcess.start()
    const put = (path: string, body: unknown, authorization?: string) =>
      fetch(`${etcd.url}/v2/auth${path}`, {
        method: 'PUT',
        body: JSON.stringify(body),
        headers: {
          'Content-Type': 'application/json',
          ...(authorization === undefined ? {} : { authorization }),
        },
      })
    const root = `Basic ${btoa('root:secret')}`
    await put('/users/root', { user: 'root', password: 'secret' })
    await put('/enable', {})
    const permissions = { kv: { read: [`${PREFIX}/*`], write: [`${PREFIX}/*`] } }
    await put('/roles/flannel', { role: 'flannel', permissions }, root)
    await put('/users/flannel', { user: 'flannel', password: 'p w', roles: ['flannel'] }, root)
    await put('/roles/guest', { role: 'guest', revoke: { kv: { read: ['/*'], write: ['/*'] } } }, root)
  })
  afterAll(() => etcd?.remove())

  it.each([
    ['flannel', 'p w', undefined],
    ['flannel', 'wrong', /Insufficient credentials.*check -etcd-username and -etcd-password/],
    ['nobody', 'p w', /check -etcd-username and -etcd-password/],
    ['', '', /check -etcd-username and -etcd-password/],
  ])('user "%s" with "%s"', async (username, password, message) => {
    const client = openClient(etcd.url, { username, password })
    try {
      const created = openRegistry(client).createLease(
        subnet('10.5.1.0/24'),
        attributes('192.168.77.1'),
        signal,
      )
      if (message === undefined) await expect(created).resolves.toMatchObject({ ttl: 86_400 })
      else
        await expect(created).rejects.toMatchObject({ kind: 'auth', message: expect.stringMatching(message) })
    } finally {
      client.close()
    }
  })
})
