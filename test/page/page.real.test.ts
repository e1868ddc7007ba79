/** The page in Debian's Chromium: of a daemon in a namespace, and of 5,000 peers that are made up. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Daemon, Lab, peerLeases, waitFor } from '../netns/lab.ts'
import { Browser, chromium, type Shape } from './browser.ts'
import { peer, serve, status, world } from './world.ts'

if (chromium === undefined) {
  process.stdout.write(
    'test/page: no chromium here, so the page is not looked at; apt-get install chromium\n',
  )
}

const DESK: Shape = { width: 1280, height: 800 }
const PHONE: Shape = { width: 390, height: 844, phone: true }
const PORT = 10_411
/** Set PAGE_PICTURES to a folder to have a look. */
const { PAGE_PICTURES } = process.env

async function picture(browser: Browser, name: string): Promise<void> {
  if (PAGE_PICTURES === undefined) return
  mkdirSync(PAGE_PICTURES, { recursive: true })
  writeFileSync(join(PAGE_PICTURES, `${name}.png`), await browser.picture({ whole: true }))
}

const LIVE = `document.querySelector('.link.live')`
const rows = `document.querySelectorAll('.peers tbody tr').length`
const text = (selector: string): string => `document.querySelector('${selector}').textContent.trim()`

/** Whether the canvas has anything on it but the ground. */
const DRAWN = `(() => {
  const c = document.querySelector('canvas')
  return c.width > 0 && c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((part) => part > 0)
})()`

describe('the page of a daemon', () => {
  let lab: Lab
  let daemon: Daemon
  beforeAll(async () => {
    lab = await Lab.create()
    const etcd = await lab.startEtcd()
    await etcd.config({
      Network: '100.64.0.0/10',
      SubnetLen: 24,
      SubnetMin: '100.124.0.0',
      Backend: { Type: 'vxlan' },
    })
    await etcd.seed(peerLeases(5))
    daemon = await lab.daemon(1, {
      args: ['-healthz-port', String(PORT), '-metrics-port', String(PORT + 1)],
    })
    await daemon.waitReady()
  })
  afterAll(() => lab.close())

  const curl = (...args: string[]): Promise<string> => lab.node(1).run('curl', '-s', ...args)

  it('is on both ports, with its policy, and says without a script what there is', async () => {
    for (const port of [PORT, PORT + 1]) {
      const page = await curl('-i', `http://127.0.0.1:${port}/`)
      expect(page).toMatch(/^HTTP\/1\.1 200 OK\r\nContent-Security-Policy: default-src 'none'; /)
      for (let n = 1; n <= 5; n++) expect(page).toContain(`<th scope="row">100.64.${n}.0/24</th>`)
    }
    for (const part of ['style.css', 'client.js', 'icon.svg']) {
      expect(
        await curl('-o', '/dev/null', '-w', '%{http_code}', `http://127.0.0.1:${PORT}/page/${part}`),
      ).toBe('200')
    }
    expect(await curl(`http://127.0.0.1:${PORT}/other`)).toBe('404 page not found\n')
  })

  it('an evil name in etcd is text', async () => {
    const key = `<script>alert(1)</script>`
    await lab.etcd.put(`/coreos.com/network/subnets/${encodeURIComponent('<img src=x>')}`, key)
    const page = await waitFor(
      async () => {
        const found = await curl(`http://127.0.0.1:${PORT}/`)
        return found.includes('1 skipped') ? found : undefined
      },
      { what: 'the lease to be skipped' },
    )
    expect(page).toContain('&lt;img')
    expect(page).not.toMatch(/<img src=x|<script>/)
  })

  it.skipIf(chromium === undefined)('shows live what becomes of a peer and of etcd', async () => {
    const browser = Browser.start(['nsenter', `--net=/run/netns/${lab.node(1).name}`])
    try {
      await browser.open(`http://127.0.0.1:${PORT}/`, DESK)
      await browser.until(LIVE)
      await browser.until(DRAWN)
      expect(await browser.ask(rows)).toBe(5)
      await picture(browser, 'daemon-desk-light')
      await lab.node(1).ip('route del 100.64.2.0/24 dev flannel.1')
      await browser.until(`document.querySelector('.timeline .repair')`)
      await lab.etcd.seed(peerLeases(1, { first: 9 }))
      await browser.until(`${rows} === 6`)
      await lab.etcd.stop()
      await browser.until(`${text('#verdict')}.includes('etcd does not answer')`)
      expect(await browser.ask(rows)).toBe(6)
      await picture(browser, 'daemon-etcd-away')
      await daemon.stop()
      await browser.until(`document.querySelector('.link.lost')`)
      // What was known stays to be read.
      expect(await browser.ask(rows)).toBe(6)
      expect(browser.errors.filter((line) => !/Failed to load resource|ERR_/.test(line))).toEqual([])
    } finally {
      await browser.close()
    }
  })
})

describe.skipIf(chromium === undefined)('5,000 peers', () => {
  let browser: Browser
  beforeAll(() => {
    browser = Browser.start()
  })
  afterAll(() => browser.close())

  const crowd = () => {
    const view = world({
      count: 5_000,
      now: status({ leases: { inUse: 5_000, skipped: 0, skippedList: [] } }),
    })
    for (const n of [1234, 4321]) {
      view.lines[n] = peer(n, { entries: { neighbour: 'ok', fdb: 'missing', route: 'ok' } })
    }
    return view
  }

  it.each<[string, Shape]>([
    ['desk-light', DESK],
    ['desk-dark', { ...DESK, dark: true }],
    ['phone-light', PHONE],
    ['phone-dark', { ...PHONE, dark: true }],
  ])('fit on %s, without an error and without scrolling sideways', async (name, shape) => {
    await browser.open(await serve(crowd()), shape)
    await browser.until(LIVE)
    await browser.until(DRAWN)
    await browser.until(`${text('#picked')} === '4,998 in order, 2 amiss'`)
    expect(await browser.ask('document.documentElement.scrollWidth')).toBeLessThanOrEqual(shape.width)
    await picture(browser, name)
    expect(browser.errors).toEqual([])
  })

  it.each<[string, Shape]>([
    ['desk-pings', DESK],
    ['phone-pings', { ...PHONE, dark: true }],
  ])('answer pings or do not, on %s', async (name, shape) => {
    const view = crowd()
    view.now = status({
      leases: { inUse: 5_000, skipped: 0, skippedList: [] },
      probes: {
        ...{ intervalSeconds: 10, rounds: 3, reachable: 4_999, unreachable: 1, pending: 0 },
        rttMs: { least: 0.1, median: 0.31, most: 12.5 },
      },
    })
    view.lines = view.lines.map((line, n) => ({
      ...line,
      probe: { reachable: n !== 77, rttMs: 0.2 + n / 10_000 },
    }))
    await browser.open(await serve(view), shape)
    await browser.until(LIVE)
    await browser.until(DRAWN)
    await browser.until(`${text('#picked')} === '4,997 in order, 3 amiss'`)
    expect(await browser.ask(text('.tile:last-child'))).toMatch(
      /^Answer pings\s*4,999 of 5,000\s+1 lost, 0\.31 ms/,
    )
    expect(await browser.ask(text('.peers tbody'))).toContain('does not answer')
    await browser.ask(`document.querySelector('canvas').focus()`)
    await browser.press('n')
    expect(await browser.ask(text('#picked'))).toBe('100.64.77.0/24 at 198.18.0.78: does not answer pings')
    await browser.press('ArrowRight')
    expect(await browser.ask(text('#picked'))).toMatch(/: in order, answers in 0\.2078 ms$/)
    expect(await browser.ask('document.documentElement.scrollWidth')).toBeLessThanOrEqual(shape.width)
    await picture(browser, name)
    expect(browser.errors).toEqual([])
  })

  it('are searched while one types, and the address says what for', async () => {
    const view = crowd()
    await browser.open(await serve(view), DESK)
    await browser.until(LIVE)
    await browser.ask(`document.querySelector('[name=q]').focus()`)
    for (const key of '100.68.210.77') await browser.press(key)
    // Whoever types slowly is shown the one row before the last key is pressed; table and address change together.
    await browser.until(`location.search === '?q=100.68.210.77'`)
    expect(await browser.ask(rows)).toBe(1)
    expect(await browser.ask(text('.peers tbody tr'))).toMatch(/^100\.68\.210\.0\/24/)
    await browser.ask(`document.querySelector('[name=q]').select()`)
    await browser.press('z')
    await browser.until(`document.querySelector('#table .empty')`)
    await browser.ask(`document.querySelector('#table a').click()`)
    await browser.until(`${rows} === 25`)
    await browser.ask(`document.querySelector('#table [rel=next]').click()`)
    await browser.until(`${text('.pager')}.includes('Page 2 of 200')`)
    // The next page can be had with the same key.
    expect(await browser.ask('location.search')).toBe('?page=2')
  })

  it('are walked by the keyboard', async () => {
    await browser.open(await serve(crowd()), DESK)
    await browser.until(LIVE)
    await browser.until(DRAWN)
    await browser.press('Tab')
    expect(await browser.ask('document.activeElement.className')).toBe('skip')
    await browser.ask(`document.querySelector('canvas').focus()`)
    await browser.press('n')
    expect(await browser.ask(text('#picked'))).toBe('100.68.210.0/24 at 198.18.4.211: entries missing')
    await browser.press('ArrowRight')
    expect(await browser.ask(text('#picked'))).toMatch(/^100\.68\.211\.0\/24 /)
    await browser.press('ArrowUp')
    expect(await browser.ask(text('#picked'))).not.toMatch(/^100\.68\.211\.0\/24 /)
    await browser.press('N')
    await browser.press('Enter')
    await browser.until(`${rows} === 1`)
    expect(await browser.ask(text('.peers tbody tr'))).toMatch(/fdb missing/)
    // What is looked up is no cage: the other that is amiss, and all in the table again.
    await browser.press('n')
    expect(await browser.ask(text('#picked'))).toMatch(/entries missing$/)
    await browser.press('Escape')
    await browser.until(`${rows} === 25`)
    // A search of several leads the walk.
    await browser.ask(`document.querySelector('[name=q]').value = '100.70.3'`)
    await browser.press('Home')
    await browser.press('ArrowRight')
    expect(await browser.ask(text('#picked'))).toMatch(/^100\.70\.3\.0\/24 /)
  })

  it('stay where they were when others join, and what one types is left alone', async () => {
    const view = crowd()
    await browser.open(await serve(view), DESK)
    await browser.until(LIVE)
    await browser.until(DRAWN)
    await browser.ask(`document.querySelector('canvas').focus()`)
    await browser.press('n')
    view.lines = [...view.lines, peer(5_000)]
    view.now = status({ leases: { inUse: 5_001, skipped: 0, skippedList: [] } })
    await browser.until(`${text('.found')}.startsWith('5,001 peers')`)
    expect(await browser.ask(text('#picked'))).toMatch(/^100\.68\.210\.0\/24 /)
    expect(await browser.ask('document.activeElement.id')).toBe('canvas')
  })

  it('are a table with pages where there is no script', async () => {
    const address = await serve(crowd())
    await browser.open(`${address}/?state=amiss`, { ...DESK, script: false })
    // The page runs none; what the DevTools ask is evaluated all the same.
    expect(await browser.ask(rows)).toBe(2)
    expect(await browser.ask(`document.querySelector('#map').hidden`)).toBe(true)
    expect(await browser.ask(`getComputedStyle(document.querySelector('form button')).display`)).not.toBe(
      'none',
    )
    expect(await browser.ask(text('#link'))).toMatch(/^As of \d\d:\d\d:\d\dZ\. /)
    await picture(browser, 'no-script')
  })
})
