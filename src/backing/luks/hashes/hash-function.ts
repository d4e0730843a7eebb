/** HashFunction: the parts of a hash of the MD4 family, and its digests. RFC 1321, FIPS 180-4 */

export interface HashFunction {
  readonly digestBytes: number
  readonly blockBytes: 64 | 128
  /** The byte order of words of 32 bits. */
  readonly isLittleEndian: boolean
  /** The initial state. A digest is the first words of the final state. */
  readonly start: Int32Array
  /** Mixes a block into `state`, without changing the block. */
  readonly compress: (state: Int32Array, block: Int32Array) => void
}

export function digest(hash: HashFunction, data: Uint8Array): Uint8Array {
  const state = hash.start.slice()
  absorb(hash, state, pad(data, hash, 0))
  return wordBytes(state, hash)
}

/** Mixes whole blocks into `state`. */
export function absorb({ blockBytes, isLittleEndian, compress }: HashFunction, state: Int32Array, blocks: Uint8Array<ArrayBuffer>): void {
  const view = new DataView(blocks.buffer)
  const block = new Int32Array(blockBytes / 4)
  for (let at = 0; at < blocks.length; at += blockBytes) {
    for (let index = 0; index < block.length; index++) block[index] = view.getInt32(at + 4 * index, isLittleEndian)
    compress(state, block)
  }
}

/** The digest from the words of a state. */
export function wordBytes(state: Int32Array, { digestBytes, isLittleEndian }: HashFunction): Uint8Array<ArrayBuffer> {
  const bytes = new DataView(new ArrayBuffer(digestBytes))
  for (let at = 0; at < digestBytes; at += 4) bytes.setInt32(at, state[at / 4] ?? 0, isLittleEndian)
  return new Uint8Array(bytes.buffer)
}

/** Pads `data` to whole blocks: with a 1, zeroes, and the length in bits of `data` and the `before` bytes before it. */
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
