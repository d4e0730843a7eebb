/** SHA-1. FIPS 180-4, 6.1 */
import { rotate } from "../ciphers/each-block.ts"
import type { HashFunction } from "./hash-function.ts"

const ROUNDS = 80
const schedule = new Int32Array(ROUNDS)

export const sha1: HashFunction = {
  digestBytes: 20,
  blockBytes: 64,
  isLittleEndian: false,
  start: Int32Array.of(0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0),
  compress,
}

function compress(state: Int32Array, block: Int32Array): void {
  const w = schedule
  w.set(block)
  for (let t = 16; t < ROUNDS; t++) w[t] = rotate((w[t - 3] ?? 0) ^ (w[t - 8] ?? 0) ^ (w[t - 14] ?? 0) ^ (w[t - 16] ?? 0), 1)
  let [a = 0, b = 0, c = 0, d = 0, e = 0] = state
  for (let t = 0; t < ROUNDS; t++) {
    const next = (rotate(a, 5) + mixed(t, b, c, d) + e + (w[t] ?? 0)) | 0
    e = d
    d = c
    c = rotate(b, 30)
    b = a
    a = next
  }
  state[0] = (state[0] ?? 0) + a
  state[1] = (state[1] ?? 0) + b
  state[2] = (state[2] ?? 0) + c
  state[3] = (state[3] ?? 0) + d
  state[4] = (state[4] ?? 0) + e
}

/** The function and the constant of round `t`. */
function mixed(t: number, b: number, c: number, d: number): number {
  if (t < 20) return ((b & c) ^ (~b & d)) + 0x5a82_7999
  if (t < 40) return (b ^ c ^ d) + 0x6ed9_eba1
  return t < 60 ? ((b & c) ^ (b & d) ^ (c & d)) + 0x8f1b_bcdc : (b ^ c ^ d) + 0xca62_c1d6
}
