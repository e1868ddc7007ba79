import type { PeerLine, Status } from '../status.ts'
import { DaemonClient, NoDaemonError } from './client.ts'
import { type CommandContext, type CommandFlags, readFlags } from './command.ts'
import { renderScreen } from './screen.ts'

export const FLAGS = {
  json: {
    type: 'bool',
    default: false,
    help: 'print the status as JSON (docs/status.md), every peer with it',
  },
  watch: { type: 'bool', default: false, help: 'show it anew every second until Ctrl-C' },
  peers: { type: 'int', default: 20, help: 'how many peers to list; those with something amiss come first' },
  socket: { type: 'string', default: '', help: "the daemon's control socket" },
} as const satisfies CommandFlags

/** Milliseconds. */
const WATCH_PERIOD = 1_000

/** Exit status 0: the daemon is ready; 1: it is not, or there is none. */
export async function run(args: readonly string[], context: CommandContext): Promise<number> {
  const flags = readFlags('status', FLAGS, args, context)
  if (typeof flags === 'number') return flags
  const client = new DaemonClient(flags.socket, context.env)
  if (flags.json) return await printJson(client, context)
  const limit = Math.max(0, flags.peers)
  const { out } = context
  const colour = out.isTTY === true && (context.env.NO_COLOR ?? '') === ''
  if (!flags.watch) {
    const { status, peers } = await ask(client, limit)
    out.write(renderScreen({ status, peers, colour }))
    return status.health.ready ? 0 : 1
  }
  for (;;) {
    const text = await ask(client, limit).then(
      ({ status, peers }) => renderScreen({ status, peers, colour }),
      (error: unknown) => {
        // Who looks on may want to see it come back.
        if (!(error instanceof NoDaemonError)) throw error
        return `flanneld status: ${error.message}\n`
      },
    )
    // Home, the screen, then away with what was longer before: no flicker.
    const clear = out.isTTY === true ? ['\x1b[H', '\x1b[K\n', '\x1b[J'] : ['', '\n', '\n']
    out.write(clear[0] + text.replaceAll('\n', clear[1] ?? '\n') + clear[2])
    await new Promise((resolve) => setTimeout(resolve, WATCH_PERIOD))
  }
}

async function ask(client: DaemonClient, limit: number): Promise<{ status: Status; peers: PeerLine[] }> {
  const status = await client.json<Status>('/status')
  const peers: PeerLine[] = []
  if (limit > 0) {
    for await (const line of await client.lines(`/peers?limit=${limit}`)) peers.push(JSON.parse(line))
  }
  return { status, peers }
}

/** The status object with one more key, `peers`, written as it comes. */
async function printJson(client: DaemonClient, { out }: CommandContext): Promise<number> {
  const status = await client.json<Status>('/status')
  out.write(`${JSON.stringify(status, undefined, 2).replace(/\n\}$/, '')},\n  "peers": [`)
  let first = true
  for await (const line of await client.lines('/peers')) {
    out.write(`${first ? '' : ','}\n    ${line}`)
    first = false
  }
  out.write(`${first ? '' : '\n  '}]\n}\n`)
  return status.health.ready ? 0 : 1
}
