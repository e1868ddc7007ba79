/** Bytes as a dump shows them: hex digits, with spaces, line breaks and `//` comments for the reader. */
export function hex(text: string): Uint8Array {
  return new Uint8Array(Buffer.from(text.replace(/\/\/.*$/gm, '').replace(/\s/g, ''), 'hex'))
}
