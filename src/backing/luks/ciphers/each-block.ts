/** Runs a block cipher over blocks of 16 bytes, as words: the ciphers here count in little-endian words, as the host does. */
import { asWords } from "../words.ts"

const BLOCK_WORDS = 4

/** Calls `transform` with each block, to change in place, and returns all of them in an array of their own. */
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

/** `word`, 0 to 31 `bits` to the left; what leaves it there comes in again on the right. */
export function rotate(word: number, bits: number): number {
  return (word << bits) | (word >>> (32 - bits))
}
