import { expect, it } from 'vitest'
import { bundleName } from '../../src/commands/bundle.ts'
import { tarGz } from '../../src/commands/tar.ts'

const NOW = new Date('2026-11-24T18:23:07Z')

it('names the archive after host and time', () => {
  expect(bundleName('kube-node1', NOW)).toBe('flanneld-kube-node1-20261124-182307')
})

it("leaves room in a tar archive for the longest of its files, however long the host's name is", () => {
  const name = `${bundleName('h'.repeat(64), NOW)}/firewall/iptables-version.txt`
  expect(() => tarGz([{ name, content: new Uint8Array() }], 0)).not.toThrow()
})
