import { oneLine } from '../gojson.ts'

/** One URL of -etcd-endpoints, taken apart. */
export interface Endpoint {
  /** Scheme, host and port and, when it has one, the path in front of `/v2`; no slash at the end, no credentials. */
  readonly base: string
  readonly secure: boolean
  /** Value of an Authorization header when the URL itself carried a user name. */
  readonly authorization: string | undefined
}

/** An -etcd-endpoints value that cannot work; one line that names the entry. */
export class EndpointError extends Error {
  override readonly name = 'EndpointError'
}

/** Reads the comma-separated URLs of -etcd-endpoints; spaces around a comma do no harm. Throws an EndpointError. */
export function parseEndpoints(list: string): Endpoint[] {
  const texts = list.split(',').map((text) => text.trim())
  return texts.map((text) => {
    if (text === '') {
      throw new EndpointError(
        list.trim() === ''
          ? 'no etcd endpoint: set -etcd-endpoints to for example http://127.0.0.1:2379'
          : 'an entry of -etcd-endpoints is empty: remove the extra comma',
      )
    }
    const url = /^https?:\/\//i.test(text) ? URL.parse(text) : null
    if (url === null) {
      throw new EndpointError(
        `etcd endpoint "${redact(oneLine(text))}" is not a URL flanneld can use: it must look like http://host:2379 or https://host:2379`,
      )
    }
    return {
      base: url.origin + url.pathname.replace(/\/+$/, ''),
      secure: url.protocol === 'https:',
      authorization: url.username === '' ? undefined : authorizationOf(url),
    }
  })
}

function authorizationOf({ username, password, host }: URL): string {
  try {
    return basicAuthorization(decodeURIComponent(username), decodeURIComponent(password))
  } catch {
    throw new EndpointError(
      `etcd endpoint "***@${host}": a % in its user name or password that does not begin an escape must be written %25`,
    )
  }
}

/** RFC 7617; the text is a secret. */
export function basicAuthorization(user: string, password: string): string {
  return `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`
}

/** Without what may be a password, even where a character that it should have escaped has torn it from its URL. */
function redact(text: string): string {
  const host = text.replace(/^(https?:\/\/)?.*@/i, '$1***@')
  // Neither the rest of a URL nor of an IPv6 address, nor a port.
  return host.replace(/:(?!\/\/|[\da-f:]*\]?(:\d*)?(\/|$)).*/i, ':***')
}
