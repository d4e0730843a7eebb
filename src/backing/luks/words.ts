/** Bytes as words, and words as bytes: what the ciphers count in. */

export function asBytes(words: Int32Array): Uint8Array {
  return new Uint8Array(words.buffer, words.byteOffset, words.byteLength)
}

/** The same bytes as words of the host, which is little-endian; a copy where they do not lie at a multiple of 4. */
export function asWords(bytes: Uint8Array): Int32Array {
  const { buffer, byteOffset, byteLength } = byteOffsetIsEven(bytes) ? bytes : bytes.slice()
  return new Int32Array(buffer, byteOffset, byteLength / 4)
}

function byteOffsetIsEven({ byteOffset }: Uint8Array): boolean {
  return byteOffset % 4 === 0
}
