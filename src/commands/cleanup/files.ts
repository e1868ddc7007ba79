import { lstatSync, readdirSync, rmdirSync, rmSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { KEY_FILE } from '../../backend/wireguard/key.ts'
import type { Options } from '../../options.ts'
import { type Findings, quoted, type Step } from './step.ts'

/**
 * The files that the daemon wrote, with what a crash left of writing them; then their folder, if that is flannel's and
 * empty. A WireGuard key goes only from where the daemon keeps it by itself: where it was told to, it may have been put.
 */
export function fileFindings(
  { subnetFile, dockerOpts, controlSocket }: Pick<Options, 'subnetFile' | 'dockerOpts' | 'controlSocket'>,
  env: Readonly<Record<string, string | undefined>>,
): Findings {
  const folder = dirname(subnetFile)
  const { WIREGUARD_KEY_FILE: named } = env
  const files = [
    ...(dockerOpts === undefined ? [] : withTemporaries(dockerOpts.file)),
    ...(isSocket(controlSocket) ? [controlSocket] : []),
    ...(named || folder !== dirname(KEY_FILE) ? [] : keyFiles()),
    // The last, for it tells a further run what is ours.
    ...withTemporaries(subnetFile),
  ]
  const steps: Step[] = files.map((file) => ({
    removes: [file],
    commands: [`rm -f ${quoted(file)}`],
    run: () => rmSync(file, { force: true }),
  }))
  if (
    basename(folder) === 'flannel' &&
    entriesOf(folder)?.every((entry) => files.includes(join(folder, entry)))
  ) {
    steps.push({
      removes: [`${folder}/`],
      commands: [`rmdir ${quoted(folder)}`],
      run: () => rmdirSync(folder),
    })
  }
  const strangers =
    named && isThere(named)
      ? [`${named}: WIREGUARD_KEY_FILE names it, so it may be yours; rm ${quoted(named)}`]
      : []
  return { steps, strangers }
}

/** The file, if it is there, after the temporary ones beside it: `.NAME` of Go flannel, `.NAME.RANDOM` of ours. */
function withTemporaries(path: string): string[] {
  const temporary = (entry: string): boolean => {
    const rest = entry.slice(`.${basename(path)}`.length)
    return entry.startsWith(`.${basename(path)}`) && (rest === '' || /^\.[a-z0-9]{6,}$/.test(rest))
  }
  const folder = dirname(path)
  const left = (entriesOf(folder) ?? []).filter(temporary).sort()
  return [...left.map((entry) => join(folder, entry)), ...(isThere(path) ? [path] : [])]
}

function keyFiles(): string[] {
  const folder = dirname(KEY_FILE)
  const ours = new RegExp(`^${basename(KEY_FILE)}(\\.\\d+)?$`)
  return (entriesOf(folder) ?? []).filter((entry) => ours.test(entry)).map((entry) => join(folder, entry))
}

function entriesOf(folder: string): string[] | undefined {
  try {
    return readdirSync(folder)
  } catch {
    // Not there, or not ours to look into; then there is nothing in it to remove.
    return undefined
  }
}

function isThere(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false })?.isFile() === true
}

function isSocket(path: string): boolean {
  return path !== '' && lstatSync(path, { throwIfNoEntry: false })?.isSocket() === true
}
