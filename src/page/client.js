/**
 * What the page does beyond its HTML: it puts in the parts that the server sends, searches without a reload, and draws the
 * map. The server makes all HTML; from data nothing here makes any.
 */
const $ = (id) => document.getElementById(id)
const search = $('search')
const table = $('table')

// --- Times in the reader's own zone ---------------------------------------------------------------------------------------

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: 'medium' })
const day = new Intl.DateTimeFormat(undefined, { month: 'short', day: 'numeric' })

function localTimes(within) {
  for (const element of within.querySelectorAll('time')) {
    const at = new Date(element.dateTime)
    const today = at.toDateString() === new Date().toDateString()
    element.textContent = today ? clock.format(at) : `${day.format(at)} ${clock.format(at)}`
    element.title = element.dateTime
  }
}

/** Not while the reader marks text in it, which would be lost. */
function put(element, html) {
  const marked = getSelection()
  if (marked && !marked.isCollapsed && element.contains(marked.anchorNode)) return
  element.innerHTML = html
  localTimes(element)
}

// --- The table ------------------------------------------------------------------------------------------------------------

let page = Number(new URLSearchParams(location.search).get('page') ?? 1)
let asked = 0

function query() {
  const values = new URLSearchParams()
  const text = search.elements.q.value.trim()
  if (text !== '') values.set('q', text)
  if (search.elements.state.value !== 'all') values.set('state', search.elements.state.value)
  if (page > 1) values.set('page', page)
  return values.size === 0 ? '' : `?${values}`
}

async function fillTable() {
  const mine = ++asked
  const wanted = query()
  try {
    const response = await fetch(`/page/table${wanted}`)
    const html = await response.text()
    // Another question was asked in the meantime.
    if (mine !== asked || !response.ok) return
    const { scrollLeft } = table.querySelector('.scroll') ?? { scrollLeft: 0 }
    const focused = table.contains(document.activeElement)
    const rel = document.activeElement?.getAttribute('rel')
    put(table, html)
    const scroll = table.querySelector('.scroll')
    if (scroll) scroll.scrollLeft = scrollLeft
    if (focused)
      (table.querySelector(`a[rel="${rel}"]`) ?? scroll ?? $('peers')).focus({ preventScroll: true })
    history.replaceState(null, '', `/${wanted}${location.hash}`)
  } catch {
    // The line at the top says that the daemon is away.
  }
}

let typing
function searchSoon() {
  page = 1
  clearTimeout(typing)
  typing = setTimeout(fillTable, 150)
  draw()
}
search.addEventListener('input', searchSoon)
search.addEventListener('submit', (event) => {
  event.preventDefault()
  searchSoon()
})
table.addEventListener('click', (event) => {
  const link = event.target.closest?.('a')
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return
  event.preventDefault()
  const values = new URL(link.href).searchParams
  page = Number(values.get('page') ?? 1)
  search.elements.q.value = values.get('q') ?? ''
  search.elements.state.value = values.get('state') ?? 'all'
  fillTable()
  draw()
})

// --- The map --------------------------------------------------------------------------------------------------------------

const canvas = $('canvas')
const picked = $('picked')
const STATES = {
  ok: 'in order',
  missing: 'entries missing',
  differs: 'entries differ',
  none: 'another peer has its place',
  unreachable: 'does not answer pings',
}
/** Up to so many peers have their subnets beside them, and up to so many a line to the middle. */
const MOST_NAMES = 16
const MOST_SPOKES = 400
const RECENT = 60_000

const many = (count) => count.toLocaleString()
let peers = []
let places = []
let dot = 6
let at = -1

/** Rings around the middle, as far apart as fit, each with its share of the peers: neighbours in number are neighbours here. */
function arrange(count, radius) {
  if (count <= MOST_NAMES) return [{ radius: radius * 0.62, count, gap: 44 }]
  const inner = Math.min(radius * 0.3, 90)
  for (let gap = 40; ; gap *= 0.98) {
    const rings = []
    let room = 0
    for (let r = inner; r <= radius - gap / 2; r += gap) {
      const capacity = Math.floor((2 * Math.PI * r) / gap)
      rings.push({ radius: r, capacity, gap })
      room += capacity
    }
    if (room < count) continue
    // The outermost rings stay away when they are not needed.
    while (room - rings.at(-1).capacity >= count) room -= rings.pop().capacity
    // Few rings may use the room that many would take.
    const stretch = Math.min((radius - gap / 2) / rings.at(-1).radius, 1.75)
    let left = count
    return rings.map(({ radius: r, capacity }, i) => {
      const share = i === rings.length - 1 ? left : Math.min(left, Math.round((count * capacity) / room))
      left -= share
      return { radius: r * stretch, count: share, gap }
    })
  }
}

function place() {
  const { clientWidth: size } = canvas
  const rings = arrange(peers.length, size / 2 - 8)
  dot = Math.max(1.2, Math.min(7, rings[0].gap * 0.31))
  places = rings.flatMap(({ radius, count }) =>
    Array.from({ length: count }, (_, i) => {
      const angle = (i / count) * 2 * Math.PI - Math.PI / 2
      return { x: size / 2 + radius * Math.cos(angle), y: size / 2 + radius * Math.sin(angle), angle }
    }),
  )
}

function fits(peer) {
  const text = search.elements.q.value.trim().toLowerCase()
  const state = search.elements.state.value
  if (state !== 'all' && (peer.state === 'ok') !== (state === 'ok')) return false
  return text === '' || peer.subnet.includes(text) || peer.publicIP.includes(text) || holds(peer.subnet, text)
}

const number = (address) => address.split('.').reduce((sum, part) => sum * 256 + Number(part), 0)

function holds(subnet, address) {
  if (!/^\d+(\.\d+){3}$/.test(address)) return false
  const [network, length] = subnet.split('/')
  const size = 2 ** (32 - length)
  return Math.floor(number(network) / size) === Math.floor(number(address) / size)
}

let drawing = false
function draw() {
  if (drawing) return
  drawing = true
  requestAnimationFrame(() => {
    drawing = false
    paint()
  })
}

function paint() {
  const size = canvas.clientWidth
  if (size === 0) return
  const scale = devicePixelRatio || 1
  if (canvas.width !== Math.round(size * scale)) {
    canvas.width = canvas.height = Math.round(size * scale)
    place()
  }
  const c = canvas.getContext('2d')
  c.setTransform(scale, 0, 0, scale, 0, 0)
  c.clearRect(0, 0, size, size)
  const style = getComputedStyle(document.documentElement)
  const colour = (name) => style.getPropertyValue(`--${name}`)
  const [node, bad, ink, soft, card, accent] = ['node', 'bad', 'ink', 'soft', 'card', 'accent'].map(colour)
  const middle = size / 2
  const shown = peers.map(fits)
  const now = Date.now()

  c.lineWidth = 1
  peers.forEach(({ state }, i) => {
    if (!shown[i] || (peers.length > MOST_SPOKES && state === 'ok')) return
    c.strokeStyle = state === 'ok' ? colour('spoke') : bad
    c.globalAlpha = state === 'ok' ? 1 : 0.35
    c.beginPath()
    c.moveTo(middle, middle)
    c.lineTo(places[i].x, places[i].y)
    c.stroke()
  })
  c.globalAlpha = 1

  const each = (test, paintOne) => {
    c.beginPath()
    peers.forEach((peer, i) => {
      if (test(peer, i)) paintOne(places[i])
    })
  }
  const disc =
    (radius) =>
    ({ x, y }) => {
      c.moveTo(x + radius, y)
      c.arc(x, y, radius, 0, 2 * Math.PI)
    }
  // One path for all of a kind: thousands of discs are one stroke of the brush.
  c.fillStyle = soft
  c.globalAlpha = 0.25
  each((_, i) => !shown[i], disc(dot * 0.6))
  c.fill()
  c.globalAlpha = 1
  c.fillStyle = node
  each(({ state }, i) => shown[i] && state === 'ok', disc(dot))
  c.fill()
  c.strokeStyle = node
  c.globalAlpha = 0.5
  each(({ changed }, i) => shown[i] && now - changed < RECENT, disc(dot + 3))
  c.stroke()
  c.globalAlpha = 1
  const large = Math.max(dot * 1.3, 4)
  c.fillStyle = bad
  c.strokeStyle = card
  c.lineWidth = 1.5
  each(
    ({ state }, i) => shown[i] && state !== 'ok',
    ({ x, y }) => {
      c.moveTo(x, y - large)
      c.lineTo(x + large, y)
      c.lineTo(x, y + large)
      c.lineTo(x - large, y)
      c.closePath()
    },
  )
  c.stroke()
  c.fill()

  c.fillStyle = card
  c.beginPath()
  c.arc(middle, middle, 22, 0, 2 * Math.PI)
  c.fill()
  c.fillStyle = accent
  c.beginPath()
  c.arc(middle, middle, 13, 0, 2 * Math.PI)
  c.fill()

  c.font = '12px system-ui, sans-serif'
  c.fillStyle = ink
  if (peers.length <= MOST_NAMES) {
    peers.forEach(({ subnet }, i) => {
      const { x, y, angle } = places[i]
      c.textAlign = 'center'
      const below = Math.sin(angle) > -0.2
      c.fillText(subnet, Math.min(Math.max(x, 56), size - 56), y + (below ? dot + 16 : -dot - 8))
    })
  }
  const here = places[at]
  if (here) {
    c.strokeStyle = ink
    c.lineWidth = 2
    c.beginPath()
    c.arc(here.x, here.y, Math.max(dot, 4) + 4, 0, 2 * Math.PI)
    c.stroke()
  }
}

function pick(index) {
  if (index < 0 || index >= peers.length || index === at) return
  at = index
  const { subnet, publicIP, state, changed, rtt } = peers[at]
  const trip = state === 'ok' && rtt !== null ? `, answers in ${rtt} ms` : ''
  const since = changed === 0 ? '' : `, lease changed ${clock.format(changed)}`
  picked.textContent = `${subnet} at ${publicIP}: ${STATES[state]}${trip}${since}`
  draw()
}

/** One on or back, or on to the next amiss, among those that the search has left unless that is one alone. */
function step(by) {
  const wanted = peers.flatMap((peer, i) => (by !== 'amiss' || peer.state !== 'ok' ? [i] : []))
  const found = wanted.filter((i) => fits(peers[i]))
  const among = found.length > 1 ? found : wanted
  if (by === '-1') pick(among.findLast((i) => i < at) ?? among.at(-1) ?? -1)
  else pick(among.find((i) => i > at) ?? among[0] ?? -1)
}

/** The nearest in a quarter of the compass, for the arrows up and down, which lead from ring to ring. */
function across(direction) {
  const from = places[at]
  if (!from) return pick(0)
  let best = -1
  let least = Number.POSITIVE_INFINITY
  places.forEach(({ x, y }, i) => {
    const forward = (y - from.y) * direction
    const far = Math.hypot(x - from.x, y - from.y)
    if (forward > Math.abs(x - from.x) && far < least) [best, least] = [i, far]
  })
  pick(best)
}

function nearest(event) {
  const box = canvas.getBoundingClientRect()
  const [x, y] = [event.clientX - box.left, event.clientY - box.top]
  let best = -1
  let least = 24
  places.forEach((each, i) => {
    const far = Math.hypot(each.x - x, each.y - y)
    if (far < least) [best, least] = [i, far]
  })
  return best
}

function lookUp(text) {
  search.elements.q.value = text
  search.elements.state.value = 'all'
  searchSoon()
  if (text !== '') $('peers').scrollIntoView({ block: 'nearest' })
}

canvas.addEventListener('pointermove', (event) => {
  if (event.pointerType === 'mouse') pick(nearest(event))
})
canvas.addEventListener('click', (event) => {
  const found = nearest(event)
  pick(found)
  if (found >= 0 && event.pointerType === 'mouse') lookUp(peers[found].subnet)
})
canvas.addEventListener('keydown', (event) => {
  const act = {
    ArrowRight: () => step('1'),
    ArrowLeft: () => step('-1'),
    ArrowDown: () => across(1),
    ArrowUp: () => across(-1),
    Home: () => pick(0),
    End: () => pick(peers.length - 1),
    n: () => step('amiss'),
    N: () => step('amiss'),
    Enter: () => at >= 0 && lookUp(peers[at].subnet),
    Escape: () => lookUp(''),
  }[event.key]
  if (!act || event.ctrlKey || event.metaKey || event.altKey) return
  event.preventDefault()
  act()
})
for (const button of document.querySelectorAll('[data-step]')) {
  button.addEventListener('click', () => step(button.dataset.step))
}
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw)
new ResizeObserver(draw).observe(canvas)

let edition
async function fillMap() {
  try {
    const response = await fetch('/page/map')
    if (!response.ok) return
    const map = await response.json()
    edition = map.edition
    const before = peers[at]?.subnet
    peers = map.peers.map(([subnet, publicIP, state, changed, rtt]) => ({
      subnet,
      publicIP,
      state: map.states[state],
      changed,
      rtt,
    }))
    at = peers.findIndex(({ subnet }) => subnet === before)
    $('map').hidden = peers.length === 0
    const amiss = peers.filter(({ state }) => state !== 'ok').length
    canvas.setAttribute('aria-label', `Map of ${peers.length} peers, ${amiss} of them amiss`)
    document.querySelector('[data-step="amiss"]').disabled = amiss === 0
    if (at < 0) picked.textContent = `${many(peers.length - amiss)} in order, ${many(amiss)} amiss`
    if (peers.length > 0) place()
    draw()
  } catch {
    // As with the table.
  }
}

// --- Live -----------------------------------------------------------------------------------------------------------------

const link = $('link')
let source
let again

function say(kind, text) {
  if (link.textContent === text) return
  link.className = `link ${kind}`
  link.textContent = text
}

function follow() {
  clearTimeout(again)
  source?.close()
  source = new EventSource('/page/live')
  source.onopen = () => say('live', 'Live')
  source.onerror = () => {
    // A refusal ends it; a broken connection it mends by itself.
    const refused = source.readyState === EventSource.CLOSED
    say('lost', refused ? 'Not live: the daemon is busy or away' : 'Connection lost, trying again')
    if (refused) again = setTimeout(follow, 15_000)
  }
  source.addEventListener('part', (event) => {
    const { id, html } = JSON.parse(event.data)
    put($(id), html)
    // What is new on the map does not stay new.
    if (id === 'tiles') draw()
    if (id === 'verdict')
      document.title = document.title.replace(/^[^·]*/, `${$(id).querySelector('h1').textContent.trim()} `)
  })
  source.addEventListener('peers', (event) => {
    if (Number(event.data) === edition) return
    fillMap()
    if (edition !== undefined) fillTable()
  })
}

// Nobody sees a hidden page; it costs the daemon nothing.
document.addEventListener('visibilitychange', () => {
  if (document.hidden) {
    clearTimeout(again)
    source?.close()
  } else follow()
})
addEventListener('pagehide', () => source?.close())

document.documentElement.classList.add('scripted')
localTimes(document)
if (!document.hidden) follow()
