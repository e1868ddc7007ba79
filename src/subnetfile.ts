import { readFileSync } from 'node:fs'
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
