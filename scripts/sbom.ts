import type { Part } from './inside.ts'

/** CycloneDX's hashes are hexadecimal, npm's are base64. */
function hashesOf(integrity: string | undefined) {
  if (integrity === undefined) return {}
  const content = Buffer.from(integrity.replace('sha512-', ''), 'base64').toString('hex')
  return { hashes: [{ alg: 'SHA-512', content }] }
}

export interface Release {
  readonly version: string
  /** Go's and Debian's name for it. */
  readonly architecture: string
  /** Seconds since the epoch. */
  readonly time: number
  readonly parts: readonly Part[]
}

/**
 * The software bill of materials of one executable, as CycloneDX 1.6 (https://cyclonedx.org/docs/1.6/json/). It has no
 * serial number, so that the same release always has the same one.
 */
export function renderSbom({ version, architecture, time, parts }: Release): string {
  const purl = `pkg:generic/flanneld@${version}?arch=${architecture}&os=linux`
  const sbom = {
    $schema: 'http://cyclonedx.org/schema/bom-1.6.schema.json',
    bomFormat: 'CycloneDX',
    specVersion: '1.6',
    version: 1,
    metadata: {
      timestamp: new Date(time * 1000).toISOString().replace('.000', ''),
      component: {
        type: 'application',
        'bom-ref': purl,
        name: 'flanneld',
        version,
        purl,
        licenses: [{ license: { id: 'Apache-2.0' } }],
      },
    },
    components: parts.map((part) => ({
      type: part.name === 'node' ? 'platform' : 'library',
      'bom-ref': part.purl,
      name: part.name,
      version: part.version,
      licenses: [{ license: { id: part.license } }],
      purl: part.purl,
      ...hashesOf(part.integrity),
    })),
    dependencies: [{ ref: purl, dependsOn: parts.map((part) => part.purl) }],
  }
  return `${JSON.stringify(sbom, null, 2)}\n`
}

/** The licences of what is inside, in full. */
export function renderLicences(parts: readonly Part[]): string {
  const rule = '='.repeat(100)
  return parts
    .filter(({ text }) => text !== '')
    .map(
      ({ name, version, license, text }) =>
        `${rule}\n${name} ${version} (${license})\n${rule}\n\n${text.trim()}\n`,
    )
    .join('\n')
}
