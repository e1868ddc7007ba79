import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'

const unit = readFileSync(new URL('../systemd/flanneld.service', import.meta.url), 'utf8')
const noSystemd = spawnSync('systemd-analyze', ['--version']).error !== undefined

function verify(text: string): { status: number | null; stderr: string } {
  const folder = mkdtempSync(join(tmpdir(), 'unit-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  const file = join(folder, 'flanneld.service')
  // The programs are not installed where the tests run.
  writeFileSync(file, text.replaceAll(/\/usr\/bin\/(flanneld|mk-docker-opts\.sh)/g, '/bin/true'))
  const { status, stderr } = spawnSync('systemd-analyze', ['verify', file], { encoding: 'utf8' })
  return { status, stderr }
}

test.skipIf(noSystemd)('systemd has nothing to say against the unit', () => {
  expect(verify(unit)).toEqual({ status: 0, stderr: '' })
  expect(verify(`${unit}\nNonsense=1\n`).stderr).toContain('Nonsense')
})

test('docker waits for the network and takes its options from it', () => {
  expect(unit).toMatch(/^Type=notify$/m)
  expect(unit).toMatch(/^Before=docker\.service$/m)
  expect(unit).toMatch(/^RequiredBy=docker\.service$/m)
  expect(unit).toMatch(
    /^ExecStartPost=\/usr\/bin\/mk-docker-opts\.sh -k DOCKER_NETWORK_OPTIONS -d \/run\/flannel\/docker$/m,
  )
})
