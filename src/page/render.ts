import { html, type Markup } from './html.ts'
import type { Look } from './look.ts'
import { mark, renderParts, verdictOf } from './parts.ts'
import { type Query, select } from './select.ts'
import { renderTable } from './table.ts'

/** The whole page; it says all that it has to say without a script, which adds the map and keeps it up to date. */
export function renderPage(look: Look, query: Query): Markup {
  const { status, peers } = look
  const parts = renderParts(look)
  const node = status.lease?.publicIP ?? status.interface?.publicIP ?? 'no address yet'
  const option = (value: Query['state'], words: string): Markup =>
    html`<option value="${value}"${query.state === value && html` selected`}>${words}</option>`
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${verdictOf(look).title} &middot; ${node} &middot; flanneld</title>
<link rel="icon" href="/page/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="/page/style.css">
<script src="/page/client.js" type="module"></script>
</head>
<body>
<a class="skip" href="#peers">Skip to the peers</a>
<header>
<p class="brand"><img src="/page/icon.svg" alt="" width="22" height="22"> flanneld <span>${node}</span></p>
<p id="link" class="link" role="status"><noscript>As of ${new Date().toISOString().slice(11, 19)}Z. <a href="/">Reload</a></noscript></p>
</header>
<main>
<section id="verdict" aria-live="polite" aria-label="State of this node">${parts.verdict ?? null}</section>
<section id="tiles" aria-label="In short">${parts.tiles ?? null}</section>
<div class="pair">
<section class="card map" id="map" aria-labelledby="map-title" hidden>
<h2 id="map-title">Overlay</h2>
<div class="stage" id="stage"><canvas id="canvas" tabindex="0" role="application" aria-label="Map of the peers" aria-describedby="map-help"></canvas></div>
<p id="picked" class="picked" aria-live="polite"></p>
<div class="steps"><button type="button" data-step="-1">&lsaquo; Previous</button><button type="button" data-step="1">Next &rsaquo;</button><button type="button" data-step="amiss">Next amiss</button></div>
<p class="help"><span>${mark('ok')} in order</span> <span>${mark('bad')} amiss</span> <span><i class="mark ring" aria-hidden="true"></i> lease changed within a minute</span></p>
<p id="map-help" class="help">This node is in the middle, its peers in the order of their subnets. <b>Keys: arrows walk, N finds the next amiss, Enter looks it up below, Escape shows all again.</b></p>
</section>
<section class="card" aria-labelledby="timeline-title">
<h2 id="timeline-title">Recent events</h2>
<div id="timeline" class="scroll tall" role="region" aria-labelledby="timeline-title" tabindex="0">${parts.timeline ?? null}</div>
</section>
</div>
<section class="card" id="peers" aria-labelledby="peers-title" tabindex="-1">
<div class="bar"><h2 id="peers-title">Peers</h2>
<form action="/" method="get" role="search" id="search">
<label><span class="unseen">Subnet, address, MAC or route of a peer</span><input type="search" name="q" value="${query.text}" placeholder="Subnet or address" maxlength="64" autocomplete="off" spellcheck="false"></label>
<label><span class="unseen">State of a peer</span><select name="state">${option('all', 'All')}${option('amiss', 'Amiss')}${option('ok', 'In order')}</select></label>
<button type="submit">Search</button>
</form></div>
<div id="table">${renderTable(select(peers.lines, query), status)}</div>
</section>
<section class="card" aria-labelledby="details-title">
<h2 id="details-title">Details</h2>
<div id="details">${parts.details ?? null}</div>
</section>
</main>
<footer><p>${status.daemon.version}. Also here: <a href="/metrics">/metrics</a>. The same in a terminal: <code>flanneld status</code></p></footer>
</body>
</html>
`
}
