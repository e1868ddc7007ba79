/**
 * Debian's Chromium without a window, driven over the DevTools protocol (https://chromedevtools.github.io/devtools-protocol/)
 * by the WebSocket that Node has: enough to open a page, ask it something, press keys and take a picture.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'

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
  readonly method?: string
  readonly params?: Record<string, unknown>
  readonly result?: Record<string, unknown>
  readonly error?: { readonly message: string }
}

export class Browser {
  readonly #child: ChildProcess
  readonly #folder: string
  readonly #socket: WebSocket
  readonly #waiting = new Map<number, (answer: Answer) => void>()
  /** Lines of the console at error, refusals of the policy among them. */
  readonly errors: string[] = []
  #session = ''
  #next = 1

  constructor(child: ChildProcess, folder: string, socket: WebSocket) {
    this.#child = child
    this.#folder = folder
    this.#socket = socket
    socket.onmessage = ({ data }) => this.#onAnswer(JSON.parse(String(data)) as Answer)
  }

  static async start(): Promise<Browser> {
    const folder = mkdtempSync(join(tmpdir(), 'flannel-chromium-'))
    const child = spawn(
      chromium ?? 'chromium',
      [
        ...['--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run'],
        ...['--disable-background-networking', `--user-data-dir=${folder}`, '--remote-debugging-port=0'],
        'about:blank',
      ],
      { stdio: ['ignore', 'ignore', 'pipe'] },
    )
    const address = await new Promise<string>((resolve, reject) => {
      child.once('error', reject)
      child.once('exit', (code) => reject(new Error(`chromium ended with ${code}`)))
      createInterface({ input: child.stderr as NodeJS.ReadableStream }).on('line', (line) => {
        const found = /DevTools listening on (ws:\S+)/.exec(line)?.[1]
        if (found !== undefined) resolve(found)
      })
    })
    const socket = new WebSocket(address)
    await new Promise((resolve, reject) => {
      socket.onopen = resolve
      socket.onerror = reject
    })
    return new Browser(child, folder, socket)
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
      this.#socket.send(JSON.stringify({ id, method, params, ...session }))
    })
    if (answer.error !== undefined) throw new Error(`${method}: ${answer.error.message}`)
    return answer.result ?? {}
  }

  #onAnswer(answer: Answer): void {
    if (answer.id !== undefined) {
      this.#waiting.get(answer.id)?.(answer)
      this.#waiting.delete(answer.id)
    } else if (answer.method === 'Log.entryAdded') {
      const { entry } = answer.params as { entry: { level: string; text: string } }
      if (entry.level === 'error') this.errors.push(entry.text)
    } else if (answer.method === 'Runtime.exceptionThrown') {
      this.errors.push(JSON.stringify(answer.params))
    }
  }
}
