import { describe, expect, it } from 'vitest'
import { parseVtepMac, vtepMac, vtepOf } from '../../../src/backend/vxlan/vtep.ts'
import type { Lease } from '../../../src/subnet/lease.ts'

const MAC = '02:0a:0b:0c:0d:0e'

describe('a VtepMAC', () => {
  it.each([
    { text: '02:0a:0b:0c:0d:0e', mac: MAC },
    { text: '02:0A:0B:0C:0D:0E', mac: MAC },
    { text: '02-0a-0b-0c-0d-0e', mac: MAC },
    { text: '020a.0b0c.0d0e', mac: MAC },
    { text: '020A.0B0C.0D0E', mac: MAC },
    { text: '00:00:00:00:00:01', mac: '00:00:00:00:00:01' },
    { text: '02:0a:0b:0c:0d', mac: undefined },
    { text: '02:0a:0b:0c:0d:0e:0f', mac: undefined },
    { text: '02:0a:0b:0c:0d:0e:0f:10', mac: undefined },
    { text: '02:0a-0b:0c:0d:0e', mac: undefined },
    { text: '2:a:b:c:d:e', mac: undefined },
    { text: '020a0b0c0d0e', mac: undefined },
    { text: ' 02:0a:0b:0c:0d:0e', mac: undefined },
    { text: '02:0a:0b:0c:0d:0e\n', mac: undefined },
    { text: '02:0a:0b:0c:0d:0g', mac: undefined },
    { text: '', mac: undefined },
    // The kernel would flood to these.
    { text: '00:00:00:00:00:00', mac: undefined },
    { text: 'ff:ff:ff:ff:ff:ff', mac: undefined },
    { text: '01:00:5e:00:00:01', mac: undefined },
    { text: '33-33-00-00-00-01', mac: undefined },
    { text: 42, mac: undefined },
    { text: null, mac: undefined },
    { text: [MAC], mac: undefined },
  ])('$text is $mac', ({ text, mac }) => {
    expect(parseVtepMac(text)).toBe(mac)
  })

  it.each([
    { data: { VtepMAC: MAC }, mac: MAC },
    { data: { vtepmac: MAC }, mac: MAC },
    { data: { VTEPMAC: MAC, other: 1 }, mac: MAC },
    // Go's decoder takes the last, whatever the case.
    { data: { VtepMAC: MAC, vtepmac: 'x' }, mac: undefined },
    { data: { vtepmac: 'x', VtepMAC: MAC }, mac: MAC },
    { data: { vtepmac: 'x', vtepMac: MAC }, mac: MAC },
    { data: {}, mac: undefined },
    { data: undefined, mac: undefined },
    { data: null, mac: undefined },
    { data: MAC, mac: undefined },
    { data: [MAC], mac: undefined },
  ])('is found in $data', ({ data, mac }) => {
    expect(vtepMac(data)).toBe(mac)
  })
})

describe('a lease', () => {
  const lease = (changes: Partial<Lease['attributes']> = {}): Lease => ({
    subnet: { address: 0x0af40100, length: 24 },
    attributes: {
      publicIP: 0xc0000202,
      backendType: 'vxlan',
      backendData: { VtepMAC: MAC },
      ...changes,
    },
    ttl: 10,
    modifiedIndex: 7,
  })

  it('names a tunnel end', () => {
    expect(vtepOf(lease())).toEqual({ subnet: lease().subnet, mac: MAC, underlay: 0xc0000202 })
  })

  it.each([
    {
      what: 'another type',
      changes: { backendType: 'host-gw' },
      why: 'ignoring non-vxlan subnet(10.244.1.0/24): type=host-gw',
    },
    { what: 'no type', changes: { backendType: '' }, why: 'ignoring non-vxlan subnet(10.244.1.0/24): type=' },
    {
      what: 'no data',
      changes: { backendData: undefined },
      why: 'error decoding subnet lease JSON: 10.244.1.0/24 has no usable VtepMAC in BackendData nothing',
    },
    {
      what: 'a long text for a MAC, of which the start is shown',
      changes: { backendData: { VtepMAC: 'x'.repeat(500) } },
      why: `error decoding subnet lease JSON: 10.244.1.0/24 has no usable VtepMAC in BackendData {"VtepMAC":"${'x'.repeat(68)}`,
    },
  ])('with $what is of no use, in one line', ({ changes, why }) => {
    expect(() => vtepOf(lease(changes))).toThrow(expect.objectContaining({ message: why }))
  })
})
