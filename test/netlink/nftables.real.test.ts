/** The generation of the ruleset, as iptables and nft change it. */
import { execFileSync } from 'node:child_process'
import { afterAll, expect, it } from 'vitest'
import { Rtnl } from '../../src/netlink/conn.ts'
import { getGeneration } from '../../src/netlink/nftables.ts'
import { openNftables } from '../../src/netlink/socket.ts'
import { enterNewNamespace } from '../native/addons.ts'

const leave = enterNewNamespace()
afterAll(leave)

it('changes with every transaction of nft and iptables-nft, and with nothing else', () => {
  const requests = new Rtnl(openNftables())
  const run = (command: string): void => void execFileSync('sh', ['-c', command])
  const generation = (): number => requests.get(getGeneration())
  const seen = [generation()]
  for (const command of [
    'nft add table ip one',
    "nft 'add chain ip one c { type filter hook input priority 0; }'",
    'nft add rule ip one c accept',
    'iptables-nft -A FORWARD -j ACCEPT',
    "printf '*nat\\n-A POSTROUTING -j ACCEPT\\nCOMMIT\\n' | iptables-nft-restore --noflush",
    'iptables-nft -D FORWARD -j ACCEPT',
    'nft delete table ip one',
  ]) {
    run(command)
    const now = generation()
    expect(seen, command).not.toContain(now)
    seen.push(now)
    run('nft list ruleset; iptables-nft-save; ip link add d0 type veth peer name d1; ip link del d0')
    expect(generation(), `reading after ${command}`).toBe(now)
  }
  requests.close()
})
