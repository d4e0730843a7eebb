/** RIPEMD-160: two lines of 80 steps, whose results are added. H. Dobbertin, A. Bosselaers, B. Preneel: "RIPEMD-160" */
import { rotate } from "../ciphers/each-block.ts"
import type { HashFunction } from "./hash-function.ts"

const STEPS = 80

/** One of the two lines: the word of the block and the rotation of each step, and the function and constant of each 16 steps. */
interface Line {
  readonly words: Uint8Array
  readonly rotations: Uint8Array
  readonly functions: readonly number[]
  readonly constants: readonly number[]
}

const LEFT: Line = {
  words: digits("0123456789abcdef", "74d1a6f3c0952eb8", "3ae49f812706db5c", "19ba08c4d37fe562", "40597c2ae138b6fd"),
  rotations: digits("befc5879bdef6798", "768db97f7cf9b7dc", "bd67e9dfe8d65c75", "bcefef989e56865c", "9f5b68dc5cdeb856"),
  functions: [0, 1, 2, 3, 4],
  constants: [0, 0x5a82_7999, 0x6ed9_eba1, 0x8f1b_bcdc, 0xa953_fd4e],
}

const RIGHT: Line = {
  words: digits("5e7092b4d6f81a3c", "6b370d5aef8c4912", "f5137e69b8c2a04d", "86413bf05c2d97ae", "cfa4158762de039b"),
  rotations: digits("899bdff5778beec6", "9df7c89b77c76fdb", "97fb866ecd5edd75", "f58bee6e69c9c5f8", "85c9c5e68d65fdbb"),
  functions: [4, 3, 2, 1, 0],
  constants: [0x50a2_8be6, 0x5c4d_d124, 0x6d70_3ef3, 0x7a6d_76e9, 0],
}

export const ripemd160: HashFunction = {
  digestBytes: 20,
  blockBytes: 64,
  isLittleEndian: true,
  start: Int32Array.of(0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0),
  compress,
}

function digits(...lines: string[]): Uint8Array {
  return Uint8Array.from(lines.join(""), (digit) => Number.parseInt(digit, 16))
}

function compress(state: Int32Array, block: Int32Array): void {
  const [p = 0, q = 0, r = 0, s = 0, t = 0] = state
  const [a = 0, b = 0, c = 0, d = 0, e = 0] = follow(LEFT, state, block)
  const [v = 0, w = 0, x = 0, y = 0, z = 0] = follow(RIGHT, state, block)
  state[0] = q + c + y
  state[1] = r + d + z
  state[2] = s + e + v
  state[3] = t + a + w
  state[4] = p + b + x
}

/** The state at the end of a line. */
function follow({ words, rotations, functions, constants }: Line, state: Int32Array, block: Int32Array): readonly number[] {
  let [a = 0, b = 0, c = 0, d = 0, e = 0] = state
  for (let step = 0; step < STEPS; step++) {
    const round = step >>> 4
    const sum = a + mixed(functions[round] ?? 0, b, c, d) + (block[words[step] ?? 0] ?? 0) + (constants[round] ?? 0)
    const next = (rotate(sum | 0, rotations[step] ?? 0) + e) | 0
    a = e
    e = d
    d = rotate(c, 10)
    c = b
    b = next
  }
  return [a, b, c, d, e]
}

function mixed(number: number, x: number, y: number, z: number): number {
  switch (number) {
    case 0:
      return x ^ y ^ z
    case 1:
      return (x & y) | (~x & z)
    case 2:
      return (x | ~y) ^ z
    case 3:
      return (x & z) | (y & ~z)
    default:
      return x ^ (y | ~z)
  }
}
