import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  unlinkSync,
  writeSync,
} from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { formatIpv4, formatSubnet, parseCidr, type Subnet, subnetOf } from './ip.ts'

/** What subnet.env tells docker, CNI plugins and our own next start. */
export interface SubnetFileContent {
  readonly network: Subnet
  /** The leased subnet; the file names its first usable address, which is meant for the bridge. */
  readonly subnet: Subnet
  readonly mtu: number
  readonly ipMasq: boolean
}

/** The four lines of subnet.env, byte for byte as flannel writes them. */
export function renderSubnetFile(content: SubnetFileContent): string {
  const { network, subnet } = content
  return [
    `FLANNEL_NETWORK=${formatSubnet(network)}`,
    `FLANNEL_SUBNET=${formatIpv4((subnet.address + 1) >>> 0)}/${subnet.length}`,
    `FLANNEL_MTU=${content.mtu}`,
    `FLANNEL_IPMASQ=${content.ipMasq}`,
    '',
  ].join('\n')
}

/**
 * Puts a file in place so that a reader, or a power cut, finds either the old or the new bytes: temporary file in
 * the same folder, fsync, rename, fsync of the folder. Missing folders are made (0755); the file's mode is 0644
 * less the umask. A file that already has these bytes is left alone. Throws node's file system errors.
 */
export function writeFileAtomically(path: string, text: string): void {
  const wanted = Buffer.from(text)
  if (readIfThere(path)?.equals(wanted)) return
  const directory = dirname(path)
  makeFolder(directory)
  // Two daemons given one file by mistake must not write into each other's temporary file; in containers even
  // their process ids may be the same.
  const temporary = join(directory, `.${basename(path)}.${Math.random().toString(36).slice(2)}`)
  try {
    writeAndSync(temporary, wanted)
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

function writeAndSync(path: string, bytes: Buffer): void {
  const file = openSync(path, 'wx', 0o644)
  try {
    for (let written = 0; written < bytes.length; ) written += writeSync(file, bytes, written)
    fsyncSync(file)
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

/** What a previous run left. `problems` are lines for the log; a missing file is none. */
export interface PreviousSubnetFile {
  readonly network: Subnet | undefined
  readonly subnet: Subnet | undefined
  readonly problems: readonly string[]
}

/** Reads subnet.env back. Whatever the file holds, this returns: a value that cannot be read is not there. */
export function readSubnetFile(path: string): PreviousSubnetFile {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : String(error)
    const problems =
      code === 'ENOENT' || code === 'ENOTDIR'
        ? []
        : [`Couldn't fetch previous FLANNEL_SUBNET from subnet file at ${path}: ${code}`]
    return { network: undefined, subnet: undefined, problems }
  }
  const variables = parseDotenv(text)
  if (typeof variables === 'string') {
    const problem = `Couldn't fetch previous FLANNEL_SUBNET from subnet file at ${path}: ${variables}`
    return { network: undefined, subnet: undefined, problems: [problem] }
  }
  const problems: string[] = []
  const prefix = (name: string): Subnet | undefined => {
    const value = variables.get(name)
    if (value === undefined || value === '') return undefined
    const cidr = parseCidr(value)
    if (cidr !== undefined) return subnetOf(cidr.address, cidr.length)
    problems.push(
      `Couldn't parse previous ${name} from subnet file at ${path}: ${JSON.stringify(value)} is no IPv4 prefix`,
    )
    return undefined
  }
  return { network: prefix('FLANNEL_NETWORK'), subnet: prefix('FLANNEL_SUBNET'), problems }
}

/**
 * A lenient dotenv reader, as flannel's: blank lines, comments, `export`, `KEY=VALUE` or `KEY: VALUE`, optional
 * quotes. One line that is none of these spoils the file, and the reason is returned instead: half a file may be
 * another program's.
 */
export function parseDotenv(text: string): ReadonlyMap<string, string> | string {
  const variables = new Map<string, string>()
  for (const raw of text.split(/\r?\n/)) {
    const line = raw.trim()
    if (line === '' || line.startsWith('#')) continue
    const separator = line.search(/[=:]/)
    if (separator < 0) return `Can't separate key from value in ${JSON.stringify(line.slice(0, 80))}`
    const key = line
      .slice(0, separator)
      .replace(/^export\s+/, '')
      .trim()
    variables.set(key, unquote(line.slice(separator + 1).trim()))
  }
  return variables
}

function unquote(value: string): string {
  const quoted = /^(?:"([^"]*)"|'([^']*)')\s*(?:#.*)?$/.exec(value)
  if (quoted !== null) return quoted[1] ?? quoted[2] ?? ''
  return value.replace(/\s+#.*$/, '')
}
