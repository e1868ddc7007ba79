import { describe, expect, it } from 'vitest'
import { parseVxlanConfig } from '../../../src/backend/vxlan/config.ts'

const DEFAULTS = { vni: 1, port: 8472, gbp: false, directRouting: false }

describe('the vxlan options', () => {
  it.each([
    { backend: {}, config: DEFAULTS },
    { backend: { Type: 'vxlan' }, config: DEFAULTS },
    { backend: { VNI: 0 }, config: { ...DEFAULTS, vni: 0 } },
    { backend: { VNI: 9_999_999 }, config: { ...DEFAULTS, vni: 9_999_999 } },
    // 0 and null are as good as not there.
    { backend: { Port: 0 }, config: DEFAULTS },
    { backend: { VNI: null, Port: null, GBP: null, DirectRouting: null }, config: DEFAULTS },
    {
      backend: { Port: 65_535, GBP: true, DirectRouting: true },
      config: { vni: 1, port: 65_535, gbp: true, directRouting: true },
    },
    {
      backend: { vni: 7, PORT: 4789, directrouting: true },
      config: { vni: 7, port: 4789, gbp: false, directRouting: true },
    },
    { backend: { VNI: 5, vni: 6 }, config: { ...DEFAULTS, vni: 6 } },
    { backend: { MTU: 0, Unknown: {} }, config: DEFAULTS },
    { backend: { mtu: 1300 }, config: { ...DEFAULTS, mtu: 1300 } },
  ])('$backend', ({ backend, config }) => {
    expect(parseVxlanConfig(backend)).toEqual(config)
  })

  it.each([
    { backend: { VNI: -1 }, field: 'VNI must be a whole number from 0 to 9999999, not -1' },
    { backend: { VNI: 10_000_000 }, field: 'VNI must be a whole number from 0 to 9999999, not 10000000' },
    { backend: { VNI: '1' }, field: 'VNI must be a whole number from 0 to 9999999, not "1"' },
    { backend: { VNI: 1.5 }, field: 'VNI must be a whole number from 0 to 9999999, not 1.5' },
    { backend: { Port: 70_000 }, field: 'Port must be a whole number from 0 to 65535, not 70000' },
    { backend: { Port: -1 }, field: 'Port must be a whole number from 0 to 65535, not -1' },
    { backend: { MTU: 575 }, field: "MTU must be 0, for the interface's own, or from 576 to 65535, not 575" },
    { backend: { GBP: 1 }, field: 'GBP must be true or false, not 1' },
    { backend: { DirectRouting: 'yes' }, field: 'DirectRouting must be true or false, not "yes"' },
    { backend: { DirectRouting: {} }, field: 'DirectRouting must be true or false, not {}' },
  ])('$backend is refused, naming the field', ({ backend, field }) => {
    expect(() => parseVxlanConfig(backend)).toThrow(field)
  })
})
