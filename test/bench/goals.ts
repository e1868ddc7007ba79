/** What the numbers are meant to be. A goal is about ours: beside the peer's, beside another of our own, or as it stands. */
export interface Goal {
  readonly name: RegExp
  /** At most this many times the peer's. */
  readonly ratio?: number
  /** At most this, in the measure's unit. */
  readonly most?: number
  /** At most `times` our own value of another measure. */
  readonly of?: { readonly name: string; readonly times: number }
}

export const GOALS: readonly Goal[] = [
  { name: /^start to READY, no peers$/, ratio: 1 },
  { name: /^1000 peers: private memory$/, ratio: 1.3 },
  { name: /^1000 peers: resident memory$/, most: 58 },
  { name: /^5000 peers: start to last entry$/, ratio: 0.25 },
  { name: /^15000 peers: start to last entry$/, ratio: 0.08 },
  {
    name: /^15000 peers: restart to READY$/,
    of: { name: '15000 peers: start to last entry', times: 0.6 },
  },
  { name: /peers: restart: kernel entries changed$/, most: 0 },
  { name: /^65000 peers: start to last entry$/, most: 2000 },
  { name: /^65000 peers: resident memory$/, most: 200 },
  { name: /: etcd to route, p50$/, most: 1 },
  { name: /: etcd to route, p99$/, most: 5 },
  { name: /joins and leaves: resident memory more than before$/, most: 10 },
  { name: /^60 nodes .*: to full mesh$/, ratio: 0.8 },
  { name: /^60 nodes .*: tries a node$/, most: 4 },
  { name: /^idle, 1000 peers: private memory more than before$/, most: 1 },
  { name: /^idle, 1000 peers: descriptors more than before$/, most: 0 },
  // 0.2 % of a core.
  { name: /^idle, 1000 peers: CPU in 60 s$/, most: 120 },
]

/** `<= 0.25 x: met`, empty when there is no goal for `name`. `ours` and `peer` are NaN when not measured. */
export function judge(
  name: string,
  values: { readonly ours: number; readonly peer: number },
  oursOf: (name: string) => number,
): string {
  const goal = GOALS.find((candidate) => candidate.name.test(name))
  if (goal === undefined) return ''
  const { ours, peer } = values
  const verdict = (limit: number): string => (ours <= limit ? 'met' : 'missed')
  if (goal.most !== undefined) return `≤ ${goal.most}: ${verdict(goal.most)}`
  if (goal.of !== undefined) {
    return `≤ ${goal.of.times} × ${goal.of.name}: ${verdict(goal.of.times * oursOf(goal.of.name))}`
  }
  const { ratio = Number.NaN } = goal
  return Number.isNaN(peer) ? `≤ ${ratio} × peer` : `≤ ${ratio} × peer: ${verdict(ratio * peer)}`
}
