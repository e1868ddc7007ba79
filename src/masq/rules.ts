/**
 * Forwarding and masquerade policy as data, before it is iptables text.
 *
 * N is the whole network, S this node's subnet. The same rules, in the same built-in chains and the same order
 * as flannel v0.11, for operators and their scripts look for them there:
 *
 *   nat POSTROUTING   1  from N to N             RETURN       a pod keeps its address inside the network
 *                     2  from N, not multicast   MASQUERADE   pod to world
 *                     3  from outside N to S     RETURN       world to own pod: the pod sees who called
 *                     4  from outside N to N     MASQUERADE   host to remote pod: the answer comes back to us
 *   filter FORWARD    1  from N                  ACCEPT
 *                     2  to N                    ACCEPT
 *
 * The rules carry no mark of ours, so what counts as ours is decided by shape (see `ours`), and narrowly: an
 * operator's rule must never be taken for one of ours.
 */
import { overlaps, type Subnet, sameSubnet } from '../ip.ts'

/** A source or destination test of a rule; `negated` is iptables' `!`. */
export interface AddressMatch {
  readonly subnet: Subnet
  readonly negated: boolean
}

/** One firewall rule, of the few kinds that flannel writes. */
export interface Rule {
  readonly source: AddressMatch | undefined
  readonly destination: AddressMatch | undefined
  readonly target: 'RETURN' | 'MASQUERADE' | 'ACCEPT'
  /** Choose the source port at random (iptables 1.6.2), which avoids lost SYNs when two flows race for one port. */
  readonly randomFully: boolean
}

/** What one built-in chain should hold of us. */
export interface RuleGroup {
  readonly table: 'nat' | 'filter'
  readonly chain: 'POSTROUTING' | 'FORWARD'
  /** Wanted, in this order and in one piece; empty when ours are to be withdrawn. */
  readonly rules: readonly Rule[]
  /** Which of the rules present in the chain are ours to move and delete, wanted ones included. */
  ours(present: readonly Rule[]): readonly Rule[]
}

export type Ruleset = readonly RuleGroup[]

/** The network and own subnet that rules are written for. */
export interface Addresses {
  readonly network: Subnet
  readonly subnet: Subnet
}

/** What the operator asked for (`-ip-masq`, `-iptables-forward-rules`) and for which addresses. */
export interface Policy extends Addresses {
  readonly masquerade: boolean
  readonly forward: boolean
}

const MULTICAST: Subnet = { address: 0xe0000000, length: 4 }

/**
 * The rules of a policy. `previous` are addresses that an earlier flannel on this node is known to have used
 * (its subnet file); empty at a first start, and then nothing but the wanted rules themselves is ours.
 */
export function ruleset(
  policy: Policy,
  options: { readonly randomFully: boolean; readonly previous: readonly Addresses[] },
): Ruleset {
  const { network, masquerade, forward } = policy
  // A network of length 0 matches everything; in an old subnet file it means that there was none.
  const before = options.previous.map((p) => p.network).filter((n) => n.length > 0)
  const networks = before.length ? [network, ...before] : []
  const groups: RuleGroup[] = []
  if (masquerade) {
    const rules = masqueradeRules(policy, options.randomFully)
    groups.push({
      table: 'nat',
      chain: 'POSTROUTING',
      rules,
      ours: (present) =>
        present.filter((r) => includes(rules, r) || networks.some((n) => kindFor(n, r) !== undefined)),
    })
  } else if (networks.length) {
    groups.push({
      table: 'nat',
      chain: 'POSTROUTING',
      rules: [],
      ours: (present) => networks.flatMap((n) => completeGroup(n, present)),
    })
  }
  if (forward) {
    const rules = forwardRules(network)
    const old = networks.flatMap(forwardRules)
    groups.push({
      table: 'filter',
      chain: 'FORWARD',
      rules,
      ours: (present) => present.filter((r) => includes(rules, r) || includes(old, r)),
    })
  }
  return groups
}

/**
 * All that a flannel with these addresses ever wrote, to be taken away; each group's `rules` are what it would have been
 * last. `masquerade`: it was told to, so that even one of the four rules alone is known to be its own. Without `forward`
 * the two rules of that chain are an operator's own.
 */
export function withdrawal(
  addresses: Addresses,
  options: { readonly masquerade: boolean; readonly forward: boolean; readonly randomFully: boolean },
): Ruleset {
  const { masquerade, randomFully } = options
  const { network } = addresses
  const forward = forwardRules(network)
  const nat: RuleGroup = {
    table: 'nat',
    chain: 'POSTROUTING',
    rules: masqueradeRules(addresses, randomFully),
    ours: (present) =>
      masquerade
        ? present.filter((rule) => kindFor(network, rule) !== undefined)
        : completeGroup(network, present),
  }
  const filter: RuleGroup = {
    table: 'filter',
    chain: 'FORWARD',
    rules: forward,
    ours: (present) => present.filter((rule) => includes(forward, rule)),
  }
  return options.forward ? [nat, filter] : [nat]
}

function masqueradeRules({ network, subnet }: Addresses, randomFully: boolean): Rule[] {
  const inside = { subnet: network, negated: false }
  const outside = { subnet: network, negated: true }
  const own = { subnet, negated: false }
  const unicast = { subnet: MULTICAST, negated: true }
  return [
    { source: inside, destination: inside, target: 'RETURN', randomFully: false },
    { source: inside, destination: unicast, target: 'MASQUERADE', randomFully },
    { source: outside, destination: own, target: 'RETURN', randomFully: false },
    { source: outside, destination: inside, target: 'MASQUERADE', randomFully },
  ]
}

function forwardRules(network: Subnet): Rule[] {
  const inside = { subnet: network, negated: false }
  return [
    { source: inside, destination: undefined, target: 'ACCEPT', randomFully: false },
    { source: undefined, destination: inside, target: 'ACCEPT', randomFully: false },
  ]
}

/**
 * Which of the four masquerade rules, 0..3, this is for a network, whatever the own subnet and with or without
 * random ports: Go flannel leaves the third behind with every change of subnet.
 */
function kindFor(network: Subnet, rule: Rule): number | undefined {
  const { source, destination } = rule
  if (!source || !destination || !sameSubnet(source.subnet, network)) return undefined
  if (rule.target === 'RETURN') {
    if (destination.negated) return undefined
    if (!source.negated) return sameSubnet(destination.subnet, network) ? 0 : undefined
    const inside = overlaps(network, destination.subnet) && destination.subnet.length > network.length
    return inside ? 2 : undefined
  }
  if (rule.target === 'MASQUERADE') {
    if (!source.negated)
      return destination.negated && sameSubnet(destination.subnet, MULTICAST) ? 1 : undefined
    return !destination.negated && sameSubnet(destination.subnet, network) ? 3 : undefined
  }
  return undefined
}

/**
 * With masquerading off, one rule alone may be an operator's own; all four together are what flannel wrote.
 */
function completeGroup(network: Subnet, present: readonly Rule[]): readonly Rule[] {
  const kinds = new Set<number>()
  const found = present.filter((rule) => {
    const kind = kindFor(network, rule)
    if (kind !== undefined) kinds.add(kind)
    return kind !== undefined
  })
  return kinds.size === 4 ? found : []
}

function includes(rules: readonly Rule[], rule: Rule): boolean {
  return rules.some((r) => sameRule(r, rule))
}

/** Whether two rules do the same to the same packets. */
function sameRule(a: Rule, b: Rule): boolean {
  return (
    a.target === b.target &&
    a.randomFully === b.randomFully &&
    sameMatch(a.source, b.source) &&
    sameMatch(a.destination, b.destination)
  )
}

function sameMatch(a: AddressMatch | undefined, b: AddressMatch | undefined): boolean {
  if (!a || !b) return a === b
  return a.negated === b.negated && sameSubnet(a.subnet, b.subnet)
}
