/** How bad it is: all well, worth a look, or broken. */
export type Severity = 'ok' | 'warn' | 'fail'

/** What one check found. The shape of `flanneld doctor -json`; docs/doctor.md describes it. */
export interface Finding {
  /** Short name of the check, the same in every run. */
  readonly check: string
  readonly level: Severity
  readonly what: string
  /** What follows from it; '' when all is well. */
  readonly why: string
  /** The command or the edit that mends it; '' when there is nothing to mend. */
  readonly mend: string
  /** Present when `-fix` may run it: it changes nothing that could break what works. */
  readonly fix?: readonly string[]
}

/** A check that found nothing wrong. */
export function ok(check: string, what: string): Finding {
  return { check, level: 'ok', what, why: '', mend: '' }
}

/** A fault; one with `fix` is mended by that command. */
export function fault(
  check: string,
  level: 'warn' | 'fail',
  words: {
    readonly what: string
    readonly why: string
    readonly mend?: string
    readonly fix?: readonly string[]
  },
): Finding {
  const { what, why, fix } = words
  const mend = words.mend ?? fix?.join(' ') ?? ''
  return { check, level, what, why, mend, ...(fix === undefined ? {} : { fix }) }
}

/** The worst of them, as exit status: 0 ok, 1 warn, 2 fail. */
export function exitStatus(findings: readonly Finding[]): 0 | 1 | 2 {
  if (findings.some(({ level }) => level === 'fail')) return 2
  return findings.some(({ level }) => level === 'warn') ? 1 : 0
}

/** At most `most` of them in words, the rest as a number. */
export function some(items: readonly string[], most = 4): string {
  const rest = items.length - most
  return rest > 0 ? `${items.slice(0, most).join(', ')} and ${rest} more` : items.join(', ')
}
