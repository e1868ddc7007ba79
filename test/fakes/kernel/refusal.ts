import { constants } from 'node:os'

type Errno = keyof typeof constants.errno

/** The kernel says no: an errno, and its own words where it has some. */
export class Refusal extends Error {
  override readonly name = 'Refusal'
  readonly errno: number
  readonly text: string | undefined

  constructor(code: Errno, text?: string) {
    super(text ?? code)
    this.errno = constants.errno[code]
    this.text = text
  }
}
