import { Durations } from '../../durations.ts'

/** What is asked of etcd, as metrics name it. */
export type EtcdOperation = 'get' | 'list' | 'watch' | 'create' | 'update' | 'delete'

/** `refused` is an answer that says no: no such key, another index, no right to it. */
export type EtcdOutcome = 'ok' | 'refused' | 'failed'

/** How one endpoint has answered; all of it from requests that were needed anyway. */
export interface EndpointTally {
  /** Without credentials. */
  readonly url: string
  answers: number
  failures: number
  /** Whether the last request to it failed. */
  failing: boolean
  lastError: string | undefined
  /** Monotonic milliseconds. */
  lastAnswer: number | undefined
  /** Milliseconds from the request to the headers of the last answer. */
  latency: number | undefined
}

export interface OperationTally {
  readonly outcomes: Record<EtcdOutcome, number>
  /** From the request to the headers of the answer; a long poll's come when etcd begins to wait. */
  readonly durations: Durations
}

/** What the client remembers of its requests, for those who look into the daemon. */
export class EtcdTally {
  readonly endpoints: readonly EndpointTally[]
  readonly operations: Readonly<Record<EtcdOperation, OperationTally>> = {
    get: operation(),
    list: operation(),
    watch: operation(),
    create: operation(),
    update: operation(),
    delete: operation(),
  }
  /** Position of the endpoint that is asked first. */
  current = 0

  constructor(urls: readonly string[]) {
    this.endpoints = urls.map((url) => ({
      url,
      answers: 0,
      failures: 0,
      failing: false,
      lastError: undefined,
      lastAnswer: undefined,
      latency: undefined,
    }))
  }

  answered(position: number, what: EtcdOperation, begun: number, now: number): void {
    const endpoint = this.endpoints[position]
    if (endpoint === undefined) return
    endpoint.answers++
    endpoint.failing = false
    endpoint.lastAnswer = now
    endpoint.latency = now - begun
    this.operations[what].durations.add(now - begun)
  }

  /** No answer, or one that tells that this endpoint cannot serve. */
  failed(position: number, error: string): void {
    const endpoint = this.endpoints[position]
    if (endpoint === undefined) return
    endpoint.failures++
    endpoint.failing = true
    endpoint.lastError = error
  }

  finished(what: EtcdOperation, outcome: EtcdOutcome): void {
    this.operations[what].outcomes[outcome]++
  }
}

function operation(): OperationTally {
  return { outcomes: { ok: 0, refused: 0, failed: 0 }, durations: new Durations() }
}
