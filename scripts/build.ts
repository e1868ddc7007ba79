import { chmodSync, copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { build, type Metafile, type Plugin } from 'esbuild'
import { buildAddon } from './build-addon.ts'
import { writeCodeCache } from './code-cache.ts'
import { commit, packageVersion } from './release.ts'

/**
 * Builds `dist/`: the daemon as one file with all that it imports, the addon, V8's code cache, and the files that an
 * operator installs beside it.
 */
const root = dirname(import.meta.dirname)
const dist = join(root, 'dist')

/** Bundles of their own, loaded when they are needed: few daemons need them, and every start reads the main one. */
const APART = ['tools', 'jsonlog', 'probe']

const apart: Plugin = {
  name: 'apart',
  setup({ onResolve }) {
    onResolve({ filter: new RegExp(`^\\./(${APART.join('|')})\\.ts$`) }, ({ path }) => ({
      path: path.replace(/ts$/, 'cjs'),
      external: true,
    }))
  },
}

/** What a browser gets goes into the bundle as text, in the place of the module that reads it from its folder. */
const pageFiles: Plugin = {
  name: 'page-files',
  setup({ onLoad }) {
    onLoad({ filter: /\/src\/page\/files\.ts$/ }, () => {
      const folder = join(root, 'src/page')
      const names = ['style.css', 'client.js', 'icon.svg']
      const texts = Object.fromEntries(names.map((name) => [name, readFileSync(join(folder, name), 'utf8')]))
      return {
        contents: `const texts = ${JSON.stringify(texts)}; export const pageFile = (name) => texts[name]`,
      }
    })
  },
}

/**
 * Parts of prom-client that are loaded with it and never run here: pushing, clusters of processes, exemplars of traces. They bring
 * TLS, compression and more along, 6 MB of a daemon that is scraped.
 */
const unusedMetrics: Plugin = {
  name: 'unused-metrics',
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /^(\.\/lib\/(pushgateway|cluster)|@opentelemetry\/api)$/ }, ({ path, importer }) =>
      importer.includes('/prom-client/') ? { path, namespace: 'unused' } : undefined,
    )
    onLoad({ filter: /./, namespace: 'unused' }, () => ({ contents: '' }))
  },
}

rmSync(dist, { recursive: true, force: true })
mkdirSync(dist)
const metafiles = [
  await bundle('src/main.ts', 'flanneld.cjs'),
  ...(await Promise.all(APART.map((name) => bundle(`src/${name}.ts`, `${name}.cjs`)))),
]
mkdirSync(join(root, 'build'), { recursive: true })
const outputs = Object.assign({}, ...metafiles.map((each) => each.outputs))
writeFileSync(join(root, 'build/bundle.json'), JSON.stringify({ outputs }))
copyFileSync(buildAddon(), join(dist, 'flannel.node'))
copyFileSync(join(root, 'bin/mk-docker-opts.sh'), join(dist, 'mk-docker-opts.sh'))
chmodSync(join(dist, 'mk-docker-opts.sh'), 0o755)
copyFileSync(join(root, 'systemd/flanneld.service'), join(dist, 'flanneld.service'))
copyFileSync(join(root, 'scripts/start.cjs'), join(dist, 'start.cjs'))
writeCodeCache([process.execPath], join(dist, 'flanneld.cache'))

/** One file of all that a source file imports; returns what esbuild tells of it. */
async function bundle(source: string, name: string): Promise<Metafile> {
  const { metafile } = await build({
    entryPoints: [join(root, source)],
    outfile: join(dist, name),
    bundle: true,
    platform: 'node',
    target: 'node22',
    format: 'cjs',
    minifySyntax: true,
    // Names stay, for a stack trace that somebody has to read.
    minifyWhitespace: true,
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
    plugins: [apart, pageFiles, unusedMetrics],
  })
  return metafile
}

/** Version of package.json, with the commit where there is one. */
function version(): string {
  const id = commit()
  return `v${packageVersion()}${id === undefined ? '' : ` (${id})`}`
}
