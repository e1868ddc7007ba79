/** Text that is HTML already. Only `html` makes it, so that nothing gets into a page unescaped. */
export class Markup {
  readonly text: string

  constructor(text: string) {
    this.text = text
  }
}

export type Part = Markup | string | number | false | null | readonly Part[]

const ESCAPES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
}

/**
 * A template whose values are escaped, for text and for quoted attributes (OWASP's rule for both). Lists are joined, `false`
 * and `null` are nothing. Control characters, which HTML cannot hold, become U+FFFD.
 */
export function html(literals: TemplateStringsArray, ...values: readonly Part[]): Markup {
  let text = literals[0] ?? ''
  values.forEach((value, i) => {
    text += textOf(value) + (literals[i + 1] ?? '')
  })
  return new Markup(text)
}

function textOf(part: Part): string {
  if (part instanceof Markup) return part.text
  if (part === false || part === null) return ''
  if (typeof part === 'string') return escapeHtml(part)
  if (typeof part === 'number') return String(part)
  return part.map(textOf).join('')
}

/** Directional marks are taken out too: a name from etcd must not turn the text around it. */
function escapeHtml(text: string): string {
  return text
    .replaceAll(/[&<>"']/g, (found) => ESCAPES[found] ?? '')
    .replaceAll(/[\p{Cc}\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/gu, (found) =>
      found === '\n' || found === '\t' ? ' ' : '\ufffd',
    )
}
