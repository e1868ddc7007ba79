import { spawnSync } from 'node:child_process'
import { describe, expect, test } from 'vitest'
import {
  LEVELS,
  type Level,
  type LeveledLogger,
  type LogFields,
  type LogSink,
  levelOfVerbosity,
  openLog,
  StderrSink,
} from '../src/log.ts'

const wall = new Date(2026, 1, 3, 4, 5, 6, 7)
const clock = { wall: () => wall.getTime() }

async function capture(
  format: 'text' | 'json',
  options: { level?: Level; journal?: boolean; colour?: boolean; lost?: number[] } = {},
): Promise<{ log: LeveledLogger; lines: string[] }> {
  const { level = 'info', journal = false, colour = false, lost = [] } = options
  const lines: string[] = []
  const write = (line: string): number => {
    lines.push(line)
    return lost.shift() ?? 0
  }
  const sink: LogSink = { write, journal, colour }
  return { log: await openLog({ format, level, sink, clock }), lines }
}

describe('text', () => {
  test('time, level, message, fields', async () => {
    const { log, lines } = await capture('text')
    log.info('Wrote subnet file to /run/x', { mtu: 1450, masq: true })
    log.warn('careful')
    log.error('lost')
    expect(lines).toEqual([
      '2026-02-03 04:05:06.007 info  Wrote subnet file to /run/x mtu=1450 masq=true\n',
      '2026-02-03 04:05:06.007 warn  careful\n',
      '2026-02-03 04:05:06.007 error lost\n',
    ])
  })

  test('the journal gets a priority instead of a time', async () => {
    const { log, lines } = await capture('text', { journal: true, level: 'trace' })
    for (const level of ['error', 'warn', 'info', 'debug', 'trace'] as const) log[level]('x')
    expect(lines).toEqual(['<3>error x\n', '<4>warn  x\n', '<6>info  x\n', '<7>debug x\n', '<7>trace x\n'])
  })

  test('a terminal gets colour on the level only', async () => {
    const { log, lines } = await capture('text', { colour: true })
    log.warn('x', { a: 'b' })
    expect(lines).toEqual(['2026-02-03 04:05:06.007 \x1b[33mwarn \x1b[0m x a=b\n'])
  })

  test.each<[string, LogFields, string]>([
    ['two\nlines', {}, 'two\\nlines'],
    ['bell \x07 and escape \x1b[31m', {}, 'bell \\u{7} and escape \\u{1b}[31m'],
    [
      'C1 \u009b, separator \u2028, override \u202e',
      {},
      'C1 \\u{9b}, separator \\u{2028}, override \\u{202e}',
    ],
    ['100% %s %d', {}, '100% %s %d'],
    ['', {}, ''],
    ['x', { key: 'a b' }, 'x key="a b"'],
    ['x', { key: '' }, 'x key=""'],
    ['x', { key: 'a=b' }, 'x key="a=b"'],
    ['x', { key: 'say "hi"' }, 'x key="say \\"hi\\""'],
    ['x', { key: 'a\nb' }, 'x key="a\\nb"'],
    ['x', { key: 'a\u009bb' }, 'x key=a\\u{9b}b'],
    ['x', { key: '10.5.1.0/24' }, 'x key=10.5.1.0/24'],
    ['x', { gone: undefined, n: 0, no: false }, 'x n=0 no=false'],
  ])('%j %j', async (message, fields, expected) => {
    const { log, lines } = await capture('text', { journal: true })
    log.info(message, fields)
    expect(lines).toEqual([`<6>info  ${expected}\n`])
  })
})

test('json: one object a line, level as a word, fields beside the message', async () => {
  const { log, lines } = await capture('json')
  log.warn('two\nlines %s', { key: 'a b', n: 1, gone: undefined })
  expect(lines).toHaveLength(1)
  expect(lines[0]).toMatch(/^[^\n]*\n$/)
  expect(JSON.parse(lines[0] ?? '')).toEqual({
    level: 'warn',
    time: wall.toISOString(),
    key: 'a b',
    n: 1,
    msg: 'two\nlines %s',
  })
})

test.each<[number, string[]]>([
  [-1, ['error', 'warn', 'info']],
  [0, ['error', 'warn', 'info']],
  [1, ['error', 'warn', 'info', 'debug']],
  [3, ['error', 'warn', 'info', 'debug']],
  [4, ['error', 'warn', 'info', 'debug', 'trace']],
  [10, ['error', 'warn', 'info', 'debug', 'trace']],
])('-v %d logs %j', async (verbosity, expected) => {
  for (const format of ['text', 'json'] as const) {
    const { log, lines } = await capture(format, { level: levelOfVerbosity(verbosity) })
    for (const level of ['error', 'warn', 'info', 'debug', 'trace'] as const) log[level]('x')
    expect(lines.map((line) => /(error|warn|info|debug|trace)/.exec(line)?.[0])).toEqual(expected)
  }
})

test.each(['text', 'json'] as const)('%s: the level can be changed at any time', async (format) => {
  const { log, lines } = await capture(format)
  for (const level of LEVELS) {
    log.level = level
    expect(log.level).toBe(level)
    for (const each of LEVELS) log[each](`at ${level}`)
  }
  const counts = LEVELS.map((level) => lines.filter((line) => line.includes(`at ${level}`)).length)
  expect(counts).toEqual([5, 4, 3, 2, 1])
})

test('whoever keeps the recent lines is told of info and above at any level', async () => {
  const told: string[] = []
  const sink: LogSink = { write: () => 0, journal: false, colour: false }
  const onLine = (level: Level, message: string): void => void told.push(`${level} ${message}`)
  const log = await openLog({ format: 'text', level: 'error', sink, clock, onLine })
  for (const level of LEVELS) log[level]('x', { key: 1 })
  expect(told).toEqual(['info x', 'warn x', 'error x'])
})

test.each(['text', 'json'] as const)('%s: lost lines are told in a line of their own', async (format) => {
  const { log, lines } = await capture(format, { lost: [0, 3, 0] })
  log.info('a')
  log.error('b')
  log.error('c')
  expect(lines).toHaveLength(4)
  expect(lines[1]).toContain('b')
  expect(lines[2]).toMatch(/warn.*(Log lines were lost.*lines=3|"lines":3.*Log lines were lost)/)
  expect(lines[3]).toContain('c')
})

describe('standard error', () => {
  const failure = (code: string): Error => Object.assign(new Error(code), { code })

  /** Takes what `accept` lets it: a number of bytes, or an error code. */
  function pipe(accept: () => number | string): { write: (bytes: Uint8Array) => number; text: () => string } {
    let text = ''
    return {
      text: () => text,
      write: (bytes) => {
        const n = accept()
        if (typeof n === 'string') throw failure(n)
        text += Buffer.from(bytes.subarray(0, n)).toString()
        return Math.min(n, bytes.length)
      },
    }
  }

  test('short writes and a pipe that is full for a moment lose nothing', () => {
    const answers: (number | string)[] = [3, 'EAGAIN', 'EAGAIN', 2, 100]
    const { write, text } = pipe(() => answers.shift() ?? 100)
    new StderrSink({}, write).write('one line\n')
    expect(text()).toBe('one line\n')
    expect(answers).toEqual([])
  })

  test('a pipe that stays full loses lines, without waiting for each, and says how many', () => {
    let full = true
    let calls = 0
    const { write, text } = pipe(() => {
      calls++
      return full ? 'EAGAIN' : 100
    })
    const sink = new StderrSink({}, write)
    expect(sink.write('first\n')).toBe(0)
    calls = 0
    expect(sink.write('second\n')).toBe(0)
    expect(calls).toBe(1)
    full = false
    expect(sink.write('third\n')).toBe(2)
    expect(sink.write('fourth\n')).toBe(0)
    expect(text()).toBe('third\nfourth\n')
  })

  test('a line that was cut off does not run into the next', () => {
    let room = 3
    const { write, text } = pipe(() => {
      if (room === 0) return 'EAGAIN'
      room -= Math.min(room, 3)
      return 3
    })
    const sink = new StderrSink({}, write)
    sink.write('first\n')
    room = 100
    expect(sink.write('second\n')).toBe(1)
    sink.write('third\n')
    expect(text()).toBe('fir\nsecond\nthird\n')
  })

  test('a closed pipe is ignored', () => {
    expect(() => new StderrSink({}, pipe(() => 'EPIPE').write).write('x\n')).not.toThrow()
  })

  test('a process whose log reader is gone lives on', () => {
    const module = new URL('../src/log.ts', import.meta.url).pathname
    const program = `
      import { StderrSink } from ${JSON.stringify(module)}
      const sink = new StderrSink(process.env)
      for (let i = 0; i < 1000; i++) sink.write('x'.repeat(1000) + '\\n')
      process.stdout.write('alive ' + sink.journal + ' ' + sink.colour)`
    const script = '"$0" --input-type=module -e "$1" 2>&1 >&3 | true'
    const { stdout } = spawnSync('sh', ['-c', `{ ${script}; } 3>&1`, process.execPath, program], {
      encoding: 'utf8',
    })
    expect(stdout).toBe('alive false false')
  })

  test('JOURNAL_STREAM counts only while standard error is that very stream', () => {
    const module = new URL('../src/log.ts', import.meta.url).pathname
    const program = `
      import { fstatSync } from 'node:fs'
      import { StderrSink } from ${JSON.stringify(module)}
      const { dev, ino } = fstatSync(2)
      const texts = [dev + ':' + ino, dev + ':' + (ino + 1), '', 'x']
      process.stdout.write(texts.map((text) => new StderrSink({ JOURNAL_STREAM: text }).journal).join())`
    const { stdout } = spawnSync(process.execPath, ['--input-type=module', '-e', program], {
      encoding: 'utf8',
    })
    expect(stdout).toBe('true,false,false,false')
  })
})
