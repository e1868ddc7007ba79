import { describe, it } from 'vitest'
import type { Machine } from './machine.ts'
import { ALICE, BOB, CAROL, useSite } from './site.ts'
import type { Subject } from './suites.ts'

/** A node that starts with another backend leaves nothing of the one it had. */
export function changeSuite(from: Subject, to: readonly Subject[], make: () => Machine): void {
  // Where the type stays, the lease does not tell that there were routes through the underlay.
  const others = to.filter(({ row }) => row.type !== from.row.type)

  describe.skipIf(others.length === 0)(`a change from ${from.name}`, () => {
    const site = useSite(from.row, make)

    it.each(others)('to $name', async ({ row }) => {
      const node = await site.start([ALICE, BOB])
      await node.reach([ALICE, BOB])
      const again = await site.restart(node, [BOB, CAROL], row)
      await again.reach([BOB, CAROL])
    })
  })
}
