import type { Facts, FileFacts } from './facts.ts'
import { type Finding, fault, ok } from './finding.ts'

const DAY = 86_400_000
/** Days before its end at which a certificate is worth a word. */
const SOON = 30

/** Files that flanneld reads and writes, the certificates among them, and the clock, which certificates go by. */
export function fileChecks(facts: Facts): Finding[] {
  const findings = facts.files.flatMap((file) => [...access(file), ...validity(file, facts.now)])
  const amiss = findings.filter(({ level }) => level !== 'ok')
  const good =
    facts.files.length > 0 && amiss.length === 0 ? [ok('files', 'permissions are as they should be')] : []
  return [...findings, ...good, ...clock(facts)]
}

function access({ path, kind, flag, mode, error }: FileFacts): Finding[] {
  if (error !== undefined) {
    return [
      fault('files', 'fail', {
        what: `${path} (${flag}) cannot be read: ${error}`,
        why: 'flanneld does not start without it',
        mend: `put it there, or name another with ${flag}`,
      }),
    ]
  }
  if (mode === undefined) return []
  const octal = mode.toString(8).padStart(3, '0')
  if (kind === 'secret' && (mode & 0o077) !== 0) {
    return [
      fault('files', 'warn', {
        what: `${path} (${flag}) has mode ${octal}`,
        why: 'others than its owner can get at a secret',
        fix: ['chmod', '600', path],
      }),
    ]
  }
  if (kind !== 'secret' && (mode & 0o022) !== 0) {
    return [
      fault('files', 'warn', {
        what: `${path} (${flag}) has mode ${octal}`,
        why: 'others than its owner can write to what root takes for granted',
        fix: ['chmod', 'go-w', path],
      }),
    ]
  }
  if (kind === 'public' && (mode & 0o044) !== 0o044) {
    return [
      fault('files', 'warn', {
        what: `${path} (${flag}) has mode ${octal}`,
        why: 'CNI plugins and others that are not root cannot read it',
        fix: ['chmod', 'go+r', path],
      }),
    ]
  }
  return []
}

function validity({ path, flag, notAfter, notBefore }: FileFacts, now: number): Finding[] {
  if (notAfter === undefined || notBefore === undefined) return []
  const day = (time: number): string => new Date(time).toISOString().slice(0, 10)
  if (notBefore > now) {
    return [
      fault('certificates', 'fail', {
        what: `${path} (${flag}) is valid from ${day(notBefore)} only`,
        why: 'etcd cannot be talked to until then',
        mend: 'set the clock right, or make another certificate',
      }),
    ]
  }
  const days = Math.floor((notAfter - now) / DAY)
  if (days >= SOON) return [ok('certificates', `${path} is valid until ${day(notAfter)}`)]
  return [
    fault('certificates', days < 0 ? 'fail' : 'warn', {
      what: `${path} (${flag}) ${days < 0 ? 'ended' : 'ends'} on ${day(notAfter)}`,
      why: 'without a valid certificate etcd cannot be talked to, and the lease is not renewed',
      mend: 'put a new one there; flanneld takes it up without a restart',
    }),
  ]
}

/** Seconds. Leases count by etcd's clock alone, so only certificates and logs care. */
const SKEW_WARN = 5
const SKEW_FAIL = 300

function clock({ etcd }: Facts): Finding[] {
  const skew = etcd.skewSeconds
  if (skew === undefined) return []
  const off = Math.abs(skew)
  if (off <= SKEW_WARN) return [ok('clock', "goes with etcd's")]
  return [
    fault('clock', off > SKEW_FAIL && etcd.secure ? 'fail' : 'warn', {
      what: `this clock is ${Math.round(off)} s ${skew > 0 ? 'ahead of' : 'behind'} etcd's`,
      why: 'certificates count as ended or not yet begun; logs of two nodes do not match',
      mend: 'timedatectl set-ntp true, or start chronyd, on the machine that is wrong',
    }),
  ]
}
