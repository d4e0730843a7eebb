/** Runs a block cipher over blocks of 16 bytes, as little-endian words, which are the host's. */
import { asWords } from "../words.ts"

const BLOCK_WORDS = 4

/** Copies the blocks, calls `transform` to change each in place, and returns the copy. */
export function eachBlock(blocks: Uint8Array, transform: (block: Int32Array) => void): Uint8Array {
  const result = new Uint8Array(blocks)
  const words = asWords(result)
  const block = new Int32Array(BLOCK_WORDS)
  for (let at = 0; at < words.length; at += BLOCK_WORDS) {
    for (let index = 0; index < BLOCK_WORDS; index++) block[index] = words[at + index] ?? 0
    transform(block)
    words.set(block, at)
  }
  return result
}

/** `word` rotated left by `bits`, 0 to 31. */
export function rotate(word: number, bits: number): number {
  return (word << bits) | (word >>> (32 - bits))
}
