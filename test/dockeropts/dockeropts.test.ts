import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { expect, onTestFinished, test } from 'vitest'
import { renderDockerOptions } from '../../src/dockeropts/dockeropts.ts'
import { subnetOf } from '../../src/ip.ts'
import { renderSubnetFile, type SubnetFileContent } from '../../src/subnetfile.ts'

const script = new URL('../../bin/mk-docker-opts.sh', import.meta.url).pathname

test('all three options, one by one and together', () => {
  const content = {
    network: { address: 0x0a010000, length: 16 },
    subnet: { address: 0x0a014a00, length: 24 },
    mtu: 1472,
    ipMasq: false,
  }
  expect(renderDockerOptions(content, 'DOCKER_NETWORK_OPTIONS')).toBe(
    [
      'DOCKER_OPT_BIP="--bip=10.1.74.1/24"',
      'DOCKER_OPT_IPMASQ="--ip-masq=true"',
      'DOCKER_OPT_MTU="--mtu=1472"',
      'DOCKER_NETWORK_OPTIONS=" --bip=10.1.74.1/24 --ip-masq=true --mtu=1472"',
      '',
    ].join('\n'),
  )
  expect(renderDockerOptions({ ...content, ipMasq: true }, 'X')).toContain(
    'DOCKER_OPT_IPMASQ="--ip-masq=false"\n',
  )
})

test('the same bytes as the script', () => {
  const folder = mkdtempSync(join(tmpdir(), 'dockeropts-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  const input = join(folder, 'subnet.env')
  const output = join(folder, 'docker')
  const contents: fc.Arbitrary<SubnetFileContent> = fc
    .record({
      address: fc.nat(0xffffffff),
      length: fc.integer({ min: 1, max: 30 }),
      mtu: fc.nat(65535),
      ipMasq: fc.boolean(),
    })
    .map(({ address, length, mtu, ipMasq }) => ({
      network: subnetOf(address, Math.floor(length / 2)),
      subnet: subnetOf(address, length),
      mtu,
      ipMasq,
    }))
  const keys = fc.constantFrom('DOCKER_NETWORK_OPTIONS', 'DOCKER_OPTS', 'X_1')
  fc.assert(
    fc.property(contents, keys, (content, key) => {
      writeFileSync(input, renderSubnetFile(content))
      execFileSync(script, ['-f', input, '-k', key, '-d', output], { env: {} })
      expect(readFileSync(output, 'utf8')).toBe(renderDockerOptions(content, key))
    }),
    { numRuns: 50 },
  )
})
