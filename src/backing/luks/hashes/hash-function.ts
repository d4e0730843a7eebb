/** HashFunction: what makes a hash of the family of MD4, and the digests that it gives. RFC 1321, FIPS 180-4 */

export interface HashFunction {
  readonly digestBytes: number
  readonly blockBytes: 64 | 128
  /** How bytes count as words of 32 bits. */
  readonly isLittleEndian: boolean
  /** The words that a digest begins with, and is the first ones of. */
  readonly start: Int32Array
  /** Takes a block into `state`, and leaves the block as it is. */
  readonly compress: (state: Int32Array, block: Int32Array) => void
}

export function digest(hash: HashFunction, data: Uint8Array): Uint8Array {
  const state = hash.start.slice()
  absorb(hash, state, pad(data, hash, 0))
  return wordBytes(state, hash)
}

/** Takes whole blocks into `state`. */
export function absorb({ blockBytes, isLittleEndian, compress }: HashFunction, state: Int32Array, blocks: Uint8Array<ArrayBuffer>): void {
  const view = new DataView(blocks.buffer)
  const block = new Int32Array(blockBytes / 4)
  for (let at = 0; at < blocks.length; at += blockBytes) {
    for (let index = 0; index < block.length; index++) block[index] = view.getInt32(at + 4 * index, isLittleEndian)
    compress(state, block)
  }
}

/** The digest that the words of a state are. */
export function wordBytes(state: Int32Array, { digestBytes, isLittleEndian }: HashFunction): Uint8Array<ArrayBuffer> {
  const bytes = new DataView(new ArrayBuffer(digestBytes))
  for (let at = 0; at < digestBytes; at += 4) bytes.setInt32(at, state[at / 4] ?? 0, isLittleEndian)
  return new Uint8Array(bytes.buffer)
}

/** Whole blocks: `data`, a 1, zeroes, and the length in bits of it and of `before` bytes before it. */
export function pad(data: Uint8Array, { blockBytes, isLittleEndian }: HashFunction, before: number): Uint8Array<ArrayBuffer> {
  const lengthBytes = blockBytes / 8
  const blocks = Math.ceil((data.length + 1 + lengthBytes) / blockBytes)
  const padded = new Uint8Array(blocks * blockBytes)
  padded.set(data)
  padded[data.length] = 0x80
  const bits = (before + data.length) * 8
  const view = new DataView(padded.buffer)
  const [low, high] = isLittleEndian ? [padded.length - 8, padded.length - 4] : [padded.length - 4, padded.length - 8]
  view.setUint32(low, bits % 2 ** 32, isLittleEndian)
  view.setUint32(high, Math.floor(bits / 2 ** 32), isLittleEndian)
  return padded
}
