/**
 * Chains of nat POSTROUTING in shorthand, one letter or digit for a rule, so that the cases read as pictures.
 * The text of each rule is as iptables-save prints it.
 */
import { parseCidr, type Subnet, subnetOf } from '../../src/ip.ts'
import type { Addresses, Policy } from '../../src/masq/rules.ts'

export function subnet(text: string): Subnet {
  const cidr = parseCidr(text)
  if (!cidr) throw new Error(`bad subnet ${text}`)
  return subnetOf(cidr.address, cidr.length)
}

export const policy: Policy = {
  network: subnet('10.5.0.0/16'),
  subnet: subnet('10.5.1.0/24'),
  masquerade: true,
  forward: true,
}

export const rules: Readonly<Record<string, string>> = {
  // Wanted.
  1: '-s 10.5.0.0/16 -d 10.5.0.0/16 -j RETURN',
  2: '-s 10.5.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully',
  3: '! -s 10.5.0.0/16 -d 10.5.1.0/24 -j RETURN',
  4: '! -s 10.5.0.0/16 -d 10.5.0.0/16 -j MASQUERADE --random-fully',
  // Of flannel with an older iptables, and of an older subnet.
  b: '-s 10.5.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE',
  c: '! -s 10.5.0.0/16 -d 10.5.9.0/24 -j RETURN',
  // Of an older network.
  p: '-s 10.6.0.0/16 -d 10.6.0.0/16 -j RETURN',
  q: '-s 10.6.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully',
  r: '! -s 10.6.0.0/16 -d 10.6.3.0/24 -j RETURN',
  s: '! -s 10.6.0.0/16 -d 10.6.0.0/16 -j MASQUERADE --random-fully',
  // Of others.
  D: '-s 172.17.0.0/16 ! -o docker0 -j MASQUERADE',
  E: '-s 10.5.0.0/16 -d 10.9.0.0/16 -j RETURN',
  F: '-j RETURN',
  G: '-p tcp -m tcp --dport 8080 -j MASQUERADE --to-ports 1024-31000',
  H: '-s 10.5.0.0/16 -d 10.5.0.0/16 -m comment --comment "mine, not flannel\\\'s" -j RETURN',
  I: '! -d 224.0.0.0/4 -j MASQUERADE --random-fully',
  J: '-s 10.7.0.0/16 -d 10.7.0.0/16 -j RETURN',
  K: '! -s 10.5.0.0/16 -d 10.0.0.0/8 -j RETURN',
  L: '! -s 10.5.0.0/16 -d 10.5.0.0/16 -j RETURN',
  M: '! -s 10.5.0.0/16 -d 10.50.1.0/24 -j RETURN',
}

/** 'F 1 2' to rule texts. */
export function expand(picture: string): string[] {
  return picture
    .split(' ')
    .filter((s) => s)
    .map((symbol) => {
      const text = rules[symbol]
      if (!text) throw new Error(`no rule ${symbol}`)
      return text
    })
}

/** Rule texts to 'F 1 2'. */
export function picture(texts: readonly string[]): string {
  const symbols = new Map(Object.entries(rules).map(([symbol, text]) => [text, symbol]))
  return texts.map((text) => symbols.get(text) ?? `<${text}>`).join(' ')
}

const sameNetwork: Addresses = { network: policy.network, subnet: subnet('10.5.9.0/24') }
const otherNetwork: Addresses = { network: subnet('10.6.0.0/16'), subnet: subnet('10.6.3.0/24') }
const none: Addresses = { network: subnet('0.0.0.0/0'), subnet: subnet('0.0.0.0/0') }

export interface ChainCase {
  readonly name: string
  readonly before: string
  readonly after: string
  readonly previous?: Addresses
  readonly policy?: Policy
}

const off: Policy = { ...policy, masquerade: false }

/** What is found at a start, and what must be there then. Equal pictures mean: no write at all. */
export const cases: readonly ChainCase[] = [
  { name: 'an empty chain', before: '', after: '1 2 3 4' },
  { name: 'rules of others only: ours go behind them', before: 'D F', after: 'D F 1 2 3 4' },
  { name: "Go flannel's rules, as they should be", before: '1 2 3 4', after: '1 2 3 4' },
  { name: 'right between rules of others', before: 'D E 1 2 3 4 F G', after: 'D E 1 2 3 4 F G' },
  { name: 'one gone from the middle', before: 'D 1 2 4 F', after: 'D 1 2 3 4 F' },
  { name: 'the first gone', before: 'D 2 3 4 F', after: 'D 1 2 3 4 F' },
  { name: 'the last gone', before: 'D 1 2 3 F', after: 'D 1 2 3 4 F' },
  { name: 'one moved to the end of ours', before: '1 2 4 3', after: '1 2 3 4' },
  { name: 'one moved behind a rule of another', before: 'D 1 2 4 F 3 G', after: 'D 1 2 3 4 F G' },
  { name: 'the last moved behind a rule of another', before: '1 2 3 F 4', after: '1 2 3 4 F' },
  { name: 'an exception put behind our first', before: '1 E 2 3 4', after: 'E 1 2 3 4' },
  { name: 'all in reverse', before: '4 D 3 E 2 F 1', after: '1 2 3 4 D E F' },
  { name: 'each twice', before: '1 2 3 4 1 2 3 4', after: '1 2 3 4' },
  { name: 'duplicates strewn about', before: '3 D 1 2 3 4 F 4 1', after: 'D 1 2 3 4 F' },
  { name: 'lookalikes of others stay', before: 'H I J 1 3 4', after: 'H I J 1 2 3 4' },
  {
    name: 'lookalikes stay at a later start too',
    before: 'H I J K L M 1 3 4',
    after: 'H I J K L M 1 2 3 4',
    previous: sameNetwork,
  },
  { name: 'a first start leaves rules for everywhere alone', before: 'F I', after: 'F I 1 2 3 4' },
  {
    name: 'a subnet file of 0.0.0.0/0 says nothing',
    before: 'F I c',
    after: 'F I c 1 2 3 4',
    previous: none,
  },
  {
    name: "a first start leaves an operator's exception for another subnet alone",
    before: 'c 1 2 3 4',
    after: 'c 1 2 3 4',
  },
  { name: 'the old subnet in the same network', before: '1 2 c 4', after: '1 2 3 4', previous: sameNetwork },
  {
    name: "Go flannel's leftover of an old subnet",
    before: 'c F 1 2 3 4 D',
    after: 'F 1 2 3 4 D',
    previous: sameNetwork,
  },
  {
    name: 'rules from before iptables knew random ports',
    before: 'D 1 b 3 4',
    after: 'D 1 2 3 4',
    previous: sameNetwork,
  },
  {
    name: 'an older network, at its place',
    before: 'D p q r s F',
    after: 'D 1 2 3 4 F',
    previous: otherNetwork,
  },
  {
    name: 'an older network beside ours, once more before',
    before: 'q p D 1 2 3 4 r s q F',
    after: 'D 1 2 3 4 F',
    previous: otherNetwork,
  },
  {
    name: "another network's rules when no subnet file names it",
    before: 'p q r s',
    after: 'p q r s 1 2 3 4',
    previous: sameNetwork,
  },
  {
    name: 'masquerading dropped',
    before: 'D 1 2 3 4 F',
    after: 'D F',
    previous: sameNetwork,
    policy: off,
  },
  {
    name: 'masquerading dropped, with leftovers and a new network',
    before: 'p c 1 2 3 4 q r s F',
    after: 'F',
    previous: otherNetwork,
    policy: off,
  },
  {
    name: "masquerading off: some rules of this shape are an operator's own",
    before: '1 b 4 F',
    after: '1 b 4 F',
    previous: sameNetwork,
    policy: off,
  },
  { name: 'masquerading off at a first start', before: '1 2 3 4', after: '1 2 3 4', policy: off },
]
