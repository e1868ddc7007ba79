import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { architectures } from './architecture.ts'
import { partsOf } from './inside.ts'
import { packageVersion, releaseTime } from './release.ts'
import { renderLicences, renderSbom } from './sbom.ts'

/**
 * Packs `out/flannel-v<version>-linux-<architecture>.tar.gz` from the executables in `out/`, with what flannel's own archives
 * have at the top, flanneld and mk-docker-opts.sh, and beside them the licences and the bill of materials of what is inside;
 * and `out/sha256sums.txt`. The same sources make the same bytes.
 *
 *     node scripts/dist.ts [amd64] [arm64]
 */
const root = dirname(import.meta.dirname)
const out = join(root, 'out')
const version = packageVersion()
const time = releaseTime()

const wanted = architectures.filter(({ name }) => process.argv.includes(name))
const made = wanted.flatMap((architecture) => {
  const name = `flannel-v${version}-linux-${architecture.name}`
  const folder = join(root, 'build/dist', name)
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  const parts = partsOf(architecture)
  copyFileSync(join(out, `flanneld-linux-${architecture.name}`), join(folder, 'flanneld'))
  for (const file of ['mk-docker-opts.sh', 'flanneld.service'])
    copyFileSync(join(root, 'dist', file), join(folder, file))
  for (const file of ['README.md', 'LICENSE']) copyFileSync(join(root, file), join(folder, file))
  writeFileSync(join(folder, 'THIRD-PARTY-LICENSES'), renderLicences(parts))
  const sbom = renderSbom({ version, architecture: architecture.name, time, parts })
  writeFileSync(join(folder, 'sbom.cdx.json'), sbom)
  writeFileSync(join(out, `${name}.cdx.json`), sbom)
  execFileSync('tar', [
    ...[
      '--create',
      '--file',
      join(out, `${name}.tar.gz`),
      '--use-compress-program',
      'gzip -n',
      '--directory',
      folder,
    ],
    ...[
      '--format=gnu',
      '--sort=name',
      '--owner=root:0',
      '--group=root:0',
      '--numeric-owner',
      `--mtime=@${time}`,
    ],
    ...['--mode=u+rw,go-w,a+rX', '.'],
  ])
  return [`${name}.tar.gz`, `${name}.cdx.json`]
})
const sums = made.map((name) => `${sha256(join(out, name))}  ${name}\n`).join('')
writeFileSync(join(out, 'sha256sums.txt'), sums)
process.stdout.write(sums)

function sha256(path: string): string {
  return createHash('sha256').update(readFileSync(path)).digest('hex')
}
