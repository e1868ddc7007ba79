import type { Backend, BackendContext } from './backend/backend.ts'
import { BackendError } from './backend/backend.ts'

type Open = (context: BackendContext) => Backend | Promise<Backend>

/** The backends by `Backend.Type`; only the one in use is loaded. */
const BACKENDS: Readonly<Record<string, () => Promise<{ readonly openBackend: Open }>>> = {
  vxlan: () => import('./backend/vxlan/backend.ts'),
}

/** Opens the backend of this type (lower case). Rejects with a BackendError, DeviceError or NetlinkError. */
export async function openBackend(type: string, context: BackendContext): Promise<Backend> {
  const load = BACKENDS[type]
  if (load === undefined) {
    throw new BackendError(
      `Error fetching backend: unknown or unsupported backend type "${type}"; this flanneld has ` +
        `${Object.keys(BACKENDS).join(', ')}: set Backend.Type in the network config`,
    )
  }
  const { openBackend: open } = await load()
  return open(context)
}
