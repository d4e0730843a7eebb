/** SHA-256, and SHA-224, which has another initial state and is truncated. FIPS 180-4, 6.2 and 6.3 */
import { everySecond, firstPrimes, rootWords } from "./sha2-constants.ts"
import type { HashFunction } from "./hash-function.ts"

const ROUNDS = 64
/** Computed for the first block, because most pages open no encrypted image. */
let constants: Int32Array = new Int32Array(0)
const schedule = new Int32Array(ROUNDS)

export const sha256: HashFunction = {
  digestBytes: 32, blockBytes: 64, isLittleEndian: false, start: everySecond(rootWords(firstPrimes(8), 2), 0), compress,
}

export const sha224: HashFunction = {
  digestBytes: 28, blockBytes: 64, isLittleEndian: false, start: everySecond(rootWords(firstPrimes(16).slice(8), 2), 1), compress,
}

function compress(state: Int32Array, block: Int32Array): void {
  const w = schedule
  if (constants.length === 0) constants = everySecond(rootWords(firstPrimes(ROUNDS), 3), 0)
  const k = constants
  w.set(block)
  for (let t = 16; t < ROUNDS; t++) {
    const x = w[t - 15] ?? 0
    const y = w[t - 2] ?? 0
    const first = ((x >>> 7) | (x << 25)) ^ ((x >>> 18) | (x << 14)) ^ (x >>> 3)
    const second = ((y >>> 17) | (y << 15)) ^ ((y >>> 19) | (y << 13)) ^ (y >>> 10)
    w[t] = (second + (w[t - 7] ?? 0) + first + (w[t - 16] ?? 0)) | 0
  }
  let [a = 0, b = 0, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0] = state
  for (let t = 0; t < ROUNDS; t++) {
    const turnedE = ((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7))
    const first = (h + turnedE + ((e & f) ^ (~e & g)) + (k[t] ?? 0) + (w[t] ?? 0)) | 0
    const turnedA = ((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10))
    const second = (turnedA + ((a & b) ^ (a & c) ^ (b & c))) | 0
    h = g
    g = f
    f = e
    e = (d + first) | 0
    d = c
    c = b
    b = a
    a = (first + second) | 0
  }
  state[0] = (state[0] ?? 0) + a
  state[1] = (state[1] ?? 0) + b
  state[2] = (state[2] ?? 0) + c
  state[3] = (state[3] ?? 0) + d
  state[4] = (state[4] ?? 0) + e
  state[5] = (state[5] ?? 0) + f
  state[6] = (state[6] ?? 0) + g
  state[7] = (state[7] ?? 0) + h
}
