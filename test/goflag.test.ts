import { describe, expect, test } from 'vitest'
import { type FlagTable, formatFlags, parseFlags, parseValue } from '../src/goflag.ts'

const table = {
  name: { type: 'string', default: 'x', help: 'a name' },
  masq: { type: 'bool', default: false, help: 'masquerade' },
  on: { type: 'bool', default: true, help: 'on' },
  resync: { type: 'int', default: 5, help: 'seconds' },
  iface: { type: 'strings', default: [], help: 'interfaces' },
  v: { type: 'int', default: 0, placeholder: 'value', help: 'verbosity' },
} as const satisfies FlagTable

function given(...args: string[]): unknown {
  const parsed = parseFlags(table, args)
  return parsed.kind === 'flags' ? parsed.given : parsed
}

describe('syntax', () => {
  test.each<[string[], unknown]>([
    [['-name', 'a'], { name: 'a' }],
    [['--name', 'a'], { name: 'a' }],
    [['-name=a'], { name: 'a' }],
    [['--name=a=b'], { name: 'a=b' }],
    [['-name='], { name: '' }],
    [['-name', ''], { name: '' }],
    [['-name', '-masq'], { name: '-masq' }],
    [['-name', '--'], { name: '--' }],
    [['-masq'], { masq: true }],
    [['-masq=false'], { masq: false }],
    [['-name', 'a', '-name', 'b'], { name: 'b' }],
    [['-iface', 'a', '-iface=b', '--iface', 'c'], { iface: ['a', 'b', 'c'] }],
    [['-resync', '-3'], { resync: -3 }],
    [[], {}],
  ])('%j', (args, values) => {
    expect(given(...args)).toEqual(values)
  })

  test.each<[string[], unknown, string[]]>([
    [['-masq', 'false', '-name', 'a'], { masq: true }, ['false', '-name', 'a']],
    [['-', '-masq'], {}, ['-', '-masq']],
    [['', '-masq'], {}, ['', '-masq']],
    [['--', '-masq'], {}, ['-masq']],
    [['-masq', '--', 'x'], { masq: true }, ['x']],
  ])('%j ends the flags', (args, values, rest) => {
    expect(parseFlags(table, args)).toEqual({ kind: 'flags', given: values, rest })
  })

  test.each<[string[], string]>([
    [['---name'], 'bad flag syntax: ---name'],
    [['-=x'], 'bad flag syntax: -=x'],
    [['--=x'], 'bad flag syntax: --=x'],
    [['-nope'], 'flag provided but not defined: -nope'],
    [['-nope=1'], 'flag provided but not defined: -nope'],
    [['-Name', 'x'], 'flag provided but not defined: -Name'],
    [['-constructor'], 'flag provided but not defined: -constructor'],
    [['-name'], 'flag needs an argument: -name'],
    [['-iface'], 'flag needs an argument: -iface'],
    [['-masq='], 'invalid boolean value "" for -masq: parse error'],
    [['-masq=yes'], 'invalid boolean value "yes" for -masq: parse error'],
    [['-resync=abc'], 'invalid value "abc" for flag -resync: parse error'],
    [['-resync', ''], 'invalid value "" for flag -resync: parse error'],
    [
      ['-resync=9223372036854775808'],
      'invalid value "9223372036854775808" for flag -resync: value out of range',
    ],
    [['-masq', '-nope'], 'flag provided but not defined: -nope'],
  ])('%j is refused in the words of Go', (args, message) => {
    expect(parseFlags(table, args)).toEqual({ kind: 'error', message })
  })

  test.each([['-h'], ['--help'], ['-help'], ['--help=x'], ['-masq', '-h', '-nope']])(
    '%j asks for help',
    (...args) => {
      expect(parseFlags(table, args)).toEqual({ kind: 'help' })
    },
  )
})

describe('values', () => {
  test.each(['1', 't', 'T', 'TRUE', 'true', 'True'])('%s is true', (text) => {
    expect(parseValue('bool', text)).toEqual({ kind: 'value', value: true })
  })

  test.each(['0', 'f', 'F', 'FALSE', 'false', 'False'])('%s is false', (text) => {
    expect(parseValue('bool', text)).toEqual({ kind: 'value', value: false })
  })

  test.each(['', 'yes', 'tRUE', 'on', '2', ' true'])('%j is no boolean', (text) => {
    expect(parseValue('bool', text)).toEqual({ kind: 'error', reason: 'parse error' })
  })

  test.each<[string, number]>([
    ['0', 0],
    ['60', 60],
    ['-1', -1],
    ['+7', 7],
    ['0x10', 16],
    ['0XfF', 255],
    ['-0x10', -16],
    ['0b101', 5],
    ['0o17', 15],
    ['017', 15],
    ['00', 0],
    ['1_000', 1000],
    ['0x_ff', 255],
    ['0_7', 7],
    ['-9223372036854775808', -(2 ** 63)],
  ])('%s is %d', (text, value) => {
    expect(parseValue('int', text)).toEqual({ kind: 'value', value })
  })

  test.each(['', '-', 'abc', '1.5', '08', '0x', '1__0', '_1', '1_', '0b2', ' 1', '1 ', '1e3'])(
    '%j is no integer',
    (text) => {
      expect(parseValue('int', text)).toEqual({ kind: 'error', reason: 'parse error' })
    },
  )

  test.each(['9223372036854775808', '-9223372036854775809', '0xffffffffffffffff'])(
    '%s is out of range',
    (text) => {
      expect(parseValue('int', text)).toEqual({ kind: 'error', reason: 'value out of range' })
    },
  )
})

test('the usage text lists the flags in alphabetical order, with the defaults that are not zero', () => {
  expect(formatFlags(table, (name) => (name === 'on' ? ' [$ON]' : ''))).toBe(
    [
      '  -iface value',
      '    \tinterfaces',
      '  -masq',
      '    \tmasquerade',
      '  -name string',
      '    \ta name (default "x")',
      '  -on',
      '    \ton (default true) [$ON]',
      '  -resync int',
      '    \tseconds (default 5)',
      '  -v value',
      '    \tverbosity',
      '',
    ].join('\n'),
  )
})
