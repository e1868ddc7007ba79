/** A dockerd that was started without what flanneld wrote for it. */
import { existsSync } from 'node:fs'
import { expect, it, onTestFinished, vi } from 'vitest'
import { Dockerd, noDocker } from '../netns/dockerd.ts'
import { Lab, waitFor } from '../netns/lab.ts'
import { diagnose, found } from './run.ts'

vi.setConfig({ testTimeout: 120_000 })

const missing = noDocker()
if (missing !== undefined) process.stderr.write(`the doctor's test with dockerd is left out: ${missing}\n`)

it.skipIf(missing !== undefined)('has another subnet, a larger MTU, and masquerades too', async () => {
  const lab = await Lab.create()
  onTestFinished(() => lab.close())
  await (await lab.startEtcd()).config({ Network: '10.5.0.0/16', Backend: { Type: 'vxlan' } })
  const daemon = await lab.daemon(1, { args: ['-ip-masq'] })
  await daemon.waitReady()
  await waitFor(() => existsSync(daemon.controlSocket), { what: 'the control socket' })
  await Dockerd.start(lab, daemon, [])
  const docker = async () => {
    const diagnosis = await diagnose(lab.node(1), '-ping=false', '-control-socket', daemon.controlSocket)
    return ['docker bridge', 'docker MTU', 'docker --ip-masq'].flatMap((check) => found(diagnosis, check))
  }
  expect(await docker()).toMatchObject([
    {
      level: 'fail',
      what: expect.stringMatching(/^docker0 has 172\.\S+, the lease is 10\.5\.\d+\.0\/24$/),
      mend: expect.stringContaining(`--bip=${daemon.subnetEnv().FLANNEL_SUBNET}`),
    },
    { level: 'warn', what: 'docker0 has MTU 1500, flannel.1 only 1450' },
    { level: 'warn', what: 'dockerd masquerades, and so does flanneld' },
  ])
})
