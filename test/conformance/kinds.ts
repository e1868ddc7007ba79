import { spawnSync } from 'node:child_process'

/** Whether this kernel can make a device of this kind, or load the module for it. Takes root. */
export function kernelHas(kind: string): boolean {
  const script = `ip link add probe0 type ${kind}`
  return spawnSync('unshare', ['--net', 'sh', '-c', script], { stdio: 'ignore' }).status === 0
}
