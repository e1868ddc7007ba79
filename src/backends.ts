import type { Backend, BackendContext } from './backend/backend.ts'
import { BackendError } from './backend/backend.ts'

type Open = (context: BackendContext) => Backend | Promise<Backend>

/** The backends by `Backend.Type`; only the one in use is loaded. */
const BACKENDS = new Map<string, () => Promise<{ readonly openBackend: Open }>>([
  ['vxlan', () => import('./backend/vxlan/backend.ts')],
  ['host-gw', () => import('./backend/hostgw/backend.ts')],
  ['wireguard', () => import('./backend/wireguard/backend.ts')],
  ['ipip', () => import('./backend/ipip/backend.ts')],
  ['alloc', () => import('./backend/alloc/backend.ts')],
  ['extension', () => import('./backend/extension/backend.ts')],
  ['udp', () => import('./backend/udp/backend.ts')],
])

const CLOUD =
  'it needs the cloud\'s own API; use "vxlan", which needs nothing of the cloud, or "host-gw" where nodes share a link, ' +
  'or "alloc" where something else makes the routes'

/** What flannel has and this flanneld does not, and what to use in its place. */
const REFUSED = new Map([
  ['ipsec', 'it needs strongSwan\'s charon and a key in etcd; use "wireguard", which encrypts in the kernel'],
  ['aws-vpc', CLOUD],
  ['gce', CLOUD],
  ['ali-vpc', CLOUD],
  ['tencent-vpc', CLOUD],
])

/** Opens the backend of this type (lower case). Rejects with a BackendError, DeviceError or NetlinkError. */
export async function openBackend(type: string, context: BackendContext): Promise<Backend> {
  const load = BACKENDS.get(type)
  if (load === undefined) {
    const refused = REFUSED.get(type)
    const there = `this flanneld has ${[...BACKENDS.keys()].join(', ')}: set Backend.Type in the network config`
    throw new BackendError(
      refused === undefined
        ? `Error fetching backend: unknown or unsupported backend type "${type}"; ${there}`
        : `Error fetching backend: backend type "${type}" is not supported: ${refused} (${there})`,
    )
  }
  const { openBackend: open } = await load()
  return open(context)
}
