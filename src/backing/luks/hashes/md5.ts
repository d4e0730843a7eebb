/** MD5, for old volumes that derive their key with it. RFC 1321 */
import { rotate } from "../ciphers/each-block.ts"
import type { HashFunction } from "./hash-function.ts"

const ROUNDS = 64
const CONSTANTS = Int32Array.from({ length: ROUNDS }, (_, index) => Math.floor(Math.abs(Math.sin(index + 1)) * 2 ** 32))
const ROTATIONS = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]] as const
/** The word of the block for a step: for each round of 16 steps, a factor and a summand for the step's number. */
const WORDS = [[1, 0], [5, 1], [3, 5], [7, 0]] as const

export const md5: HashFunction = {
  digestBytes: 16,
  blockBytes: 64,
  isLittleEndian: true,
  start: Int32Array.of(0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476),
  compress,
}

function compress(state: Int32Array, block: Int32Array): void {
  let [a = 0, b = 0, c = 0, d = 0] = state
  for (let step = 0; step < ROUNDS; step++) {
    const round = step >>> 4
    const [factor, term] = WORDS[round] ?? WORDS[0]
    const sum = (a + mixed(round, b, c, d) + (block[(factor * step + term) & 15] ?? 0) + (CONSTANTS[step] ?? 0)) | 0
    a = d
    d = c
    c = b
    b = (b + rotate(sum, ROTATIONS[round]?.[step & 3] ?? 0)) | 0
  }
  state[0] = (state[0] ?? 0) + a
  state[1] = (state[1] ?? 0) + b
  state[2] = (state[2] ?? 0) + c
  state[3] = (state[3] ?? 0) + d
}

function mixed(round: number, b: number, c: number, d: number): number {
  if (round === 0) return (b & c) | (~b & d)
  if (round === 1) return (b & d) | (c & ~d)
  return round === 2 ? b ^ c ^ d : c ^ (b | ~d)
}
