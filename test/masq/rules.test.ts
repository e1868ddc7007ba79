import { describe, expect, it } from 'vitest'
import { formatRule } from '../../src/masq/iptables.ts'
import { type Policy, ruleset } from '../../src/masq/rules.ts'
import { expand, policy, subnet } from './chains.ts'

function print(p: Policy, randomFully = true): string[] {
  return ruleset(p, { randomFully, previous: [] }).flatMap((g) =>
    g.rules.map((r) => `${g.table} ${g.chain} ${formatRule(r)}`),
  )
}

const nat = expand('1 2 3 4').map((t) => `nat POSTROUTING ${t}`)
const forward = ['filter FORWARD -s 10.5.0.0/16 -j ACCEPT', 'filter FORWARD -d 10.5.0.0/16 -j ACCEPT']

describe('ruleset', () => {
  it.each([
    { masquerade: true, forward: true, expected: [...nat, ...forward] },
    { masquerade: true, forward: false, expected: nat },
    { masquerade: false, forward: true, expected: forward },
    { masquerade: false, forward: false, expected: [] },
  ])('masquerade $masquerade, forward $forward', (c) => {
    expect(print({ ...policy, ...c })).toEqual(c.expected)
  })

  it('goes without random ports where iptables has none', () => {
    expect(print(policy, false).join('\n')).toBe(
      [...nat, ...forward].join('\n').replaceAll(' --random-fully', ''),
    )
  })

  it('takes the forward rules of the previous network for ours, and no others', () => {
    const previous = [{ network: subnet('10.6.0.0/16'), subnet: subnet('10.6.3.0/24') }]
    const [group] = ruleset({ ...policy, masquerade: false }, { randomFully: true, previous }).filter(
      (g) => g.table === 'filter',
    )
    const old = ruleset(
      { ...policy, network: subnet('10.6.0.0/16') },
      { randomFully: true, previous: [] },
    ).flatMap((g) => g.rules)
    const foreign = ruleset(
      { ...policy, network: subnet('10.7.0.0/16') },
      { randomFully: true, previous: [] },
    ).flatMap((g) => g.rules)
    expect(group?.ours([...old, ...foreign]).map(formatRule)).toEqual([
      '-s 10.6.0.0/16 -j ACCEPT',
      '-d 10.6.0.0/16 -j ACCEPT',
    ])
  })
})
