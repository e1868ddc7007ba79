import { type Facts, isInstalled } from './facts.ts'
import { type Finding, fault, ok } from './finding.ts'

/** What the running daemon says of itself. */
export function daemonChecks(facts: Facts): Finding[] {
  const { daemon } = facts
  if (typeof daemon === 'string') {
    if (!isInstalled(facts)) return [ok('flanneld', 'does not run here yet: the machine alone is looked at')]
    return [
      fault('flanneld', 'warn', {
        what: daemon,
        why: 'the device stays as it is: new nodes are not reached, and the lease ends within a day',
        mend: 'systemctl start flanneld; why it ended: journalctl -u flanneld -n 20',
      }),
    ]
  }
  const { health } = daemon
  const version = `${daemon.daemon.version}, pid ${daemon.daemon.pid}`
  if (health.alive && health.ready) return [ok('flanneld', `${version}, ready`)]
  return [
    fault('flanneld', 'fail', {
      what: `${version} is ${health.alive ? 'not ready' : 'stuck'}: ${health.reasons.join('; ')}`,
      why: 'it does not do all its work',
      mend: health.alive ? 'flanneld status; journalctl -u flanneld' : 'systemctl restart flanneld',
    }),
  ]
}
