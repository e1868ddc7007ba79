/**
 * node scripts/code-cache.cjs <bundle> <cache>: writes V8's code cache of the bundle with every function in it, not only
 * the outermost (`--no-lazy`). V8 refuses a cache made under other flags, so the flag holds for the compilation alone.
 */
const { readFileSync, writeFileSync } = require('node:fs')
const { setFlagsFromString } = require('node:v8')
const { Script } = require('node:vm')

const [, , bundle, cache] = process.argv
setFlagsFromString('--no-lazy')
const script = new Script(readFileSync(bundle, 'latin1'))
setFlagsFromString('--lazy')
writeFileSync(cache, script.createCachedData())
