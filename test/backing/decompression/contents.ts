/** Contents to compress, the same on every machine: what a compressor finds much in, little in, or nothing. */
import { Rng } from "../../support/rng.ts"

/** `size` bytes of words of which some are frequent, as in a text. */
function text(size: number, rng: Rng): Uint8Array {
  const words = Array.from({ length: 800 }, () => Array.from({ length: rng.between(2, 9) }, () => 97 + Math.floor(rng.below(26) ** 0.9)))
  const data = new Uint8Array(size + 16)
  for (let at = 0; at < size;) {
    const word = words[Math.floor(words.length * (rng.below(1000) / 1000) ** 3)] ?? []
    data.set(word, at)
    at += word.length
    data[at++] = rng.chance(0.1) ? 10 : 32
  }
  return data.slice(0, size)
}

/** Records with a counter, some random bytes and constant ones. */
function records(size: number, rng: Rng): Uint8Array {
  const data = new Uint8Array(size)
  for (let at = 0, index = 0; at < size; at++) {
    const column = at % 24
    if (column === 0) index += rng.between(1, 3)
    data[at] = column < 4 ? (index >>> (8 * column)) & 0xff : column < 7 ? rng.below(256) : column < 10 ? rng.below(4) : column
  }
  return data
}

/** Runs of one byte of all lengths, some of them interrupted by noise. */
function runs(size: number, rng: Rng): Uint8Array {
  const data = rng.bytes(size)
  for (let at = 0; at < size; at += rng.between(1, 4000)) data.fill(rng.below(256), at, at + rng.between(1, 3500))
  return data
}

/** Bytes of which a few are frequent, and no repetitions: literals that Huffman codes shorten. */
function skewed(size: number, rng: Rng): Uint8Array {
  return Uint8Array.from({ length: size }, () => Math.min(rng.below(256), rng.below(256), rng.below(256), rng.below(256)))
}

function random(size: number, rng: Rng): Uint8Array {
  return Uint8Array.from({ length: size }, () => rng.below(256))
}

function zeroes(size: number): Uint8Array {
  return new Uint8Array(size)
}

const KINDS = { text, records, runs, skewed, random, zeroes }
export type ContentKind = keyof typeof KINDS
export const CONTENT_KINDS = Object.keys(KINDS) as readonly ContentKind[]

/** `size` bytes of a kind. The same seed gives the same bytes. */
export function makeContent(kind: ContentKind, size: number, seed: number): Uint8Array {
  return KINDS[kind](size, new Rng(seed))
}
