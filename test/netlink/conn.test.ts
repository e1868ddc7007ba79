import { describe, expect, it } from 'vitest'
import { Rtnl } from '../../src/netlink/conn.ts'
import { NetlinkError } from '../../src/netlink/errors.ts'
import { deleteNeighbour, dumpNeighbours, replaceNeighbour } from '../../src/netlink/neighbour.ts'
import type { NetlinkRequest } from '../../src/netlink/request.ts'
import { dumpRoutes, getRoute, replaceRoute } from '../../src/netlink/route.ts'
import type { NetlinkMessage } from '../../src/netlink/wire.ts'
import { payloadOf } from './payload.ts'
import { acknowledge, done, type Received, ScriptedSocket } from './scripted.ts'

const ENOENT = 2
const EINTR = 4
const EINVAL = 22
const EBADMSG = 74
const ENOBUFS = 105

const ACK = 4

/** Answers as the kernel does: an acknowledgement where one is asked for, and an error for the sequences in `bad`. */
function kernel(bad: ReadonlySet<number> = new Set(), text?: string) {
  return (messages: NetlinkMessage[]): Received[] =>
    messages.flatMap((m) => {
      if (bad.has(m.sequence)) return [[acknowledge(m, EINVAL, text)]]
      return (m.flags & ACK) !== 0 ? [[acknowledge(m)]] : []
    })
}

const write = (i: number): NetlinkRequest =>
  replaceNeighbour({ index: 4, address: 0x64400000 + i, mac: '02:00:00:00:00:02' }, 'flannel.1')
const writes = (count: number) => Array.from({ length: count }, (_, i) => write(i))
const HALF = 32 << 10
/** A message of that many bytes. */
const long = (length: number): NetlinkRequest => ({
  type: 28,
  flags: 0,
  operation: () => `write ${length} bytes`,
  encode: (writer) => writer.attributeBytes(1, new Uint8Array(length - 20).fill(0xff)),
})
const named = (name: string): NetlinkRequest => ({
  type: 28,
  flags: 0,
  operation: () => name,
  encode: (writer) => writer.attributeString(1, name),
})
const codes = (errors: readonly (NetlinkError | undefined)[]) => errors.map((error) => error?.code)

describe('a batch', () => {
  it('is one datagram, with one acknowledgement asked for at its end', () => {
    const socket = new ScriptedSocket(kernel())
    expect(new Rtnl(socket).batch(writes(3))).toEqual([undefined, undefined, undefined])
    expect(socket.sent.map((messages) => messages.map(({ flags }) => flags & ACK))).toEqual([[0, 0, ACK]])
    expect(socket.sent[0]?.map(({ payload }) => Buffer.from(payload))).toEqual(
      writes(3).map((request) => Buffer.from(payloadOf(request))),
    )
  })

  it('is split into datagrams of at most 64 KiB, whole messages each', () => {
    const socket = new ScriptedSocket(kernel())
    const errors = new Rtnl(socket).batch(writes(3000))
    expect(errors).toHaveLength(3000)
    expect(errors.every((error) => error === undefined)).toBe(true)
    expect(socket.sent.map((messages) => messages.length)).toEqual([1365, 1365, 270])
    for (const messages of socket.sent) {
      expect(messages.filter(({ flags }) => (flags & ACK) !== 0)).toEqual([messages.at(-1)])
    }
  })

  it('ends a datagram before a request that does not fit into what is left of it, and begins the next one with that', () => {
    const socket = new ScriptedSocket(kernel(new Set([3])))
    // The first leaves 48 bytes, the length of a neighbour.
    const errors = new Rtnl(socket).batch([long(HALF), long(HALF - 48), write(1), write(2), long(HALF)])
    expect(codes(errors)).toEqual([undefined, undefined, 'EINVAL', undefined, undefined])
    expect(socket.sent.map((messages) => messages.map(({ sequence }) => sequence))).toEqual([
      [1, 2, 3],
      [4, 5],
    ])
    expect(socket.sent[1]?.map(({ payload }) => Buffer.from(payload))).toEqual(
      [write(2), long(HALF)].map((request) => Buffer.from(payloadOf(request))),
    )
  })

  it('sends nothing that an earlier one has left behind', () => {
    const socket = new ScriptedSocket(kernel())
    const rtnl = new Rtnl(socket)
    rtnl.batch([long(HALF)])
    rtnl.batch([named('even'), write(1)])
    expect(socket.sent[1]?.map(({ payload }) => Buffer.from(payload))).toEqual([
      Buffer.from('09000100' + '6576656e00000000', 'hex'),
      Buffer.from(payloadOf(write(1))),
    ])
  })

  it('with a request that is longer than a datagram fails', () => {
    const socket = new ScriptedSocket(kernel())
    const rtnl = new Rtnl(socket)
    expect(() => rtnl.batch([write(1), long(2 * HALF + 4)])).toThrow(
      new RangeError('a request of more than 65536 bytes: write 65540 bytes'),
    )
    expect(codes(rtnl.batch([long(2 * HALF), write(1)]))).toEqual([undefined, undefined])
    expect(socket.sent.map((messages) => messages.length)).toEqual([1, 1, 1])
  })

  it('of nothing sends nothing', () => {
    const socket = new ScriptedSocket()
    expect(new Rtnl(socket).batch([])).toEqual([])
    expect(socket.sent).toEqual([])
  })

  it.each([
    { what: 'the first', bad: [1] },
    { what: 'one in the middle', bad: [2] },
    { what: 'the last', bad: [4] },
    { what: 'all', bad: [1, 2, 3, 4] },
    { what: 'one in each datagram', bad: [1000, 2000] },
  ])('reports $what refused at its index, and no other', ({ bad }) => {
    const socket = new ScriptedSocket(kernel(new Set(bad), 'No such luck'))
    const count = bad.includes(2000) ? 2500 : 4
    const errors = new Rtnl(socket).batch(writes(count))
    expect(errors.flatMap((error, i) => (error ? [i + 1] : []))).toEqual(bad)
    const [first = 0] = bad
    expect(errors[first - 1]?.message).toBe(`${write(first - 1).operation()}: EINVAL: No such luck`)
    expect(errors[first - 1]).toMatchObject({ code: 'EINVAL', errno: EINVAL, kernelMessage: 'No such luck' })
  })

  it('whose acknowledgement is lost leaves nobody believing that it was done', () => {
    // The kernel refused the second; of the rest nothing is known.
    const socket = new ScriptedSocket(([, second]) => [[acknowledge(second as NetlinkMessage, EINVAL)]])
    expect(codes(new Rtnl(socket).batch(writes(3)))).toEqual(['ENOBUFS', 'EINVAL', 'ENOBUFS'])
  })

  it('whose socket overran is not believed either, though its acknowledgement arrived', () => {
    const socket = new ScriptedSocket(([first, , third]) => [
      ENOBUFS,
      [acknowledge(first as NetlinkMessage, EINVAL)],
      [acknowledge(third as NetlinkMessage)],
    ])
    const errors = new Rtnl(socket).batch(writes(3))
    expect(codes(errors)).toEqual(['EINVAL', 'ENOBUFS', 'ENOBUFS'])
    expect(errors[1]?.message).toBe(
      "write neighbour 100.64.0.1 -> 02:00:00:00:00:02 on flannel.1: ENOBUFS: the kernel's answer was lost",
    )
  })

  it('of several datagrams loses only the one that was lost', () => {
    const socket = new ScriptedSocket((messages) => {
      return socket.sent.length === 2 ? [] : kernel()(messages)
    })
    const errors = new Rtnl(socket).batch(writes(3000))
    expect(errors.flatMap((error, i) => (error ? [i] : []))).toEqual(
      Array.from({ length: 1365 }, (_, i) => 1365 + i),
    )
  })

  it('that cannot be sent has not been done', () => {
    const socket = new ScriptedSocket()
    socket.sendErrno = ENOBUFS
    expect(codes(new Rtnl(socket).batch(writes(2)))).toEqual(['ENOBUFS', 'ENOBUFS'])
  })

  it('ends though receiving fails again and again', () => {
    const socket = new ScriptedSocket(() => new Array<number>(100).fill(ENOBUFS))
    expect(codes(new Rtnl(socket).batch(writes(1)))).toEqual(['ENOBUFS'])
  })

  it('takes no answer to something else for its own', () => {
    const socket = new ScriptedSocket((messages) => [
      [acknowledge({ ...(messages[0] as NetlinkMessage), sequence: 0 }, EINVAL)],
      [acknowledge({ ...(messages[0] as NetlinkMessage), sequence: 77 }, EINVAL)],
      ...kernel()(messages),
    ])
    expect(codes(new Rtnl(socket).batch(writes(2)))).toEqual([undefined, undefined])
  })
})

describe('execute', () => {
  it('throws what the kernel says', () => {
    const rtnl = new Rtnl(new ScriptedSocket(([m]) => [[acknowledge(m as NetlinkMessage, ENOENT)]]))
    const execute = () => rtnl.execute(deleteNeighbour({ index: 4, address: 0x64400000 }, 'flannel.1'))
    expect(execute).toThrow(new NetlinkError('delete neighbour 100.64.0.0 on flannel.1', ENOENT))
    expect(execute).toThrow(/^delete neighbour 100.64.0.0 on flannel.1: ENOENT$/)
  })

  it('reads an old kernel\u2019s refusal, which repeats the request', () => {
    const rtnl = new Rtnl(
      new ScriptedSocket(([m]) => {
        const { payload, ...ack } = acknowledge(m as NetlinkMessage, EINVAL)
        return [[{ ...ack, flags: 0, payload: Buffer.concat([payload, (m as NetlinkMessage).payload]) }]]
      }),
    )
    expect(() => rtnl.execute(write(1))).toThrow('EINVAL')
  })

  it('names an errno that only the kernel knows', () => {
    const rtnl = new Rtnl(new ScriptedSocket(([m]) => [[acknowledge(m as NetlinkMessage, 524)]]))
    expect(() => rtnl.execute(write(1))).toThrow('E524')
  })
})

/** An entry in a dump: what one writes and what the kernel dumps look alike. */
function entry(request: NetlinkMessage, i: number, flags = 2): NetlinkMessage {
  return { type: 28, flags, sequence: request.sequence, portId: 4711, payload: payloadOf(write(i)) }
}

const DUMP_INTR = 0x10

describe('a dump', () => {
  const request = dumpNeighbours({ family: 4, index: 4 })
  const addresses = (rtnl: Rtnl) => rtnl.dump(request).map(({ address }) => Number(address) - 0x64400000)

  /** Answers each round of the same question with the next of these, over and over the last. */
  function rounds(...answers: ((m: NetlinkMessage) => Received[])[]): ScriptedSocket {
    return new ScriptedSocket(
      ([m]) => (answers.length > 1 ? answers.shift() : answers[0])?.(m as NetlinkMessage) ?? [],
    )
  }

  it('collects entries over datagrams', () => {
    const socket = rounds((m) => [[entry(m, 1), entry(m, 2)], [entry(m, 3)], [done(m)]])
    expect(addresses(new Rtnl(socket))).toEqual([1, 2, 3])
    expect(socket.sent[0]?.[0]).toMatchObject({ type: 30, flags: 0x301 })
  })

  it('leaves out entries that cannot be read, and those of another device', () => {
    const other = payloadOf(replaceNeighbour({ index: 5, address: 1, mac: '02:00:00:00:00:02' }, 'eth0'))
    const socket = rounds((m) => [
      [{ ...entry(m, 1), payload: new Uint8Array(3) }, { ...entry(m, 2), payload: other }, entry(m, 3)],
      [done(m)],
    ])
    expect(addresses(new Rtnl(socket))).toEqual([3])
  })

  it.each([
    {
      where: 'at an entry',
      answer: (m: NetlinkMessage) => [[entry(m, 1, DUMP_INTR | 2)], [entry(m, 2), done(m)]],
    },
    { where: 'at its end', answer: (m: NetlinkMessage) => [[entry(m, 1)], [done(m, 0, DUMP_INTR | 2)]] },
  ])('that was interrupted, said $where, is asked for again', ({ answer }) => {
    const socket = rounds(answer, (m) => [[entry(m, 3)], [done(m)]])
    expect(addresses(new Rtnl(socket))).toEqual([3])
    expect(socket.sent).toHaveLength(2)
    expect(socket.queue).toEqual([])
  })

  it('that is interrupted every time is an error and no answer', () => {
    const socket = rounds((m) => [[entry(m, 1, DUMP_INTR | 2), done(m)]])
    expect(() => addresses(new Rtnl(socket))).toThrow(
      new NetlinkError('list IPv4 neighbours of device 4', EINTR, 'changed during each of 10 dumps'),
    )
    expect(socket.sent).toHaveLength(10)
  })

  it.each([
    {
      what: 'is refused',
      answer: (m: NetlinkMessage): Received[] => [[acknowledge(m, EINVAL)]],
      code: 'EINVAL',
    },
    {
      what: 'fails at its end',
      answer: (m: NetlinkMessage): Received[] => [[entry(m, 1), done(m, EINVAL)]],
      code: 'EINVAL',
    },
    { what: 'has no end', answer: (m: NetlinkMessage): Received[] => [[entry(m, 1)]], code: 'ENOBUFS' },
    {
      what: 'is cut by an overrun',
      answer: (m: NetlinkMessage): Received[] => [[entry(m, 1)], ENOBUFS, [done(m)]],
      code: 'ENOBUFS',
    },
    { what: 'has no answer', answer: (): Received[] => [], code: 'ENOBUFS' },
  ])('that $what is an error, not a shorter answer, and the next one is whole', ({ answer, code }) => {
    const socket = rounds(answer, (m) => [[entry(m, 3)], [done(m)]])
    const rtnl = new Rtnl(socket)
    expect(() => addresses(rtnl)).toThrow(expect.objectContaining({ code }))
    expect(addresses(rtnl)).toEqual([3])
  })

  describe('made ahead', () => {
    function ahead(): { readonly socket: ScriptedSocket; readonly rtnl: Rtnl } {
      const socket = new ScriptedSocket(([first, ...rest]) => {
        const m = first as NetlinkMessage
        if (m.type !== 30) return kernel()([m, ...rest])
        return [[entry(m, socket.sent.length)], [entry(m, 7), done(m)]]
      })
      const rtnl = new Rtnl(socket)
      rtnl.readAhead([request])
      return { socket, rtnl }
    }

    it('is there without asking, until it is forgotten', () => {
      const { socket, rtnl } = ahead()
      expect(socket.sent).toHaveLength(1)
      expect([addresses(rtnl), addresses(rtnl)]).toEqual([
        [1, 7],
        [1, 7],
      ])
      expect(socket.sent).toHaveLength(1)
      expect(rtnl.counters.dumps).toBe(1)
      rtnl.forget()
      expect(addresses(rtnl)).toEqual([2, 7])
    })

    it('is no answer to another question', () => {
      const { socket, rtnl } = ahead()
      rtnl.dump(dumpNeighbours({ family: 4, index: 5 }))
      expect(socket.sent).toHaveLength(2)
    })

    it('is not kept when it is longer than it is worth', () => {
      const socket = rounds(
        (m) => [[entry(m, 1)], [entry(m, 2)], [done(m)]],
        (m) => [[entry(m, 3)], [done(m)]],
      )
      const rtnl = new Rtnl(socket, { maxAhead: 100 })
      rtnl.readAhead([request])
      expect(addresses(rtnl)).toEqual([3])
    })

    it('does not outlive a write', () => {
      const { rtnl } = ahead()
      rtnl.execute(write(1))
      expect(addresses(rtnl)).toEqual([3, 7])
    })

    it.each([
      { what: 'interrupted', answer: (m: NetlinkMessage) => [[entry(m, 1, DUMP_INTR | 2), done(m)]] },
      { what: 'refused', answer: (m: NetlinkMessage) => [[acknowledge(m, EINVAL)]] },
      { what: 'broken off', answer: (m: NetlinkMessage) => [[entry(m, 1)], ENOBUFS] },
    ])('and $what is asked for when it is needed', ({ answer }) => {
      const socket = rounds(answer, (m) => [[entry(m, 3)], [done(m)]])
      const rtnl = new Rtnl(socket)
      rtnl.readAhead([request])
      expect(addresses(rtnl)).toEqual([3])
    })
  })

  it('of a routing table that does not exist yet is empty', () => {
    for (const answer of [acknowledge, done]) {
      const socket = rounds((m) => [[answer(m, ENOENT)]])
      expect(new Rtnl(socket).dump(dumpRoutes({ table: 254 }))).toEqual([])
    }
    const socket = rounds((m) => [[done(m, ENOENT)]])
    expect(() => addresses(new Rtnl(socket))).toThrow('ENOENT')
  })
})

describe('a question', () => {
  const route = {
    ...{
      destination: { address: 0x64400100, length: 32 },
      table: 254,
      protocol: 0,
      scope: 0,
      type: 1,
      tos: 0,
    },
    ...{ metric: 0, gateway: 1, nexthopId: undefined, oif: 4, source: undefined, onlink: false },
  }

  it('that is longer than a datagram is not asked', () => {
    const socket = new ScriptedSocket()
    const question = { ...long(2 * HALF + 4), decode: () => undefined }
    expect(() => new Rtnl(socket).get(question)).toThrow(RangeError)
    expect(socket.sent).toEqual([])
  })

  it('has one answer', () => {
    const payload = payloadOf(replaceRoute(route, 'flannel.1'))
    const socket = new ScriptedSocket(([m]) => [[{ ...(m as NetlinkMessage), type: 24, payload }]])
    expect(new Rtnl(socket).get(getRoute(0x64400100))).toMatchObject({ gateway: 1, oif: 4 })
  })

  it.each([
    {
      what: 'a refusal',
      answer: (m: NetlinkMessage): Received[] => [[acknowledge(m, ENOENT)]],
      errno: ENOENT,
    },
    {
      what: 'one that cannot be read',
      answer: (m: NetlinkMessage): Received[] => [[{ ...m, payload: new Uint8Array(2) }]],
      errno: EBADMSG,
    },
    { what: 'none', answer: (): Received[] => [], errno: ENOBUFS },
    { what: 'an overrun', answer: (): Received[] => [ENOBUFS], errno: ENOBUFS },
  ])('whose answer is $what is an error', ({ answer, errno }) => {
    const rtnl = new Rtnl(new ScriptedSocket(([m]) => answer(m as NetlinkMessage)))
    expect(() => rtnl.get(getRoute(0x64400100))).toThrow(expect.objectContaining({ errno }))
  })
})

it('prints every message when asked to', () => {
  const lines: string[] = []
  const socket = new ScriptedSocket(kernel(new Set([2]), 'No such luck'))
  new Rtnl(socket, { trace: () => (line) => lines.push(line) }).batch(writes(2))
  expect(lines).toEqual([
    '> RTM_NEWNEIGH flags=0x501 seq=1 port=0 {"index":4,"address":"100.64.0.0","mac":"02:00:00:00:00:02","state":128,"flags":0}',
    '> RTM_NEWNEIGH flags=0x505 seq=2 port=0 {"index":4,"address":"100.64.0.1","mac":"02:00:00:00:00:02","state":128,"flags":0}',
    '< NLMSG_ERROR flags=0x300 seq=2 port=4711 EINVAL: No such luck',
  ])
})

it('prints nothing while nobody wants to read it, and counts in any case', () => {
  const lines: string[] = []
  let reading = false
  const socket = new ScriptedSocket(kernel(new Set([2]), 'No such luck'))
  const rtnl = new Rtnl(socket, { trace: () => (reading ? (line) => lines.push(line) : undefined) })
  rtnl.batch(writes(2))
  expect(lines).toEqual([])
  reading = true
  rtnl.batch(writes(1))
  expect(lines).toHaveLength(2)
  expect(rtnl.counters).toEqual({ batches: 2, requests: 3, dumps: 0, errors: 1 })
})

it('closes its socket', () => {
  const socket = new ScriptedSocket()
  const rtnl = new Rtnl(socket)
  expect(rtnl.portId).toBe(4711)
  rtnl.close()
  expect(socket.closed).toBe(1)
})
