/** What a daemon says when something is wrong, and a config with which nothing is. */
import { readdirSync } from 'node:fs'
import { expect } from 'vitest'
import type { Daemon } from './lab.ts'
import { lines } from './namespace.ts'

export const GOOD = '{"Network":"172.30.0.0/16","SubnetLen":21,"Backend":{"Type":"vxlan"}}'

/** What the daemon wrote that is no information: everything of level warn and above, and everything without a level. */
export function complaints(daemon: Daemon): readonly string[] {
  return lines(daemon.log()).filter(
    (line) => !/^\S+ \S+ (info|debug) /.test(line) && line !== "Try 'flanneld -help' for all flags.",
  )
}

/** Exactly one complaint, with all of `parts` in it and no stack trace. */
export function expectOneLine(daemon: Daemon, parts: readonly (string | RegExp)[]): void {
  const found = complaints(daemon)
  expect(found).toHaveLength(1)
  for (const part of parts) expect(found[0]).toMatch(part)
  expect(daemon.log()).not.toMatch(/^\s+at |\\n\s+at |Error: .*Error: /m)
}

export function files(daemon: Daemon): readonly string[] {
  return readdirSync(daemon.runDir)
    .filter((name) => name !== 'log' && name !== 'notify')
    .sort()
}
