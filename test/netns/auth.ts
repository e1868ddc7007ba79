import type { Lab } from './lab.ts'

/** Two users of etcd's v2 authentication. */
export const ROOT = 'root:the root password'
export const FLANNEL = { username: 'flannel', password: 'pass:word' } as const

/**
 * Turns etcd's own authentication on: `FLANNEL` may do all below /coreos.com, who comes without a name may do nothing.
 * From then on the lab's own requests are refused; see `asRoot`.
 */
export async function enableAuth(lab: Lab): Promise<void> {
  const all = { kv: { read: ['/coreos.com/*'], write: ['/coreos.com/*'] } }
  await asRoot(lab, 'PUT', '/v2/auth/users/root', { user: 'root', password: ROOT.slice('root:'.length) })
  await asRoot(lab, 'PUT', '/v2/auth/roles/flannel', { role: 'flannel', permissions: all })
  await setPassword(lab, FLANNEL.password)
  await asRoot(lab, 'PUT', '/v2/auth/enable')
  const guest = { kv: { read: ['/*'], write: ['/*'] } }
  await asRoot(lab, 'PUT', '/v2/auth/roles/guest', { role: 'guest', revoke: guest })
}

/** Makes the user `FLANNEL`, or gives it another password. */
export async function setPassword(lab: Lab, password: string): Promise<void> {
  const { username: user } = FLANNEL
  await asRoot(lab, 'PUT', `/v2/auth/users/${user}`, { user, password })
  await asRoot(lab, 'PUT', `/v2/auth/users/${user}`, { user, grant: ['flannel'] }).catch(() => undefined)
}

/** One request to etcd as root; resolves to the text of the answer, rejects when it is refused. */
export async function asRoot(lab: Lab, method: string, path: string, body?: object): Promise<string> {
  const json = body === undefined ? [] : ['-H', 'Content-Type: application/json', '-d', JSON.stringify(body)]
  return lab.switch.run(
    'curl',
    '-sS',
    '-f',
    '-u',
    ROOT,
    '-X',
    method,
    ...json,
    `${lab.etcd.endpoints}${path}`,
  )
}
