import { describe, expect, it } from 'vitest'
import { CommandError, parseCapabilities, systemRunner } from '../../src/masq/exec.ts'

function failure(promise: Promise<unknown>): Promise<CommandError> {
  return promise.then(
    () => {
      throw new Error('did not fail')
    },
    (error) => error,
  )
}

describe('systemRunner', () => {
  it('passes input and collects output', async () => {
    const out = await systemRunner('sh', ['-c', 'tr a-z A-Z; echo "$LC_ALL" >&2'], { input: 'abc' })
    expect(out).toEqual({ stdout: 'ABC', stderr: 'C\n' })
  })

  it('says in one line what a program said', async () => {
    const script = 'printf "iptables: No chain by that name.\\nTry \\140iptables -h\\n" >&2; exit 3'
    const error = await failure(systemRunner('sh', ['-c', script]))
    expect(error).toBeInstanceOf(CommandError)
    expect(error).toMatchObject({ kind: 'failed', status: 3 })
    expect(error.message).toBe('sh: iptables: No chain by that name. (exit status 3)')
  })

  it('knows a program that is not there', async () => {
    const error = await failure(systemRunner('no-such-iptables', []))
    expect(error).toMatchObject({ kind: 'missing', message: 'no-such-iptables: not found in PATH' })
  })

  it('minds no program that does not read', async () => {
    await expect(systemRunner('true', [], { input: 'x'.repeat(1 << 20) })).resolves.toMatchObject({
      stdout: '',
    })
  })

  it('kills a program that hangs', async () => {
    const error = await failure(systemRunner('sleep', ['100'], { timeoutMs: 50 }))
    expect(error).toMatchObject({ kind: 'timeout', message: 'sleep: killed after 0.05 s without result' })
  })

  it('ends the program when told to stop', async () => {
    const stop = new AbortController()
    const result = failure(systemRunner('sleep', ['1000'], { signal: stop.signal }))
    stop.abort()
    expect(await result).toMatchObject({ kind: 'aborted' })
    expect(await failure(systemRunner('true', [], { signal: stop.signal }))).toMatchObject({
      kind: 'aborted',
    })
  })
})

describe('parseCapabilities', () => {
  it.each([
    ['iptables v1.8.9 (nf_tables)\n', { nft: true, randomFully: true, restoreWait: true }],
    ['iptables v1.8.9 (legacy)\n', { nft: false, randomFully: true, restoreWait: true }],
    ['iptables v1.10.0 (nf_tables)', { nft: true, randomFully: true, restoreWait: true }],
    ['iptables v1.6.2', { nft: false, randomFully: true, restoreWait: true }],
    ['iptables v1.6.1', { nft: false, randomFully: false, restoreWait: false }],
    ['iptables v1.4.21', { nft: false, randomFully: false, restoreWait: false }],
    ['', { nft: false, randomFully: false, restoreWait: false }],
    ['iptables from the moon', { nft: false, randomFully: false, restoreWait: false }],
  ])('%j', (text, expected) => {
    expect(parseCapabilities(text)).toEqual(expected)
  })
})
