import type { Clock } from './clock.ts'
import type { Logger } from './log.ts'

/** Sends one unix datagram; 0, or a negative errno. `src/native.ts` has the real one. */
export type NotifySender = (address: string, message: string) => number

/**
 * What systemd is told (sd_notify(3)). Without NOTIFY_SOCKET every call does nothing; a socket that does not take
 * the message is logged at debug and otherwise ignored, for the daemon's work does not depend on it.
 */
export class Systemd {
  readonly #env: Readonly<Record<string, string | undefined>>
  readonly #send: NotifySender
  readonly #log: Logger

  constructor(env: Readonly<Record<string, string | undefined>>, send: NotifySender, log: Logger) {
    this.#env = env
    this.#send = send
    this.#log = log
  }

  /** Units ordered after ours start now. */
  ready(): void {
    this.#notify('READY=1')
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
   * systemd set no watchdog for this process (WATCHDOG_PID).
   */
  async watchdog(options: {
    readonly healthy: () => boolean
    readonly clock: Clock
    readonly pid: number
    readonly signal: AbortSignal
  }): Promise<void> {
    const { healthy, clock, pid, signal } = options
    const period = watchdogPeriod(this.#env, pid)
    if (period === undefined) return
    while (!signal.aborted) {
      if (healthy()) this.#notify('WATCHDOG=1')
      await clock.sleep(period / 2, signal)
    }
  }

  #notify(message: string): void {
    const address = this.#env.NOTIFY_SOCKET
    if (address === undefined || address === '') return
    try {
      const result = this.#send(address, message)
      if (result < 0) this.#log.debug(`systemd did not take ${message}`, { socket: address, errno: -result })
    } catch (error) {
      this.#log.debug(`systemd did not take ${message}: ${String(error)}`, { socket: address })
    }
  }
}

/** Milliseconds within which systemd wants to hear from process `pid`; undefined when it does not. */
function watchdogPeriod(env: Readonly<Record<string, string | undefined>>, pid: number): number | undefined {
  const period = Number(env.WATCHDOG_USEC ?? '') / 1000
  const watched = env.WATCHDOG_PID ?? ''
  if (!(period > 0) || !Number.isFinite(period)) return undefined
  return watched === '' || Number(watched) === pid ? period : undefined
}
