import { execFileSync } from 'node:child_process'
import { globSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { type Architecture, emulator, lockedPackage, nodePackage } from './architecture.ts'

const root = dirname(import.meta.dirname)

/** Something by others that a binary holds. */
export interface Part {
  readonly name: string
  readonly version: string
  /** SPDX identifier or expression. */
  readonly license: string
  /** The licence in full; '' for what another part's text covers. */
  readonly text: string
  /** https://github.com/package-url/purl-spec */
  readonly purl: string
  /** As in package-lock.json: `sha512-` and base64. */
  readonly integrity?: string
}

/** What the executable for an architecture is made of: Node, what Node is made of, and the npm packages in the bundle. */
export function partsOf(architecture: Architecture): Part[] {
  return [...nodeParts(architecture), ...bundledPackages()]
}

function nodeParts(architecture: Architecture): Part[] {
  const folder = nodePackage(architecture)
  const print = ['-p', 'JSON.stringify(process.versions)']
  const command = [...emulator(architecture), join(folder, 'bin/node'), ...print]
  const { node = '', ...others } = JSON.parse(
    execFileSync(command[0] ?? '', command.slice(1), { encoding: 'utf8' }),
  ) as Record<string, string>
  const { integrity } = lockedPackage(`node_modules/node-linux-${architecture.node}`)
  const text = readFileSync(join(folder, 'LICENSE'), 'utf8')
  return [
    { name: 'node', version: node, license: 'MIT', text, purl: `pkg:generic/node@${node}`, integrity },
    ...Object.entries(others)
      // The rest are versions of interfaces and of data, or of what was left out.
      .filter(
        ([name, version]) => version !== '' && !['modules', 'napi', 'cldr', 'tz', 'unicode'].includes(name),
      )
      .map(([name, version]) => ({
        name,
        version,
        license: NODE_LICENSES[name] ?? 'NOASSERTION',
        text: '',
        purl: `pkg:generic/${name}@${encodeURIComponent(version)}`,
      })),
  ]
}

/** SPDX, of the programs in Node by its own names for them; their texts are all in Node's LICENSE. */
const NODE_LICENSES: Readonly<Record<string, string>> = {
  ...Object.fromEntries(
    [
      'acorn',
      'ada',
      'amaro',
      'ares',
      'brotli',
      'llhttp',
      'merve',
      'nbytes',
      'ncrypto',
      'nghttp2',
      'simdutf',
    ].map((name) => [name, 'MIT']),
  ),
  ...{ undici: 'MIT', uv: 'MIT', uvwasi: 'MIT', v8: 'BSD-3-Clause', zlib: 'Zlib', zstd: 'BSD-3-Clause' },
  ...{ icu: 'Unicode-3.0', openssl: 'Apache-2.0', simdjson: 'Apache-2.0', sqlite: 'blessing' },
}

/** By what esbuild wrote down while it bundled. */
function bundledPackages(): Part[] {
  const { outputs } = JSON.parse(readFileSync(join(root, 'build/bundle.json'), 'utf8')) as {
    outputs: Readonly<Record<string, { inputs: Readonly<Record<string, { bytesInOutput: number }>> }>>
  }
  const folders = Object.values(outputs).flatMap(({ inputs }) =>
    Object.entries(inputs).flatMap(([file, { bytesInOutput }]) =>
      bytesInOutput === 0 ? [] : (/^.*node_modules\/(@[^/]+\/)?[^/]+(?=\/)/.exec(file)?.[0] ?? []),
    ),
  )
  return [...new Set(folders)].sort().map((folder) => {
    const { version, license = 'NOASSERTION', integrity } = lockedPackage(folder)
    const name = folder.slice(folder.lastIndexOf('node_modules/') + 'node_modules/'.length)
    const purl = `pkg:npm/${name.replace('@', '%40')}@${version}`
    return { name, version, license, text: licenceText(join(root, folder)), purl, integrity }
  })
}

/** Most packages have a file for it, a few end their README with it. Throws when there is neither. */
function licenceText(folder: string): string {
  const [file] = globSync(join(folder, '{LICENSE,LICENCE,license}*'))
  if (file !== undefined) return readFileSync(file, 'utf8')
  const [readme] = globSync(join(folder, '{README,readme}*'))
  const found = readme && /^(?:#+ )?License\n[\s\S]*/im.exec(readFileSync(readme, 'utf8'))?.[0]
  if (!found) throw new Error(`${folder} has no licence text`)
  return found
}
