import { once } from 'node:events'
import { appendFileSync, chmodSync, copyFileSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer, request } from 'node:https'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { EtcdClient } from '../../src/subnet/etcd/client.ts'
import { TlsAgent, type TlsFiles } from '../../src/subnet/etcd/tls.ts'
import { Certificates, type IssueOptions, type Pair } from './certificates.ts'
import { EtcdProcess } from './etcdprocess.ts'
import { attributes, LogLines, openClient, openRegistry, PREFIX, subnet } from './support.ts'

const signal = new AbortController().signal
const NO_FILES = { caFile: '', certFile: '', keyFile: '' }

async function listing(url: string, tls: Partial<TlsFiles>): Promise<string> {
  let client: EtcdClient | undefined
  try {
    client = openClient(url, { tls: { ...NO_FILES, ...tls } })
    return `${(await openRegistry(client).listLeases(signal)).leases.length} leases`
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error)
    expect(message).not.toMatch(/[\r\n]/)
    return message
  } finally {
    client?.close()
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

  it.each<[string, () => Pair]>([
    ['an RSA key of 2048 bits', () => certificates.issue('flanneld', authority, { rsa: true })],
    ['an intermediate CA between, in the same file', () => throughIntermediate('chained')],
  ])('is read with %s', async (_, pair) => {
    expect(await listing(etcd.url, { caFile, ...pair() })).toMatch(/^\d leases$/)
  })

  function throughIntermediate(name: string): Pair {
    const intermediate = certificates.issue(`${name}-ca`, authority, { authority: true })
    const pair = certificates.issue(name, intermediate)
    appendFileSync(pair.certFile, readFileSync(intermediate.certFile))
    return pair
  }

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
      'a client certificate from the future',
      () => ({ caFile, ...certificates.issue('new', authority, { early: true }) }),
      /refused our client certificate or wants one/,
    ],
    ['a missing CA file', () => ({ ...client, caFile: '/nowhere' }), /^-etcd-cafile: ENOENT.*'\/nowhere'$/],
    ['a missing certificate', () => ({ caFile, ...client, certFile: '/nowhere' }), /^-etcd-certfile: ENOENT/],
    ['a missing key', () => ({ caFile, ...client, keyFile: '/nowhere' }), /^-etcd-keyfile: ENOENT/],
    // Root may read everything, but not a folder.
    ['a key that cannot be read', () => ({ caFile, ...client, keyFile: '/' }), /^-etcd-keyfile: EISDIR/],
    [
      'a key that is none',
      () => ({ caFile, ...client, keyFile: '/etc/passwd' }),
      /^-etcd-keyfile: .* not a PEM file$/,
    ],
    [
      'an encrypted key',
      () => ({ caFile, ...certificates.encrypt(client, 'pkcs8') }),
      /^-etcd-keyfile: .* is encrypted.*: decrypt it with openssl pkey -in/,
    ],
    [
      'an encrypted key of the older form',
      () => ({ caFile, ...certificates.encrypt(client, 'traditional') }),
      /^-etcd-keyfile: .* is encrypted.*: decrypt it with openssl pkey -in/,
    ],
    [
      'a key that does not fit',
      () => ({ caFile, certFile: client.certFile, keyFile: certificates.issue('other', authority).keyFile }),
      /the TLS files for etcd cannot be used: .*belong together/,
    ],
  ])('is refused with %s, in one line that says what to do', async (_, tls, message) => {
    expect(await listing(etcd.url, tls())).toMatch(message)
  })

  it('is trusted for an intermediate CA in the file, whose own is not', async () => {
    const intermediate = certificates.issue('between', authority, { authority: true })
    const other = await serve(certificates.issue('served', intermediate))
    try {
      expect(await listing(other.url, { caFile: intermediate.certFile, ...client })).toBe('0 leases')
    } finally {
      await other.remove()
    }
  })

  it('is not spoken to in plain', async () => {
    expect(await listing(etcd.url.replace('https', 'http'), {})).toMatch(/HTTP 400|reset|ended|socket/)
  })

  it.each([
    [
      'a key that everybody can read',
      0o644,
      {},
      /^warn -etcd-keyfile: every user of this machine can read .*: chmod 600 it/,
    ],
    [
      'a certificate that has expired',
      0o600,
      { expired: true },
      /^warn .*\(-etcd-certfile\) has expired on Jan +1 .* 2021/,
    ],
    [
      'a certificate from the future',
      0o600,
      { early: true },
      /^warn .*\(-etcd-certfile\) is not valid before Jan +1 .* 2099/,
    ],
  ])('warns of %s, once', async (name, mode, options, warning) => {
    const pair = certificates.issue(`warned-${name.replaceAll(' ', '-')}`, authority, options)
    chmodSync(pair.keyFile, mode)
    const log = new LogLines()
    const noisy = openClient(etcd.url, { tls: { caFile, ...pair }, log })
    for (let i = 0; i < 2; i++) {
      await openRegistry(noisy)
        .listLeases(signal)
        .catch(() => undefined)
    }
    noisy.close()
    expect(log.matching(warning)).toHaveLength(1)
    expect(log.matching(/^warn/)).toHaveLength(1)
  })

  it.each([
    ['by its name', { san: 'DNS:localhost' }, 'localhost'],
    ['with an RSA key, by its address', { san: 'IP:127.0.0.1', rsa: true }, '127.0.0.1'],
  ])('trusts a server %s', async (_, options, host) => {
    const server = await serve(certificates.issue('good-server', authority, options))
    try {
      expect(await listing(server.url.replace('127.0.0.1', host), { caFile, ...client })).toBe('0 leases')
    } finally {
      await server.remove()
    }
  })

  it.each<[string, IssueOptions, RegExp]>([
    ['not valid yet', { early: true }, /certificate is not valid yet: check this machine's clock/],
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

it('questions that come together share one agent', async () => {
  const certificates = new Certificates()
  try {
    const { caFile, ...authority } = certificates.authority('ca')
    const { certFile, keyFile } = certificates.issue('client', authority)
    const log = new LogLines()
    const tls = new TlsAgent({ caFile, certFile, keyFile }, log)
    const [first, second] = await Promise.all([tls.agent(), tls.agent()])
    expect(second).toBe(first)
    expect(log.lines).toEqual([])
    expect(await tls.agent()).toBe(first)
    tls.close()
  } finally {
    certificates.remove()
  }
})

it('no connection of before is kept, once the files were replaced and its last answer is there', async () => {
  const certificates = new Certificates()
  const { caFile, ...authority } = certificates.authority('ca')
  const [pair, next] = ['client', 'client-2'].map((name) => certificates.issue(name, authority))
  const own = certificates.issue('server', authority)
  const server = createServer({ cert: readFileSync(own.certFile), key: readFileSync(own.keyFile) })
  try {
    await once(server.listen(0, '127.0.0.1'), 'listening')
    const files = { caFile, certFile: pair?.certFile ?? '', keyFile: pair?.keyFile ?? '' }
    const tls = new TlsAgent(files, new LogLines())
    const { port } = server.address() as AddressInfo
    const asked = request({ host: '127.0.0.1', port, agent: await tls.agent() }).end()
    const [{ socket }, answer] = await once(server, 'request')
    copyFileSync(next?.certFile ?? '', files.certFile)
    copyFileSync(next?.keyFile ?? '', files.keyFile)
    await tls.agent()
    answer.end()
    const [response] = await once(asked, 'response')
    response.resume()
    await once(socket, 'close', { signal: AbortSignal.timeout(1_000) })
    tls.close()
  } finally {
    server.close()
    server.closeAllConnections()
    certificates.remove()
  }
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
