import { gzipSync } from 'node:zlib'

/** One file of an archive. */
export interface TarEntry {
  readonly name: string
  readonly content: Uint8Array
}

const BLOCK = 512

/**
 * A gzipped tar archive in the ustar format (POSIX.1-1988, pax(1)): a block of header, the content padded to blocks, two empty
 * blocks at the end. Names have at most 100 bytes. Files are the owner's alone, since a bundle tells much of a machine.
 */
export function tarGz(entries: readonly TarEntry[], mtime: number): Uint8Array {
  const parts: Uint8Array[] = []
  for (const { name, content } of entries) {
    parts.push(header(name, content.length, mtime), content, new Uint8Array(-content.length & (BLOCK - 1)))
  }
  parts.push(new Uint8Array(2 * BLOCK))
  return gzipSync(Buffer.concat(parts))
}

/** `mtime` is in seconds since the epoch. */
function header(name: string, size: number, mtime: number): Uint8Array {
  const block = Buffer.alloc(BLOCK)
  if (Buffer.byteLength(name) > 100) throw new RangeError(`${name} is too long a name for a tar archive`)
  const octal = (value: number, at: number, width: number): void => {
    block.write(value.toString(8).padStart(width - 1, '0'), at, 'ascii')
  }
  block.write(name, 0)
  octal(0o600, 100, 8)
  octal(0, 108, 8)
  octal(0, 116, 8)
  octal(size, 124, 12)
  octal(mtime, 136, 12)
  // The checksum counts itself as spaces.
  block.write('        ', 148, 'ascii')
  block.write('0', 156, 'ascii')
  block.write('ustar\0', 257, 'ascii')
  block.write('00', 263, 'ascii')
  const sum = block.reduce((total, byte) => total + byte, 0)
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'ascii')
  return block
}
