import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { parseIpv4, type Subnet } from '../src/ip.ts'
import { parseDotenv, readSubnetFile, renderSubnetFile } from '../src/subnetfile.ts'

function subnet(address: string, length: number): Subnet {
  const parsed = parseIpv4(address)
  if (parsed === undefined) throw new Error(address)
  return { address: parsed, length }
}

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'subnetfile-'))
})
afterEach(() => {
  rmSync(folder, { recursive: true })
})

const content = { network: subnet('10.5.0.0', 16), subnet: subnet('10.5.33.0', 24), mtu: 1450, ipMasq: true }
const text =
  'FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.33.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n'

test('four lines, the subnet by its first usable address', () => {
  expect(renderSubnetFile(content)).toBe(text)
  expect(renderSubnetFile({ ...content, mtu: 8951, ipMasq: false })).toContain(
    'MTU=8951\nFLANNEL_IPMASQ=false\n',
  )
})

describe('reading back', () => {
  const network = content.network
  const own = content.subnet

  test.each<[string, string, Subnet | undefined, Subnet | undefined]>([
    ['what we wrote', text, network, own],
    ['CRLF, spaces and blank lines', '\r\n  FLANNEL_SUBNET = 10.5.33.1/24 \r\n\n', undefined, own],
    ['comments', '# made by flannel\nFLANNEL_SUBNET=10.5.33.1/24 # ours\n', undefined, own],
    ['export', 'export FLANNEL_SUBNET=10.5.33.1/24', undefined, own],
    ['a colon', 'FLANNEL_SUBNET: 10.5.33.1/24\nFLANNEL_NETWORK: 10.5.0.0/16', network, own],
    ['double quotes', 'FLANNEL_SUBNET="10.5.33.1/24"', undefined, own],
    ['single quotes', "FLANNEL_SUBNET='10.5.33.1/24'", undefined, own],
    ['the last of two', 'FLANNEL_SUBNET=10.5.1.1/24\nFLANNEL_SUBNET=10.5.33.1/24', undefined, own],
    ['empty', '', undefined, undefined],
    ['an empty value', 'FLANNEL_SUBNET=\n', undefined, undefined],
  ])('%s', (_, written, expectedNetwork, expectedSubnet) => {
    const path = join(folder, 'subnet.env')
    writeFileSync(path, written)
    expect(readSubnetFile(path)).toEqual({ network: expectedNetwork, subnet: expectedSubnet, problems: [] })
  })

  test('no file is no problem', () => {
    expect(readSubnetFile(join(folder, 'none'))).toEqual({
      network: undefined,
      subnet: undefined,
      problems: [],
    })
  })

  test('a folder in its place is one', () => {
    expect(readSubnetFile(folder).problems).toEqual([
      `Couldn't fetch previous FLANNEL_SUBNET from subnet file at ${folder}: EISDIR`,
    ])
  })

  test('one line that is no assignment spoils the file', () => {
    const path = join(folder, 'subnet.env')
    writeFileSync(path, 'FLANNEL_SUBNET=10.5.33.1/24\nrubbish\n')
    expect(readSubnetFile(path)).toEqual({
      network: undefined,
      subnet: undefined,
      problems: [
        `Couldn't fetch previous FLANNEL_SUBNET from subnet file at ${path}: Can't separate key from value in "rubbish"`,
      ],
    })
  })

  test.each(['10.5.33.1', '10.5.33.1/33', '300.1.1.1/24', '2001:db8::1/64', 'x'])(
    '%s is no subnet',
    (value) => {
      const path = join(folder, 'subnet.env')
      writeFileSync(path, `FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=${value}\n`)
      expect(readSubnetFile(path)).toEqual({
        network,
        subnet: undefined,
        problems: [
          `Couldn't parse previous FLANNEL_SUBNET from subnet file at ${path}: "${value}" is no IPv4 prefix`,
        ],
      })
    },
  )

  test('no content throws', () => {
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.string({ unit: 'binary' })), (any) => {
        parseDotenv(any)
        parseDotenv(`FLANNEL_SUBNET=${any}`)
      }),
    )
    const path = join(folder, 'subnet.env')
    writeFileSync(path, Buffer.from([0xff, 0xfe, 0, 0x3d, 0x80]))
    expect(readSubnetFile(path).subnet).toBeUndefined()
  })
})
