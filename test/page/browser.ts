/**
 * Debian's Chromium without a window, driven over the DevTools protocol (https://chromedevtools.github.io/devtools-protocol/)
 * by a pair of pipes, which reach into any network namespace: enough to open a page, ask it something, press keys and take a
 * picture. Messages are JSON, each followed by a NUL.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Readable, Writable } from 'node:stream'

const PLACES = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome']

/** Undefined where there is none. */
export const chromium = PLACES.find((path) => existsSync(path))

export interface Shape {
  readonly width: number
  readonly height: number
  readonly dark?: boolean
  readonly script?: boolean
  /** Of a phone: touch, and two pixels for one. */
  readonly phone?: boolean
}

interface Answer {
  readonly id?: number
  readonly sessionId?: string
  readonly method?: string
  readonly params?: Record<string, unknown>
  readonly result?: Record<string, unknown>
  readonly error?: { readonly message: string }
}

export class Browser {
  readonly #child: ChildProcess
  readonly #folder: string
  readonly #pipe: Writable
  readonly #waiting = new Map<number, (answer: Answer) => void>()
  /** Lines of the console at error, refusals of the policy among them. */
  readonly errors: string[] = []
  #session = ''
  #next = 1

  constructor(child: ChildProcess, folder: string) {
    this.#child = child
    this.#folder = folder
    this.#pipe = child.stdio[3] as Writable
    this.#pipe.on('error', () => undefined)
    let text = ''
    const answers = child.stdio[4] as Readable
    answers.setEncoding('utf8').on('data', (part: string) => {
      const messages = (text + part).split('\0')
      text = messages.pop() ?? ''
      for (const message of messages) this.#onAnswer(JSON.parse(message) as Answer)
    })
    child.on('exit', () => {
      for (const settle of this.#waiting.values()) settle({ error: { message: 'chromium has ended' } })
      this.#waiting.clear()
    })
  }

  /** `wrap` comes before the command, such as `ip netns exec NAME`. */
  static start(wrap: readonly string[] = []): Browser {
    const folder = mkdtempSync(join(tmpdir(), 'flannel-chromium-'))
    const [program, ...args] = [
      ...[
        ...wrap,
        chromium ?? 'chromium',
        '--headless=new',
        '--no-sandbox',
        '--disable-gpu',
        '--no-first-run',
      ],
      ...['--disable-dev-shm-usage', '--disable-background-networking', `--user-data-dir=${folder}`],
      ...['--remote-debugging-pipe', 'about:blank'],
    ]
    return new Browser(
      spawn(program ?? '', args, { stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'] }),
      folder,
    )
  }

  /** A fresh tab of this shape that shows the page; the one before is closed. */
  async open(
    url: string,
    { width, height, dark = false, script = true, phone = false }: Shape,
  ): Promise<void> {
    if (this.#session !== '') await this.send('Page.close')
    this.#session = ''
    this.errors.length = 0
    const { targetId } = await this.send('Target.createTarget', { url: 'about:blank' })
    const { sessionId } = await this.send('Target.attachToTarget', { targetId, flatten: true })
    this.#session = sessionId as string
    await this.send('Emulation.setDeviceMetricsOverride', {
      ...{ width, height, mobile: phone, deviceScaleFactor: phone ? 2 : 1 },
    })
    if (phone) await this.send('Emulation.setTouchEmulationEnabled', { enabled: true })
    await this.send('Emulation.setEmulatedMedia', {
      features: [{ name: 'prefers-color-scheme', value: dark ? 'dark' : 'light' }],
    })
    await this.send('Emulation.setScriptExecutionDisabled', { value: !script })
    for (const part of ['Log', 'Runtime', 'Page']) await this.send(`${part}.enable`)
    await this.send('Page.navigate', { url })
    await this.until(`document.readyState === 'complete' && location.href !== 'about:blank'`)
  }

  /** The value of an expression in the page. */
  async ask<T>(expression: string): Promise<T> {
    const { result, exceptionDetails } = (await this.send('Runtime.evaluate', {
      ...{ expression, returnByValue: true, awaitPromise: true },
    })) as { result: { value: T }; exceptionDetails?: unknown }
    if (exceptionDetails !== undefined) throw new Error(`${expression}: ${JSON.stringify(exceptionDetails)}`)
    return result.value
  }

  /** Waits until an expression in the page is true; the test's own time limit ends it otherwise. */
  async until(expression: string): Promise<void> {
    while (!(await this.ask<boolean>(`Boolean(${expression})`).catch(() => false))) {
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
  }

  async press(key: string): Promise<void> {
    const text = key.length === 1 ? { text: key } : key === 'Enter' ? { text: '\r' } : {}
    const code = { Enter: 13, Tab: 9 }[key]
    const event = { key, ...text, ...(code === undefined ? {} : { windowsVirtualKeyCode: code }) }
    await this.send('Input.dispatchKeyEvent', { type: 'keyDown', ...event })
    await this.send('Input.dispatchKeyEvent', { type: 'keyUp', key })
  }

  /** A PNG, of the whole length of the page or of what is in view. */
  async picture({ whole = false } = {}): Promise<Buffer> {
    const { data } = await this.send('Page.captureScreenshot', { captureBeyondViewport: whole })
    return Buffer.from(data as string, 'base64')
  }

  async close(): Promise<void> {
    const ended = new Promise((resolve) => this.#child.once('exit', resolve))
    this.#session = ''
    await this.send('Browser.close').catch(() => this.#child.kill())
    await ended
    rmSync(this.#folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 50 })
  }

  async send(method: string, params: object = {}): Promise<Record<string, unknown>> {
    const id = this.#next++
    const answer = await new Promise<Answer>((resolve) => {
      this.#waiting.set(id, resolve)
      const session = this.#session === '' ? {} : { sessionId: this.#session }
      this.#pipe.write(`${JSON.stringify({ id, method, params, ...session })}\0`)
    })
    if (answer.error !== undefined) throw new Error(`${method}: ${answer.error.message}`)
    return answer.result ?? {}
  }

  #onAnswer(answer: Answer): void {
    if (answer.id !== undefined) {
      this.#waiting.get(answer.id)?.(answer)
      this.#waiting.delete(answer.id)
    } else if (answer.sessionId !== this.#session) {
      // The tab before may still complain that its server went away.
    } else if (answer.method === 'Log.entryAdded') {
      const { entry } = answer.params as { entry: { level: string; text: string } }
      if (entry.level === 'error') this.errors.push(entry.text)
    } else if (answer.method === 'Runtime.exceptionThrown') {
      this.errors.push(JSON.stringify(answer.params))
    }
  }
}
