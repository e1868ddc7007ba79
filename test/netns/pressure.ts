import { readFileSync } from 'node:fs'

/**
 * Milliseconds since boot in which something that could run had to wait for a processor (proc_pressure(5)); undefined where
 * the kernel does not count them.
 */
export function stalled(): number | undefined {
  try {
    const total = /^some .* total=(\d+)$/m.exec(readFileSync('/proc/pressure/cpu', 'utf8'))?.[1]
    return total === undefined ? undefined : Number(total) / 1000
  } catch {
    return undefined
  }
}
