/** Bytes as words, the unit of the ciphers, and words as bytes. */

export function asBytes(words: Int32Array): Uint8Array {
  return new Uint8Array(words.buffer, words.byteOffset, words.byteLength)
}

/** The same bytes as words of the little-endian host; a copy if they are not aligned to 4 bytes. */
export function asWords(bytes: Uint8Array): Int32Array {
  const { buffer, byteOffset, byteLength } = byteOffsetIsEven(bytes) ? bytes : bytes.slice()
  return new Int32Array(buffer, byteOffset, byteLength / 4)
}

function byteOffsetIsEven({ byteOffset }: Uint8Array): boolean {
  return byteOffset % 4 === 0
}
