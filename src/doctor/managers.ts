import { join } from 'node:path'
import type { ManagerFacts } from './facts.ts'
import { list, read } from './programs.ts'

/** In systemd's order: a file in an earlier folder hides one of the same name in a later (systemd.network(5)). */
const FOLDERS = [
  'etc/systemd/network',
  'run/systemd/network',
  'usr/lib/systemd/network',
  'lib/systemd/network',
]

/** What there is of the device for a file to match. */
interface Matched {
  readonly device: string
  /** What systemd calls its type, any of them. */
  readonly types: readonly string[]
  /** As `ip -d link` calls it. */
  readonly kind: string
}

/** The programs that manage interfaces by themselves, below `root`, and what they would do with the device. */
export function readManagers(
  of: Matched & {
    readonly root: string
    readonly index: number | undefined
    readonly running: (program: string) => boolean
  },
): ManagerFacts {
  const { running } = of
  const network = firstMatch('.network', of)
  const keepsOff = network === undefined || /^Unmanaged\s*=\s*(yes|true|1|on)/im.test(network.text)
  const link = firstMatch('.link', of)
  const policy = /^MACAddressPolicy\s*=\s*(\S+)/m.exec(link?.text ?? '')?.[1]
  return {
    networkd: running('systemd-network') ? (keepsOff ? [] : [network.path]) : undefined,
    networkManager: running('NetworkManager') ? networkManager(of) : undefined,
    macPolicy: link === undefined || policy === undefined ? undefined : { file: link.path, policy },
  }
}

/** The first file by name that matches the device is the only one that counts. */
function firstMatch(
  ending: string,
  of: Matched & { readonly root: string },
): { path: string; text: string } | undefined {
  const { root } = of
  const files = new Map<string, string>()
  for (const folder of FOLDERS) {
    for (const name of list(join(root, folder))) {
      if (name.endsWith(ending) && !files.has(name)) files.set(name, join(root, folder, name))
    }
  }
  for (const [, path] of [...files].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const text = read(path)
    if (text !== undefined && matches(text, of)) return { path, text }
  }
  return undefined
}

/** Keys of [Match] that can be judged; one that cannot is taken not to match. */
function matches(text: string, { device, types, kind }: Matched): boolean {
  const section = /^\[Match\]\s*$([\s\S]*?)(?=^\[|(?![\s\S]))/m.exec(text)?.[1]
  if (section === undefined) return false
  const pairs = [...section.matchAll(/^\s*(\w+)\s*=\s*(.*?)\s*$/gm)].map(([, key = '', value = '']) => [
    key,
    value,
  ])
  return (
    pairs.length > 0 &&
    pairs.every(([key, value = '']) => {
      switch (key) {
        case 'Name':
        case 'OriginalName':
          return anyGlob(value, [device])
        case 'Type':
          return anyGlob(value, types)
        case 'Kind':
          return anyGlob(value, [kind])
        default:
          return false
      }
    })
  )
}

/** Globs with spaces between; one with `!` in front turns all of them round. */
function anyGlob(globs: string, words: readonly string[]): boolean {
  const not = globs.startsWith('!')
  const found = globs
    .slice(not ? 1 : 0)
    .split(/\s+/)
    .some((glob) => words.some((word) => globPattern(glob).test(word)))
  return found !== not
}

function globPattern(glob: string): RegExp {
  const source = glob
    .replaceAll(/[.+^${}()|\\]/g, '\\$&')
    .replaceAll('*', '.*')
    .replaceAll('?', '.')
  return new RegExp(`^${source}$`)
}

/** What it has noted of the device, else what its configuration says. */
function networkManager(of: {
  readonly root: string
  readonly index: number | undefined
}): ManagerFacts['networkManager'] {
  const noted =
    of.index === undefined ? undefined : read(join(of.root, `run/NetworkManager/devices/${of.index}`))
  const managed = /^managed=(\w+)/m.exec(noted ?? '')?.[1]
  if (managed !== undefined) return /^(true|full|1)$/.test(managed) ? 'managed' : 'unmanaged'
  const folders = [
    'etc/NetworkManager',
    'etc/NetworkManager/conf.d',
    'usr/lib/NetworkManager/conf.d',
    'run/NetworkManager/conf.d',
  ]
  const told = folders.some((folder) =>
    list(join(of.root, folder)).some(
      (name) =>
        name.endsWith('.conf') &&
        /^unmanaged-devices\s*=.*flannel/m.test(read(join(of.root, folder, name)) ?? ''),
    ),
  )
  return told ? 'unmanaged' : 'managed'
}
