/**
 * Takes secrets out of text that may leave the machine: passwords in flags, variables, URLs and JSON, Authorization headers, and
 * private keys; and the values in `known` wherever they stand. It rather takes too much than too little.
 */
export function redact(text: string, known: readonly string[] = []): string {
  let safe = text
    // FLANNELD_ETCD_PASSWORD=x, whose value may have spaces in it: the rest of the line.
    .replace(/([a-z_-]*(?:password|passwd|secret|token|psk)[a-z_]*=).+/gi, '$1(removed)')
    // -etcd-password x, "password": "x"
    .replace(
      /((?:password|passwd|secret|token|psk|presharedkey|privatekey)["']?(?:\s*:\s*|\s+))("[^"]*"|'[^']*'|[^\s"',}]+)/gi,
      '$1(removed)',
    )
    // Up to the last @ before the next URL: a password may hold one.
    .replace(/(\/\/)(?:(?!\/\/)[^\s"'])*@/g, '$1(removed)@')
    .replace(/(Authorization:\s*).*/gi, '$1(removed)')
    .replace(
      /-----BEGIN ([A-Z ]*PRIVATE KEY)-----[\s\S]*?(-----END \1-----|$)/g,
      '-----BEGIN $1----- (removed)',
    )
  for (const secret of known) safe = safe.replaceAll(secret, '(removed)')
  return safe
}

/** Shorter ones would be found in innocent words. */
const SHORTEST = 3

/** The passwords in a process's arguments and variables, and those in URLs there. */
export function secretsOf(args: readonly string[], variables: readonly string[]): string[] {
  const found = [...args, ...variables].flatMap((text) => {
    const value = /^(?:--?etcd-password|FLANNELD_ETCD_PASSWORD)=([\s\S]+)$/.exec(text)?.[1]
    const inUrls = [...text.matchAll(/\/\/[^/:@\s]*:((?:(?!\/\/)\S)+)@/g)].map((match) => match[1] ?? '')
    return [...(value === undefined ? [] : [value]), ...inUrls]
  })
  const flag = args.findIndex((arg) => /^--?etcd-password$/.test(arg))
  if (flag >= 0) found.push(args[flag + 1] ?? '')
  return found.filter((secret) => secret.length >= SHORTEST)
}
