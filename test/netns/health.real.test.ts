/** /readyz goes back for each thing that it promises, names it, and comes again; /healthz stays what it is. */
import { afterEach, beforeEach, expect, test } from 'vitest'
import { asRoot, enableAuth, FLANNEL } from './auth.ts'
import { type Daemon, Lab, peerLeases, waitFor } from './lab.ts'

const PORT = 10_403
const CONFIG = {
  Network: '100.64.0.0/10',
  SubnetLen: 24,
  SubnetMin: '100.124.0.0',
  Backend: { Type: 'vxlan' },
}
const READY = [200, 'flanneld is ready'] as const

let lab: Lab

beforeEach(async () => {
  lab = await Lab.create()
  await lab.startEtcd()
})
afterEach(() => lab?.close())

const daemon = (...args: string[]): Promise<Daemon> =>
  lab.daemon(1, { args: ['-healthz-port', String(PORT), ...args] })

async function get(path: string): Promise<[number, string]> {
  const url = `http://127.0.0.1:${PORT}${path}`
  // Nobody listens at the very beginning.
  const text = await lab
    .node(1)
    .run('curl', '-s', '-w', '\n%{http_code}', url)
    .catch(() => '\n0')
  const end = text.lastIndexOf('\n')
  return [Number(text.slice(end + 1)), text.slice(0, end).trim()]
}

/** Waits for what /readyz has to say, while /healthz says what it always does. */
async function expectReadyz(wanted: readonly [number, string | RegExp], timeout = 20_000): Promise<void> {
  let seen: readonly [number, string] = [0, '']
  await waitFor(
    async () => {
      seen = await get('/readyz')
      return seen[0] === wanted[0] && seen[1].match(wanted[1]) !== null
    },
    { what: () => `/readyz to be ${wanted.join(' ')}, not ${seen.join(' ')}`, timeout },
  )
  expect(await get('/healthz')).toEqual([200, 'flanneld is running'])
}

test('while there is no config, and then until the first list of leases is applied', async () => {
  await daemon()
  await expectReadyz([503, /^not running yet: waiting for config$/])
  await lab.etcd.config(CONFIG)
  await expectReadyz(READY)
})

test('while the kernel refuses entries of a table', async () => {
  await lab.etcd.config(CONFIG)
  await lab.etcd.seed(peerLeases(3))
  // A device that learns no more than one address has no room for the others.
  await lab
    .node(1)
    .ip(
      `link add flannel.1 type vxlan id 1 dstport 8472 nolearning maxaddress 1 local ${lab.address(1)} dev eth0`,
    )
  await daemon()
  await expectReadyz([503, /^2 entries of table fdb are refused$/])
  await lab.node(1).ip('link del flannel.1')
  await expectReadyz(READY)
})

test('while the lease is gone and cannot be claimed again', async () => {
  await lab.etcd.config(CONFIG)
  const { username, password } = FLANNEL
  const one = await daemon('-etcd-username', username, '-etcd-password', password)
  await expectReadyz(READY)
  // Whoever looks after etcd takes the right to write away; the lease is deleted, and cannot be claimed again.
  await enableAuth(lab)
  const write = { kv: { read: [], write: ['/coreos.com/*'] } }
  await asRoot(lab, 'PUT', '/v2/auth/roles/flannel', { role: 'flannel', revoke: write })
  const key = `/v2/keys/coreos.com/network/subnets/${one.leaseKey()}`
  await asRoot(lab, 'DELETE', key)
  await expectReadyz([503, /^the lease has expired or was deleted$/])
  await asRoot(lab, 'PUT', '/v2/auth/roles/flannel', { role: 'flannel', grant: write })
  await expectReadyz(READY, 40_000)
})
