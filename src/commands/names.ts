/** The subcommands, told apart from a daemon's command line by the first word. */
export const COMMANDS = {
  status: { summary: 'show what the running daemon believes and what the kernel holds' },
  doctor: { summary: 'look for faults here and on the way to each peer, and for what mends them' },
  'log-level': { summary: "show or set the running daemon's log level" },
  bundle: { summary: 'gather what a bug report needs into one tar.gz' },
  cleanup: { summary: 'take all that the daemon has made off this node' },
  completion: { summary: 'print shell completion for bash, zsh or fish' },
} as const satisfies Readonly<Record<string, { readonly summary: string }>>

export type CommandName = keyof typeof COMMANDS

export function isCommand(word: string | undefined): word is CommandName {
  return word !== undefined && Object.hasOwn(COMMANDS, word)
}
