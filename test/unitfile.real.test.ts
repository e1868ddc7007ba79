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
  const args = ['verify', '--man=no', file]
  const { status, stderr } = spawnSync('systemd-analyze', args, { encoding: 'utf8' })
  return { status, stderr }
}

test.skipIf(noSystemd)('systemd has nothing to say against the unit', () => {
  expect(verify(unit)).toEqual({ status: 0, stderr: '' })
  expect(verify(`${unit}\nNonsense=1\n`).stderr).toContain('Nonsense')
})

test('docker waits for the network and takes its options from it', () => {
  expect(unit).toMatch(/^Type=notify$/m)
  expect(unit).toMatch(/^Before=docker\.service$/m)
  expect(unit).toMatch(/^WantedBy=.*\bdocker\.service$/m)
  expect(unit).toMatch(
    /^ExecStartPost=\/usr\/bin\/mk-docker-opts\.sh -k DOCKER_NETWORK_OPTIONS -d \/run\/flannel\/docker$/m,
  )
})

test.skipIf(noSystemd)('the unit has no more privileges than it needs', () => {
  const file = new URL('../systemd/flanneld.service', import.meta.url).pathname
  const { stdout, status } = spawnSync(
    'systemd-analyze',
    ['security', '--offline=yes', '--threshold=30', file],
    {
      encoding: 'utf8',
    },
  )
  // systemd's own judgement, from 0 (safe) to 10; below 3.0.
  expect(stdout).toMatch(/Overall exposure level for flanneld\.service: [012]\.\d/)
  expect(status).toBe(0)
})
