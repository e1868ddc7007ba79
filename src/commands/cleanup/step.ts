/** Something to take off this node. */
export interface Step {
  /** What goes, in words: "device flannel.1". Several when they go together. */
  readonly removes: readonly string[]
  /** What an operator would type for the same. */
  readonly commands: readonly string[]
  /** Does it; what is gone already is success. Throws an Error with one line that says why not. */
  run(): Promise<void> | void
}

/** What was found on this node. */
export interface Findings {
  readonly steps: readonly Step[]
  /** What looks like flannel's and is not known to be, one line each: it stays. */
  readonly strangers: readonly string[]
}

/** A word of a command line, quoted when the shell would take it for more than that. */
export function quoted(word: string): string {
  return /^[\w./:=@%+,-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`
}
