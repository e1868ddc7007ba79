import { expect, it } from 'vitest'
import { architectures, isNative } from '../../scripts/architecture.ts'
import { partsOf } from '../../scripts/inside.ts'
import { renderLicences, renderSbom } from '../../scripts/sbom.ts'

/** SPDX identifiers of licences that let a binary be passed on when it carries their texts. */
const PERMITTED = [
  ...['MIT', 'ISC', '0BSD', 'BSD-2-Clause', 'BSD-3-Clause', 'Apache-2.0', 'Zlib', 'Unicode-3.0', 'blessing'],
  'BlueOak-1.0.0',
]

const native = architectures.filter(isNative)

it.each(native)(
  'every part of the $name executable has a licence that lets us ship it, and its text',
  (native) => {
    const parts = partsOf(native)
    expect(parts.map(({ name }) => name)).toEqual(expect.arrayContaining(['node', 'v8', 'openssl', 'pino']))
    for (const { name, license, text, purl } of parts) {
      expect(PERMITTED, name).toContain(license)
      if (purl.startsWith('pkg:npm/')) expect(text, name).toMatch(/permission|permitted|licen[cs]e/i)
    }
    expect(renderLicences(parts)).toContain('OpenSSL, located at deps/openssl, is licensed as follows')
  },
)

it('the bill of materials says the same each time, and what each part was verified by', () => {
  const integrity = `sha512-${Buffer.alloc(64, 1).toString('base64')}`
  const part = {
    name: 'pino',
    version: '1.2.3',
    license: 'MIT',
    text: '',
    purl: 'pkg:npm/pino@1.2.3',
    integrity,
  }
  const release = { version: '0.1.0', architecture: 'amd64', time: 1_700_000_000, parts: [part] }
  const sbom = JSON.parse(renderSbom(release))
  expect(renderSbom(release)).toBe(renderSbom(release))
  expect(sbom).toMatchObject({
    bomFormat: 'CycloneDX',
    specVersion: '1.6',
    metadata: { timestamp: '2023-11-14T22:13:20Z', component: { name: 'flanneld', version: '0.1.0' } },
    components: [
      { name: 'pino', purl: 'pkg:npm/pino@1.2.3', hashes: [{ alg: 'SHA-512', content: '01'.repeat(64) }] },
    ],
    dependencies: [{ dependsOn: ['pkg:npm/pino@1.2.3'] }],
  })
})
