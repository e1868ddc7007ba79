import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { gzipSync } from 'node:zlib'
import { type Architecture, architectures } from './architecture.ts'
import { partsOf } from './inside.ts'
import { renderManPage } from './manpage.ts'
import { packageVersion, releaseTime } from './release.ts'
import { renderLicences, renderSbom } from './sbom.ts'

/**
 * Packs `out/flanneld_<version>_<architecture>.deb` from the executables in `out/` and the files in `packaging/`, with dpkg-deb
 * alone. The same sources make the same bytes.
 *
 *     node scripts/deb.ts [amd64] [arm64]
 */
const root = dirname(import.meta.dirname)
const out = join(root, 'out')
const time = releaseTime()

/**
 * Who answers for the package, from the variables of Debian's own tools (debchange(1)). Without them nobody in particular: RFC
 * 2606 keeps .invalid from ever being somebody's.
 */
const { DEBFULLNAME = 'flanneld maintainers', DEBEMAIL = 'maintainers@flanneld.invalid' } = process.env
const maintainer = `${DEBFULLNAME} <${DEBEMAIL}>`

/** Where each file of `packaging/` goes. */
const FILES = {
  default: 'etc/default/flanneld',
  'docker.conf': 'usr/lib/systemd/system/docker.service.d/10-flannel.conf',
  'networkd.link': 'usr/lib/systemd/network/50-flannel.link',
  'networkd.network': 'usr/lib/systemd/network/50-flannel.network',
  'networkmanager.conf': 'usr/lib/NetworkManager/conf.d/10-flannel.conf',
  'lintian-overrides': 'usr/share/lintian/overrides/flanneld',
}

/** Packs the executable `binary` into the package `target`. Without compression that takes a second instead of a minute. */
export function buildPackage(
  architecture: Architecture,
  binary: string,
  target: string,
  { version = packageVersion(), compress = true } = {},
): void {
  const tree = `${target}.tree`
  rmSync(tree, { recursive: true, force: true })
  const write = (path: string, content: string | Buffer, mode = 0o644): void => {
    mkdirSync(join(tree, dirname(path)), { recursive: true })
    writeFileSync(join(tree, path), content)
    chmodSync(join(tree, path), mode)
  }
  const packaging = (name: string): Buffer => readFileSync(join(root, 'packaging', name))
  const parts = partsOf(architecture)
  const debianVersion = debianVersionOf(version)

  mkdirSync(join(tree, 'usr/bin'), { recursive: true })
  copyFileSync(binary, join(tree, 'usr/bin/flanneld'))
  chmodSync(join(tree, 'usr/bin/flanneld'), 0o755)
  write('usr/bin/mk-docker-opts.sh', readFileSync(join(root, 'bin/mk-docker-opts.sh')), 0o755)
  write('usr/lib/systemd/system/flanneld.service', readFileSync(join(root, 'systemd/flanneld.service')))
  for (const [name, path] of Object.entries(FILES)) write(path, packaging(name))
  write('usr/share/man/man8/flanneld.8.gz', gzipSync(renderManPage(version), { level: 9 }))
  write('usr/share/man/man8/mk-docker-opts.sh.8.gz', gzipSync(packaging('mk-docker-opts.sh.8'), { level: 9 }))
  const doc = 'usr/share/doc/flanneld'
  write(`${doc}/copyright`, copyright())
  write(`${doc}/THIRD-PARTY-LICENSES.gz`, gzipSync(renderLicences(parts), { level: 9 }))
  write(`${doc}/sbom.cdx.json`, renderSbom({ version, architecture: architecture.name, time, parts }))
  write(`${doc}/changelog.gz`, gzipSync(changelog(debianVersion), { level: 9 }))
  write(`${doc}/NEWS.gz`, gzipSync(readFileSync(join(root, 'CHANGELOG.md')), { level: 9 }))

  const files = filesUnder(tree)
  const size = files.reduce((sum, file) => sum + Math.ceil(statSync(join(tree, file)).size / 1024), 0)
  const md5 = (file: string): string =>
    createHash('md5')
      .update(readFileSync(join(tree, file)))
      .digest('hex')
  write('DEBIAN/md5sums', files.map((file) => `${md5(file)}  ${file}\n`).join(''))
  write('DEBIAN/conffiles', '/etc/default/flanneld\n')
  write('DEBIAN/control', control(architecture, debianVersion, size))
  for (const script of ['postinst', 'prerm', 'postrm']) write(`DEBIAN/${script}`, packaging(script), 0o755)
  const compression = compress ? ['-Zxz', '-z2'] : ['-Znone']
  execFileSync('dpkg-deb', ['--root-owner-group', ...compression, '--build', tree, target], {
    env: { ...process.env, SOURCE_DATE_EPOCH: String(time) },
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  rmSync(tree, { recursive: true })
}

/** `1.2.0-rc.1` comes before `1.2.0`, which Debian spells with a tilde. */
function debianVersionOf(version: string): string {
  return version.replace('-', '~')
}

function control({ name }: Architecture, version: string, size: number): string {
  return `Package: flanneld
Version: ${version}
Architecture: ${name}
Maintainer: ${maintainer}
Installed-Size: ${size}
Depends: libc6 (>= 2.28), libgcc-s1, libstdc++6 (>= 6), iptables
Suggests: docker.io | docker-ce, etcd-server
Provides: flannel
Conflicts: flannel
Section: net
Priority: optional
Homepage: https://github.com/flannel-io/flannel
Description: layer 3 network between the containers of several hosts
 flanneld runs on every host of a cluster. It takes the network config from etcd
 (v2 API), leases a subnet there, and keeps a VXLAN device with a route, an ARP
 and an FDB entry for every other host, firewall rules for masquerading, and the
 files that Docker reads its bridge address and MTU from.
 .
 It is a drop-in replacement for the daemon of flannel 0.11, and repairs
 what somebody else deletes or changes.
`
}

/** https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/ */
function copyright(): string {
  return `Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: flanneld

Files: *
Copyright: 2026 the flanneld authors
License: Apache-2.0
Comment: /usr/bin/flanneld holds Node.js and other programs; their licences are in
 /usr/share/doc/flanneld/THIRD-PARTY-LICENSES.gz, and sbom.cdx.json lists them.

License: Apache-2.0
 On Debian systems the text is in /usr/share/common-licenses/Apache-2.0.
`
}

function changelog(version: string): string {
  const date = new Date(time * 1000).toUTCString().replace('GMT', '+0000')
  return `flanneld (${version}) unstable; urgency=medium

  * See NEWS.gz.

 -- ${maintainer}  ${date}
`
}

function filesUnder(tree: string): string[] {
  return readdirSync(tree, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(tree, join(entry.parentPath, entry.name)))
    .sort()
}

if (import.meta.main) {
  for (const architecture of architectures.filter(({ name }) => process.argv.includes(name))) {
    const target = join(out, `flanneld_${debianVersionOf(packageVersion())}_${architecture.name}.deb`)
    buildPackage(architecture, join(out, `flanneld-linux-${architecture.name}`), target)
    process.stdout.write(`${target}\n`)
  }
}
