/** Fields of a log line. Never put a secret in one. */
export type LogFields = Readonly<Record<string, string | number | boolean | undefined>>

/** What the parts of the program log through; `openLog` makes one. One call is one line. */
export interface Logger {
  trace(message: string, fields?: LogFields): void
  debug(message: string, fields?: LogFields): void
  info(message: string, fields?: LogFields): void
  warn(message: string, fields?: LogFields): void
  error(message: string, fields?: LogFields): void
}
