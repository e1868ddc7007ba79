import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'

const root = dirname(import.meta.dirname)

/** The version in package.json, without a `v`. */
export function packageVersion(): string {
  return (JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string }).version
}

/** The commit's first twelve digits; undefined where there is no git. */
export function commit(): string | undefined {
  return git('rev-parse', '--short=12', 'HEAD')
}

/** What archives give as the time of every file, in seconds since the epoch: $SOURCE_DATE_EPOCH, else the commit's. */
export function releaseTime(): number {
  return Number(process.env.SOURCE_DATE_EPOCH ?? git('log', '-1', '--format=%ct') ?? 0)
}

function git(...args: string[]): string | undefined {
  try {
    return execFileSync('git', ['-C', root, ...args], { stdio: ['ignore', 'pipe', 'ignore'] })
      .toString()
      .trim()
  } catch {
    return undefined
  }
}
