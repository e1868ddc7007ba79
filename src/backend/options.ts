import { BackendError } from './backend.ts'

const MIN_MTU = 576

/**
 * The `Backend` object of the network config, whose names Go matches without regard to case; null counts as absent. Every
 * method throws a BackendError that names the option, what it must be and what it is.
 */
export class BackendOptions {
  readonly #label: string
  readonly #fields = new Map<string, unknown>()

  /** `label` is how flannel calls the backend in its errors: `VXLAN`, `IPIP`. */
  constructor(label: string, options: Readonly<Record<string, unknown>>) {
    this.#label = label
    for (const [name, value] of Object.entries(options)) this.#fields.set(name.toLowerCase(), value)
  }

  /** A whole number from 0 to `max`. */
  integer(name: string, max: number): number | undefined {
    const value = this.#field(name)
    if (value === undefined) return undefined
    if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= max) return value
    throw this.wrong(name, `must be a whole number from 0 to ${max}, not ${JSON.stringify(value)}`)
  }

  /** `MTU`: bytes that a packet between nodes may have, 576 (RFC 791) or more; undefined for the interface's own. */
  mtu(): number | undefined {
    const mtu = this.integer('MTU', 65_535) || undefined
    if (mtu === undefined || mtu >= MIN_MTU) return mtu
    throw this.wrong('MTU', `must be 0, for the interface's own, or from ${MIN_MTU} to 65535, not ${mtu}`)
  }

  /** False when it is absent. */
  boolean(name: string): boolean {
    const value = this.#field(name) ?? false
    if (typeof value === 'boolean') return value
    throw this.wrong(name, `must be true or false, not ${JSON.stringify(value)}`)
  }

  /** Undefined when it is absent or empty. The error does not repeat the value, which may be a secret. */
  text(name: string): string | undefined {
    const value = this.#field(name) ?? ''
    if (typeof value === 'string') return value === '' ? undefined : value
    throw this.wrong(name, 'must be a string in quotes')
  }

  wrong(name: string, why: string): BackendError {
    return new BackendError(
      `Error registering network: error decoding ${this.#label} backend config: ${name} ${why}`,
    )
  }

  #field(name: string): unknown {
    return this.#fields.get(name.toLowerCase()) ?? undefined
  }
}
