/** How files are put in place, whatever they hold. */
import {
  closeSync,
  constants,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  statSync,
  unlinkSync,
  writeSync,
} from 'node:fs'
import { basename, dirname, join } from 'node:path'

/**
 * Puts a file in place so that a reader, or a power cut, finds either the old or the new bytes: temporary file in
 * the same folder, fsync, rename, fsync of the folder. Missing folders are made (0755); the file's mode is 0644
 * less the umask. A file that already has these bytes is left alone. What stands there and is no file, such as /dev/null, is
 * written to: a rename would take it from everybody. Throws node's file system errors.
 */
export function writeFileAtomically(path: string, text: string): void {
  const wanted = Buffer.from(text)
  const there = statSync(path, { throwIfNoEntry: false })
  if (there !== undefined && !there.isFile() && !there.isDirectory()) {
    // Nobody may be at the other end of a pipe.
    writeAll(openSync(path, constants.O_WRONLY | constants.O_NONBLOCK), wanted)
    return
  }
  if (readIfThere(path)?.equals(wanted)) return
  const directory = dirname(path)
  makeFolder(directory)
  // Two daemons given one file by mistake must not write into each other's temporary file; in containers even
  // their process ids may be the same.
  const temporary = join(directory, `.${basename(path)}.${Math.random().toString(36).slice(2)}`)
  try {
    writeAll(openSync(temporary, 'wx', 0o644), wanted, fsyncSync)
    renameSync(temporary, path)
  } catch (error) {
    removeIfThere(temporary)
    throw error
  }
  const folder = openSync(directory, 'r')
  try {
    fsyncSync(folder)
  } finally {
    closeSync(folder)
  }
}

/** With its parents. Node's own `recursive` spins for ever where mkdir(2) answers ENOENT below a folder that exists, as /proc does. */
export function makeFolder(path: string): void {
  if (existsSync(path)) return
  makeFolder(dirname(path))
  try {
    mkdirSync(path, { mode: 0o755 })
  } catch (error) {
    // Somebody else may have made it just now.
    if (!existsSync(path)) throw error
  }
}

function writeAll(file: number, bytes: Buffer, sync: (file: number) => void = () => undefined): void {
  try {
    for (let written = 0; written < bytes.length; ) written += writeSync(file, bytes, written)
    sync(file)
  } finally {
    closeSync(file)
  }
}

function readIfThere(path: string): Buffer | undefined {
  try {
    return readFileSync(path)
  } catch {
    // Absent or unreadable: the write that follows reports what matters.
    return undefined
  }
}

function removeIfThere(path: string): void {
  try {
    unlinkSync(path)
  } catch {
    // The error that led here is the one to report.
  }
}
