import { chmodSync, copyFileSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { build } from 'esbuild'
import { buildAddon } from './build-addon.ts'
import { writeCodeCache } from './code-cache.ts'
import { commit, packageVersion } from './release.ts'

/**
 * Builds `dist/`: the daemon as one file with all that it imports, the addon, V8's code cache, and the files that an
 * operator installs beside it.
 */
const root = dirname(import.meta.dirname)
const dist = join(root, 'dist')

rmSync(dist, { recursive: true, force: true })
mkdirSync(dist)
const { metafile } = await build({
  entryPoints: [join(root, 'src/main.ts')],
  outfile: join(dist, 'flanneld.cjs'),
  bundle: true,
  platform: 'node',
  target: 'node22',
  format: 'cjs',
  minifySyntax: true,
  legalComments: 'none',
  charset: 'ascii',
  // A script has no way to import; what is imported late becomes a require.
  supported: { 'dynamic-import': false },
  // start.cjs runs it as a script, because only a script takes a code cache; so it brings its own function along.
  banner: { js: '(function (exports, require, module, __filename, __dirname) {' },
  footer: { js: '})' },
  define: { VERSION: JSON.stringify(version()), 'import.meta.dirname': '__dirname' },
  logLevel: 'warning',
  metafile: true,
})
mkdirSync(join(root, 'build'), { recursive: true })
writeFileSync(join(root, 'build/bundle.json'), JSON.stringify(metafile))
copyFileSync(buildAddon(), join(dist, 'flannel.node'))
copyFileSync(join(root, 'bin/mk-docker-opts.sh'), join(dist, 'mk-docker-opts.sh'))
chmodSync(join(dist, 'mk-docker-opts.sh'), 0o755)
copyFileSync(join(root, 'systemd/flanneld.service'), join(dist, 'flanneld.service'))
copyFileSync(join(root, 'scripts/start.cjs'), join(dist, 'start.cjs'))
writeCodeCache([process.execPath], join(dist, 'flanneld.cache'))

/** Version of package.json, with the commit where there is one. */
function version(): string {
  const id = commit()
  return `v${packageVersion()}${id === undefined ? '' : ` (${id})`}`
}
