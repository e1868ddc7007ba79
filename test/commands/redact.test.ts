import { describe, expect, it } from 'vitest'
import { redact, secretsOf } from '../../src/commands/redact.ts'

describe('what leaves the machine has no secret in it', () => {
  it.each([
    'FLANNELD_ETCD_PASSWORD=hunter2',
    'FLANNELD_ETCD_PASSWORD=with hunter2 inside',
    'Environment="FLANNELD_ETCD_PASSWORD=hunter2"',
    'ExecStart=/usr/bin/flanneld -etcd-password hunter2 -iface eth0',
    'ExecStart=/usr/bin/flanneld --etcd-password=hunter2',
    "-etcd-password 'a hunter2'",
    '-etcd-password\nhunter2',
    '{"password":"hunter2"}',
    '{"password": "hunter2"}',
    'https://user:hunter2@etcd.example:2379/v2',
    'FLANNELD_ETCD_ENDPOINTS=http://a:2379,http://user:a@hunter2@b:2379',
    'http://user:a/hunter2@etcd.example:2379',
    'Authorization: Basic hunter2',
    '-----BEGIN RSA PRIVATE KEY-----\nhunter2\n-----END RSA PRIVATE KEY-----',
    '-----BEGIN PRIVATE KEY-----\nhunter2',
  ])('%s', (text) => {
    expect(redact(text)).not.toContain('hunter2')
    expect(redact(text)).toContain('(removed)')
  })

  it('wherever it stands, when it is known', () => {
    expect(redact('nobody knows hunter2, hunter2!', ['hunter2'])).toBe('nobody knows (removed), (removed)!')
  })
})

it.each([
  '10.5.1.0/24 via 10.5.1.0 dev flannel.1 onlink',
  'FLANNELD_ETCD_ENDPOINTS=http://127.0.0.1:2379',
  '{"url":"https://etcd.example:2379","mac":"02:00:00:00:00:01"}',
])('leaves %s as it is', (text) => expect(redact(text)).toBe(text))

it('knows the secrets of a process', () => {
  expect(
    secretsOf(
      [
        'flanneld',
        '-etcd-password',
        'one secret',
        '--etcd-password=two',
        '-etcd-endpoints=http://u:thr@ee@a:1,http://b:2',
      ],
      [
        'FLANNELD_ETCD_PASSWORD=four',
        'PATH=/bin',
        'FLANNELD_ETCD_ENDPOINTS=https://v:five@c:3',
        'FLANNELD_ETCD_PASSWORD=x',
      ],
    ).sort(),
  ).toEqual(['five', 'four', 'one secret', 'thr@ee', 'two'])
})
