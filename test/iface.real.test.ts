import { execFileSync } from 'node:child_process'
import { expect, onTestFinished, test } from 'vitest'

const src = new URL('../src/', import.meta.url).pathname

/** Runs in a namespace of its own, because a process cannot move into one. */
const program = `
  const { chooseInterface, readNetworkView } = await import('${src}iface.ts')
  const { formatIpv4 } = await import('${src}ip.ts')
  const { Rtnl } = await import('${src}netlink/conn.ts')
  const { openRtnetlink } = await import('${src}netlink/socket.ts')
  const nothing = () => {}
  const log = { trace: nothing, debug: nothing, info: nothing, warn: nothing, error: nothing }
  const rtnl = new Rtnl(openRtnetlink())
  const [ifaces, ifaceRegexes] = JSON.parse(process.argv[1])
  try {
    const chosen = chooseInterface(readNetworkView(rtnl), { ifaces, ifaceRegexes, publicIP: undefined }, log)
    console.log(chosen.name, formatIpv4(chosen.address), chosen.mtu)
  } catch (error) {
    console.log(error.name, error.message)
  }
  rtnl.close()
`

function namespace(name: string, ...commands: string[]): (ifaces?: string[], regexes?: string[]) => string {
  const netns = `${name}-${process.pid}`
  execFileSync('ip', ['netns', 'add', netns])
  onTestFinished(() => void execFileSync('ip', ['netns', 'del', netns]))
  for (const command of commands) execFileSync('ip', ['-n', netns, ...command.split(' ')])
  return (ifaces = [], regexes = []) => {
    const node = [process.execPath, '--input-type=module', '-e', program, JSON.stringify([ifaces, regexes])]
    return execFileSync('ip', ['netns', 'exec', netns, ...node], { encoding: 'utf8' }).trim()
  }
}

const devices = [
  'link set lo up',
  'link add eth0 type veth peer name eth0p',
  'link add eth1 mtu 1400 type veth peer name eth1p',
  'addr add 192.0.2.1/24 dev eth0',
  'addr add 192.0.2.9/24 dev eth0',
  'addr add 169.254.3.3/16 dev eth1',
  'addr add 198.51.100.1/24 dev eth1',
  'link set eth0 up',
  'link set eth0p up',
  'link set eth1 up',
  'link set eth1p up',
]

test('names, addresses, expressions and the best default route', () => {
  const choose = namespace(
    'iface',
    ...devices,
    'route add default via 192.0.2.254 metric 200',
    'route add default via 198.51.100.254 metric 100',
  )
  expect(choose()).toBe('eth1 198.51.100.1 1400')
  expect(choose(['eth0'])).toBe('eth0 192.0.2.1 1500')
  expect(choose(['192.0.2.9'])).toBe('eth0 192.0.2.9 1500')
  expect(choose(['127.0.0.1'])).toBe('lo 127.0.0.1 65536')
  expect(choose(['lo'], ['^192'])).toBe('eth0 192.0.2.1 1500')
  expect(choose(['lo'])).toMatch(/^InterfaceError Failed to find interface to use/)
})

test('a default route through a device, or of several gateways', () => {
  const choose = namespace('iface-multi', ...devices, 'route add default dev eth0')
  expect(choose()).toBe('eth0 192.0.2.1 1500')
  const several = namespace(
    'iface-several',
    ...devices,
    'route add default nexthop via 192.0.2.254 nexthop via 198.51.100.254',
  )
  expect(several()).toMatch(/^(eth0 192\.0\.2\.1 1500|eth1 198\.51\.100\.1 1400)$/)
})

test('no default route, and one that goes nowhere', () => {
  const choose = namespace('iface-none', ...devices)
  expect(choose()).toMatch(
    /^InterfaceError Failed to find any valid interface to use: Unable to find default route/,
  )
  const unreachable = namespace('iface-unreach', ...devices, 'route add unreachable default')
  expect(unreachable()).toContain('Found default route but could not determine interface')
})
