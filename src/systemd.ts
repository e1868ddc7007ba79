import type { Clock } from './clock.ts'
import type { Logger } from './log.ts'

/** Sends one unix datagram without waiting; throws with an errno's name as `code`. `src/native.ts` has the real one. */
export type NotifySender = (address: string, message: string) => void

type Environment = Readonly<Record<string, string | undefined>>

/**
 * What systemd is told (sd_notify(3)). Without NOTIFY_SOCKET every call does nothing. A socket that does not take a
 * message is logged and otherwise ignored: the daemon's work does not depend on it.
 */
export class Systemd {
  readonly #env: Environment
  readonly #send: NotifySender
  readonly #clock: Clock
  readonly #log: Logger

  constructor(parts: {
    readonly env: Environment
    readonly send: NotifySender
    readonly clock: Clock
    readonly log: Logger
  }) {
    this.#env = parts.env
    this.#send = parts.send
    this.#clock = parts.clock
    this.#log = parts.log
  }

  /**
   * Units ordered after ours start now. They would wait for ever for a READY=1 that was lost because systemd's
   * socket was full for a moment, so this one is tried again for 5 seconds.
   */
  async ready(signal?: AbortSignal): Promise<void> {
    const retries = 50
    let failure = this.#notify('READY=1')
    for (let i = 0; i < retries && failure?.code === 'EAGAIN'; i++) {
      await this.#clock.sleep(100, signal)
      // It has been told by now that the daemon stops.
      if (signal?.aborted === true) return
      failure = this.#notify('READY=1')
    }
    if (failure !== undefined)
      this.#log.warn(`Cannot tell systemd that flanneld is ready: ${failure.message}`)
  }

  /** One line for `systemctl status`. */
  status(text: string): void {
    this.#notify(`STATUS=${text.replaceAll('\n', ' ')}`)
  }

  stopping(): void {
    this.#notify('STOPPING=1')
  }

  /**
   * Pings at half of WATCHDOG_USEC as long as `healthy` says so, until the signal is aborted. Returns at once when
   * systemd watches no process, or another than `pid` (WATCHDOG_PID).
   */
  async watchdog(options: {
    readonly healthy: () => boolean
    readonly pid: number
    readonly signal: AbortSignal
  }): Promise<void> {
    const period = watchdogPeriod(this.#env, options.pid)
    if (period === undefined) return
    while (!options.signal.aborted) {
      if (options.healthy()) this.#notify('WATCHDOG=1')
      await this.#clock.sleep(period / 2, options.signal)
    }
  }

  #notify(message: string): NodeJS.ErrnoException | undefined {
    const address = this.#env.NOTIFY_SOCKET
    if (address === undefined || address === '') return undefined
    try {
      this.#send(address, message)
      return undefined
    } catch (error) {
      const failure = error instanceof Error ? error : new Error(String(error))
      this.#log.debug(`systemd did not take ${message}: ${failure.message}`)
      return failure
    }
  }
}

/** Milliseconds within which systemd wants to hear from process `pid`; undefined when it does not. */
function watchdogPeriod(env: Environment, pid: number): number | undefined {
  const text = env.WATCHDOG_USEC ?? ''
  const watched = env.WATCHDOG_PID ?? ''
  if (!/^[0-9]+$/.test(text) || (watched !== '' && watched !== String(pid))) return undefined
  const milliseconds = Number(text) / 1000
  // setTimeout takes at most 2^31 - 1 milliseconds.
  return milliseconds > 0 ? Math.min(milliseconds, 2 ** 31 - 1) : undefined
}
