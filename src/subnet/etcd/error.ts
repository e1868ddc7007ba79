import { oneLine } from '../gojson.ts'

/** etcd's own error numbers that callers ask for (etcd 3.4, server/etcdserver/api/v2error/error.go). */
export const EcodeKeyNotFound = 100
export const EcodeTestFailed = 101
export const EcodeNotFile = 102
export const EcodeNodeExist = 105
export const EcodeUnauthorized = 110
export const EcodeEventIndexCleared = 401

/**
 * `etcd`: etcd answered with one of its error numbers. `auth`: it refused our credentials. `http`: it, or a gateway, is in
 * trouble (5xx). `protocol`: the answer is none etcd gives. `timeout`, `transport`: there was no complete answer. `overtaken`:
 * etcd has answered what it was asked later, so that there will hardly be one.
 */
export type EtcdErrorKind = 'etcd' | 'auth' | 'http' | 'protocol' | 'timeout' | 'overtaken' | 'transport'

export interface EtcdErrorDetails {
  readonly kind: EtcdErrorKind
  /** What was asked, e.g. `GET http://10.0.0.1:2379/v2/keys/coreos.com/network/config`. */
  readonly request: string
  readonly reason: string
  readonly errorCode?: number
  readonly status?: number
  /** etcd's index at the time of the error; the `index` of its error body. */
  readonly index?: number
  /** Whether asking again, here or elsewhere, may help. */
  readonly transient: boolean
  /** The request had been sent before, without an answer: what it was refused for may be that it was carried out then. */
  readonly resent?: boolean
}

/** Every failure of a request to etcd; the message is one line: the request, the reason, and what to do. */
export class EtcdError extends Error {
  override readonly name = 'EtcdError'
  readonly kind: EtcdErrorKind
  readonly reason: string
  readonly errorCode: number | undefined
  readonly status: number | undefined
  readonly index: number | undefined
  readonly transient: boolean
  readonly resent: boolean

  constructor(details: EtcdErrorDetails) {
    super(`${details.request}: ${oneLine(details.reason)}`)
    this.kind = details.kind
    this.reason = oneLine(details.reason)
    this.errorCode = details.errorCode
    this.status = details.status
    this.index = details.index
    this.transient = details.transient
    this.resent = details.resent ?? false
  }

  /** The same failure, of another request. */
  of(request: string): EtcdError {
    const { kind, reason, errorCode, status, index, transient, resent } = this
    return new EtcdError({
      request,
      kind,
      reason,
      transient,
      resent,
      ...(errorCode === undefined ? {} : { errorCode }),
      ...(status === undefined ? {} : { status }),
      ...(index === undefined ? {} : { index }),
    })
  }
}

/** Whether `error` is etcd's answer with this error number. */
export function isEtcdCode(error: unknown, code: number): error is EtcdError {
  return error instanceof EtcdError && error.errorCode === code
}

/** What a failed connection means and what to do, from the codes of Node's net and tls. */
export function explainTransport(error: unknown): string {
  const code = codeOf(error)
  const known = code === undefined ? undefined : EXPLAINED[code]
  if (known !== undefined) return `${known} (${code})`
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID') {
    return `${causeText(error)} (${code}): use a host name that the server's certificate names`
  }
  // OpenSSL names the alert the server sent: it wants a client certificate, or does not like ours.
  if (code?.includes('ALERT') === true && /CERTIFICATE|UNKNOWN_CA/.test(code)) {
    return `the server refused our client certificate or wants one (${code}): check -etcd-certfile and -etcd-keyfile`
  }
  if (code?.startsWith('HPE_') === true)
    return `the answer is not HTTP (${code}): is this etcd's client port?`
  if (code?.includes('WRONG_VERSION_NUMBER') === true || code?.includes('PACKET_LENGTH_TOO_LONG') === true) {
    return `the server does not speak TLS (${code}): try http:// instead of https://`
  }
  return causeText(error)
}

const EXPLAINED: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'connection refused: is etcd running and listening there?',
  ECONNRESET:
    'the connection was reset before the answer was complete: if this goes on, check http:// or https:// in ' +
    '-etcd-endpoints',
  EPIPE: 'the connection was closed before the request was sent',
  EHOSTUNREACH: 'no route to host: check the network between here and etcd',
  ENETUNREACH: 'network unreachable: check the network between here and etcd',
  ETIMEDOUT: 'connection timed out: check firewalls between here and etcd',
  ENOTFOUND: 'the host name is unknown: check -etcd-endpoints and DNS',
  EAI_AGAIN: 'the name server does not answer: check DNS, or use an IP address in -etcd-endpoints',
  CERT_HAS_EXPIRED: "the server's certificate has expired: renew it (or check this machine's clock)",
  CERT_NOT_YET_VALID: "the server's certificate is not valid yet: check this machine's clock",
  DEPTH_ZERO_SELF_SIGNED_CERT: 'the certificate is self-signed: name it or its CA with -etcd-cafile',
  SELF_SIGNED_CERT_IN_CHAIN: "the server's certificate is of an unknown CA: name that CA with -etcd-cafile",
  UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    "the server's certificate is of an unknown CA: name that CA with -etcd-cafile",
  UNABLE_TO_GET_ISSUER_CERT: "the server's certificate is of an unknown CA: name that CA with -etcd-cafile",
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    "the server's certificate is of an unknown CA: name that CA with -etcd-cafile",
  CERT_SIGNATURE_FAILURE: "the server's certificate was not signed by the CA in -etcd-cafile",
}

function codeOf(error: unknown): string | undefined {
  const code: unknown = error instanceof Error && 'code' in error ? error.code : undefined
  return typeof code === 'string' ? code : undefined
}

function causeText(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)) || 'the connection failed'
}
