import { spawnSync } from 'node:child_process'

/** Whether this kernel can make a device of this kind, or load the module for it. Takes root. */
export function kernelHas(kind: string): boolean {
  // With the module comes a first ipip device, which has every address already.
  const words = kind === 'ipip' ? 'ipip remote 192.0.2.1' : kind
  const script = `ip link add probe0 type ${words}`
  return spawnSync('unshare', ['--net', 'sh', '-c', script], { stdio: 'ignore' }).status === 0
}
