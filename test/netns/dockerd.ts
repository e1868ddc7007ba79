/**
 * A real dockerd on a node of the lab, with the options that flanneld wrote for it, and containers made of one program.
 *
 * It is entered with `nsenter --net=`: `ip netns exec` would hide the cgroups that runc needs. Everything it keeps is in
 * the lab's folder, its containerd included, so that it shares nothing with a docker of the machine. Its processes and
 * mounts have namespaces of their own, which end with it, however it ends.
 */
import { spawnSync } from 'node:child_process'
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  openSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import type { Daemon, Lab } from './lab.ts'
import { isRunning, run, stop } from './process.ts'
import { waitFor } from './wait.ts'

const IMAGE = 'lab/busybox'
/** Serves `/cgi-bin/who`, which answers with the address of whoever asks. */
const WHO = '#!/bin/sh\nprintf "Content-Type: text/plain\\r\\n\\r\\n%s" "$REMOTE_ADDR"\n'

/** Why no dockerd can run here, or undefined when one can. */
export function noDocker(): string | undefined {
  if (!/^\s*0\s+0\s+4294967295$/m.test(readFileSync('/proc/self/uid_map', 'utf8'))) {
    return 'dockerd wants to be root of the machine, not of a user namespace'
  }
  for (const program of ['dockerd', 'docker', 'containerd', 'runc', 'busybox']) {
    if (spawnSync('sh', ['-c', `command -v ${program}`]).status !== 0) return `there is no ${program} here`
  }
  return undefined
}

export class Dockerd {
  readonly #socket: string

  private constructor(socket: string) {
    this.#socket = socket
  }

  /** Starts dockerd beside `flanneld`, by default with its options file, loads the image, and stops it with the lab. */
  static async start(lab: Lab, flanneld: Daemon, options = optionsOf(flanneld)): Promise<Dockerd> {
    const { namespace } = flanneld
    const dir = join(flanneld.runDir, 'docker.d')
    mkdirSync(dir)
    const socket = join(dir, 'sock')
    const config = join(dir, 'daemon.json')
    writeFileSync(config, '{}')
    const log = openSync(join(dir, 'log'), 'w')
    const child = namespace.start(
      [
        ...['unshare', '--mount', '--pid', '--fork', '--kill-child', '--mount-proc', 'dockerd'],
        ...['-H', `unix://${socket}`, '--data-root', join(dir, 'data'), '--exec-root', join(dir, 'exec')],
        ...['--pidfile', join(dir, 'pid'), '--storage-driver', 'vfs', '--config-file', config],
        ...options,
      ],
      { stdio: ['ignore', log, log] },
    )
    const dockerd = new Dockerd(socket)
    lab.onClose(async () => {
      const ids = await dockerd.docker('ps', '-aq').catch(() => '')
      if (ids.trim() !== '') await dockerd.docker('rm', '-f', ...ids.trim().split('\n'))
      await stop(child, 'SIGKILL')
    })
    const said = (): string => readFileSync(join(dir, 'log'), 'utf8').slice(-2000)
    await waitFor(async () => !isRunning(child) || (await dockerd.docker('version')), {
      what: () => `dockerd: ${said()}`,
      timeout: 30_000,
      interval: 100,
    })
    if (!isRunning(child)) throw new Error(`dockerd ended: ${said()}`)
    await dockerd.#import(join(dir, 'image'))
    return dockerd
  }

  /** Runs the docker command and resolves to what it prints. */
  docker(...words: readonly string[]): Promise<string> {
    return run(['docker', '-H', `unix://${this.#socket}`, ...words])
  }

  /** Starts a container that serves `/cgi-bin/who` on port 80, and resolves to its address. */
  async container(name: string): Promise<string> {
    await this.docker(
      'run',
      '-d',
      '--name',
      name,
      IMAGE,
      '/bin/httpd',
      '-f',
      '-p',
      '0.0.0.0:80',
      '-h',
      '/www',
    )
    const format = '{{.NetworkSettings.Networks.bridge.IPAddress}}'
    return (await this.docker('inspect', '-f', format, name)).trim()
  }

  /** Runs a program in a container. */
  exec(name: string, ...argv: readonly string[]): Promise<string> {
    return this.docker('exec', name, ...argv)
  }

  async #import(root: string): Promise<void> {
    const busybox = (await run(['sh', '-c', 'command -v busybox'])).trim()
    for (const folder of ['bin', 'www/cgi-bin']) mkdirSync(join(root, folder), { recursive: true })
    copyFileSync(busybox, join(root, 'bin/busybox'))
    for (const name of ['sh', 'ping', 'httpd', 'nc', 'wget']) symlinkSync('busybox', join(root, 'bin', name))
    writeFileSync(join(root, 'www/cgi-bin/who'), WHO)
    chmodSync(join(root, 'www/cgi-bin/who'), 0o755)
    await run(['tar', '-C', root, '-cf', `${root}.tar`, '.'])
    await this.docker('import', `${root}.tar`, IMAGE)
  }
}

/** DOCKER_NETWORK_OPTIONS as systemd splits `$DOCKER_NETWORK_OPTIONS` in a unit: at white space. */
function optionsOf(flanneld: Daemon): readonly string[] {
  const text = readFileSync(flanneld.dockerFile, 'utf8')
  const value = /^DOCKER_NETWORK_OPTIONS="(.*)"$/m.exec(text)?.[1]
  if (value === undefined) throw new Error(`no DOCKER_NETWORK_OPTIONS in ${text}`)
  return value.trim().split(/\s+/)
}
