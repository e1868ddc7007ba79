import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { parseChain } from '../../src/masq/iptables.ts'
import { foreignBehind, plan, renderRestore } from '../../src/masq/plan.ts'
import { type RuleGroup, ruleset } from '../../src/masq/rules.ts'
import { type ChainCase, cases, expand, picture, policy, rules, subnet } from './chains.ts'
import { FakeIptables } from './fake-iptables.ts'

const KEY = 'nat POSTROUTING'

function natGroup(c: Pick<ChainCase, 'policy' | 'previous'>): RuleGroup | undefined {
  const groups = ruleset(c.policy ?? policy, {
    randomFully: true,
    previous: c.previous ? [c.previous] : [],
  })
  return groups.find((g) => g.table === 'nat')
}

function lines(texts: readonly string[]) {
  return parseChain(
    texts.map((t) => `-A POSTROUTING ${t}`),
    'POSTROUTING',
  )
}

/** Applies the plan, if there is one, to a chain in memory. */
async function apply(texts: readonly string[], group: RuleGroup | undefined, behind?: ReadonlySet<string>) {
  const kernel = new FakeIptables()
  kernel.chain(KEY).push(...texts)
  const change = group && plan(lines(texts), group, behind)
  if (change)
    await kernel.run('iptables-restore', ['--noflush'], {
      input: renderRestore([change]),
    })
  return { texts: kernel.chain(KEY), written: change !== undefined }
}

describe('plan', () => {
  it.each(cases)('$name: $before -> $after', async (c) => {
    const group = natGroup(c)
    const result = await apply(expand(c.before), group)
    expect(picture(result.texts)).toBe(c.after)
    expect(result.written).toBe(c.before !== c.after)
    expect((await apply(result.texts, group)).written).toBe(false)
  })

  it('puts ours back before what stood behind them, when all are gone', async () => {
    const group = natGroup({})
    const behind = foreignBehind(lines(expand('D F 1 2 3 4 E F')), group as RuleGroup)
    expect(picture([...behind])).toBe('E')
    expect(picture((await apply(expand('D F E F'), group, behind)).texts)).toBe('D F 1 2 3 4 E F')
    expect(picture((await apply(expand('D F'), group, behind)).texts)).toBe('D F 1 2 3 4')
  })

  it('prints what an operator would type', () => {
    const change = plan(lines(expand('D 1 2 4 F 3')), natGroup({}) as RuleGroup)
    expect(change && renderRestore([change])).toBe(`*nat
-D POSTROUTING -s 10.5.0.0/16 -d 10.5.0.0/16 -j RETURN
-D POSTROUTING -s 10.5.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully
-D POSTROUTING ! -s 10.5.0.0/16 -d 10.5.0.0/16 -j MASQUERADE --random-fully
-D POSTROUTING ! -s 10.5.0.0/16 -d 10.5.1.0/24 -j RETURN
-I POSTROUTING 2 -s 10.5.0.0/16 -d 10.5.0.0/16 -j RETURN
-I POSTROUTING 3 -s 10.5.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully
-I POSTROUTING 4 ! -s 10.5.0.0/16 -d 10.5.1.0/24 -j RETURN
-I POSTROUTING 5 ! -s 10.5.0.0/16 -d 10.5.0.0/16 -j MASQUERADE --random-fully
COMMIT
`)
  })

  it('takes leftovers away without touching what is right', () => {
    const previous = { network: policy.network, subnet: subnet('10.5.9.0/24') }
    const change = plan(lines(expand('c 1 2 c 3 4 F')), natGroup({ previous }) as RuleGroup)
    expect(change && renderRestore([change])).toBe(`*nat
-D POSTROUTING ! -s 10.5.0.0/16 -d 10.5.9.0/24 -j RETURN
-D POSTROUTING ! -s 10.5.0.0/16 -d 10.5.9.0/24 -j RETURN
COMMIT
`)
  })

  it('fails as a whole when the chain has changed since it was read', async () => {
    const kernel = new FakeIptables()
    kernel.chain(KEY).push(...expand('1 2 4'))
    const change = plan(lines(expand('1 2 4')), natGroup({}) as RuleGroup)
    kernel.chain(KEY).splice(1, 1)
    const input = change ? renderRestore([change]) : ''
    await expect(kernel.run('iptables-restore', [], { input })).rejects.toThrow('cannot do')
    expect(picture(kernel.chain(KEY))).toBe('1 4')
  })

  it('from any state reaches ours once each, in order, in one piece, with the rest as it was', async () => {
    const symbols = fc.constantFrom(...Object.keys(rules))
    const previous = {
      network: subnet('10.6.0.0/16'),
      subnet: subnet('10.6.3.0/24'),
    }
    const group = natGroup({ previous }) as RuleGroup
    const foreign = (texts: readonly string[]) => picture(texts).replace(/[1-4bcpqrs] ?/g, '')
    await fc.assert(
      fc.asyncProperty(
        fc.array(symbols, { maxLength: 14 }),
        fc.subarray([...'DEFGHIJKLM']),
        async (found, seen) => {
          const before = expand(found.join(' '))
          const { texts } = await apply(before, group, new Set(expand(seen.join(' '))))
          const after = picture(texts)
          expect(` ${after} `).toContain(' 1 2 3 4 ')
          expect(after.match(/[1-4bcpqrs]/g)).toHaveLength(4)
          expect(foreign(texts).trim()).toBe(foreign(before).trim())
          // Others may put theirs at the top and at the end; that is no reason to write.
          for (const chain of [texts, [...expand('E'), ...texts], [...texts, ...expand('F D')]]) {
            expect((await apply(chain, group)).written).toBe(false)
          }
        },
      ),
      { numRuns: 500 },
    )
  })
})
