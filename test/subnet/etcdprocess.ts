import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export interface EtcdProcessOptions {
  /** Flags beside those that say where it listens and stores; with `https` it must be told its certificate. */
  readonly flags?: readonly string[]
  readonly scheme?: 'http' | 'https'
}

/** A real etcd with the v2 API, on free loopback ports, with a data directory of its own. */
export class EtcdProcess {
  readonly url: string
  readonly #directory = mkdtempSync(join(tmpdir(), 'flanneld-etcd-'))
  /** Where it tells how it is, to whoever has no certificate, too. */
  readonly #metricsUrl: string
  readonly #arguments: readonly string[]
  #child: ChildProcess | undefined

  private constructor(
    { url, peerUrl, metricsUrl }: Record<'url' | 'peerUrl' | 'metricsUrl', string>,
    flags: readonly string[],
  ) {
    this.url = url
    this.#metricsUrl = metricsUrl
    this.#arguments = [
      ...['--enable-v2', '--logger', 'zap', '--log-level', 'error', '--data-dir', this.#directory],
      ...['--listen-client-urls', url, '--advertise-client-urls', url],
      ...['--listen-metrics-urls', metricsUrl],
      ...['--listen-peer-urls', peerUrl, '--initial-advertise-peer-urls', peerUrl],
      ...['--initial-cluster', `default=${peerUrl}`, '--unsafe-no-fsync'],
      ...flags,
    ]
  }

  static async start({ flags = [], scheme = 'http' }: EtcdProcessOptions = {}): Promise<EtcdProcess> {
    for (let tries = 1; ; tries++) {
      const [url, peerUrl, metricsUrl] = (await Promise.all([freePort(), freePort(), freePort()])).map(
        (port) => `127.0.0.1:${port}`,
      )
      const etcd = new EtcdProcess(
        { url: `${scheme}://${url}`, peerUrl: `http://${peerUrl}`, metricsUrl: `http://${metricsUrl}` },
        flags,
      )
      try {
        await etcd.start()
        return etcd
      } catch (error) {
        await etcd.remove()
        // Somebody else was given a port that was free a moment ago.
        if (tries === 3 || !String(error).includes('address already in use')) throw error
      }
    }
  }

  /** Starts it (again) and waits until it takes connections and has a leader. */
  async start(): Promise<void> {
    const child = spawn('etcd', this.#arguments, { stdio: ['ignore', 'ignore', 'pipe'] })
    this.#child = child
    let said = ''
    child.stderr?.on('data', (data) => (said += String(data)))
    for (let tries = 0; tries < 200; tries++) {
      if (child.exitCode !== null) throw new Error(`etcd ended: ${said.slice(-500)}`)
      if (await this.#ready()) return
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
    throw new Error(`etcd did not get ready: ${said.slice(-500)}`)
  }

  /** Ends the process; the data stays. */
  async stop(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    const child = this.#child
    this.#child = undefined
    if (child === undefined || child.exitCode !== null) return
    const ended = new Promise((resolve) => child.once('exit', resolve))
    child.kill(signal)
    await ended
  }

  /** Throws the data away while it is stopped. */
  wipe(): void {
    rmSync(this.#directory, { recursive: true, force: true })
  }

  async remove(): Promise<void> {
    await this.stop()
    this.wipe()
  }

  async #ready(): Promise<boolean> {
    try {
      const response = await fetch(`${this.#metricsUrl}/health`, { signal: AbortSignal.timeout(1000) })
      return (await response.text()).includes('"true"')
    } catch {
      return false
    }
  }
}

async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  await new Promise((resolve) => server.close(resolve))
  if (address === null || typeof address === 'string') throw new Error('no port')
  return address.port
}
