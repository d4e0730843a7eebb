/**
 * SHA-512, and SHA-384, which has another initial state and is truncated. Words of 64 bits are stored as two halves, the high one first.
 * FIPS 180-4, 6.4 and 6.5
 */
import { firstPrimes, rootWords } from "./sha2-constants.ts"
import type { HashFunction } from "./hash-function.ts"

const ROUNDS = 80
/** Computed for the first block, because most pages open no encrypted image. */
let constants: Int32Array = new Int32Array(0)
const schedule = new Int32Array(2 * ROUNDS)
/** The working variables a to h. */
const working = new Int32Array(16)

export const sha512: HashFunction = {
  digestBytes: 64, blockBytes: 128, isLittleEndian: false, start: rootWords(firstPrimes(8), 2), compress,
}

export const sha384: HashFunction = {
  digestBytes: 48, blockBytes: 128, isLittleEndian: false, start: rootWords(firstPrimes(16).slice(8), 2), compress,
}

function compress(state: Int32Array, block: Int32Array): void {
  if (constants.length === 0) constants = rootWords(firstPrimes(ROUNDS), 3)
  expand(block)
  working.set(state)
  for (let t = 0; t < 2 * ROUNDS; t += 2) turn(t)
  for (let at = 0; at < state.length; at += 2) {
    const low = ((state[at + 1] ?? 0) >>> 0) + ((working[at + 1] ?? 0) >>> 0)
    state[at] = (state[at] ?? 0) + (working[at] ?? 0) + carry(low)
    state[at + 1] = low
  }
}

/** The carry of a sum of low halves. */
function carry(sum: number): number {
  return Math.floor(sum / 2 ** 32)
}

/** The message schedule. */
function expand(block: Int32Array): void {
  const w = schedule
  w.set(block)
  for (let t = 32; t < 2 * ROUNDS; t += 2) {
    const xh = w[t - 30] ?? 0
    const xl = w[t - 29] ?? 0
    const yh = w[t - 4] ?? 0
    const yl = w[t - 3] ?? 0
    const firstHigh = part(xh, xl, 1) ^ part(xh, xl, 8) ^ (xh >>> 7)
    const firstLow = part(xl, xh, 1) ^ part(xl, xh, 8) ^ part(xl, xh, 7)
    const secondHigh = part(yh, yl, 19) ^ part(yl, yh, 29) ^ (yh >>> 6)
    const secondLow = part(yl, yh, 19) ^ part(yh, yl, 29) ^ part(yl, yh, 6)
    const low = (firstLow >>> 0) + (secondLow >>> 0) + ((w[t - 13] ?? 0) >>> 0) + ((w[t - 31] ?? 0) >>> 0)
    w[t] = firstHigh + secondHigh + (w[t - 14] ?? 0) + (w[t - 32] ?? 0) + carry(low)
    w[t + 1] = low
  }
}

/**
 * One half of a word rotated right by `bits`, 1 to 31: `here` was that half, `above` the other one. Exchanging the two rotates by 32 more.
 */
function part(here: number, above: number, bits: number): number {
  return (here >>> bits) | (above << (32 - bits))
}

/** Round `t`, with word `t` of the schedule and of the constants. */
function turn(t: number): void {
  const v = working
  const ah = v[0] ?? 0
  const al = v[1] ?? 0
  const bh = v[2] ?? 0
  const bl = v[3] ?? 0
  const ch = v[4] ?? 0
  const cl = v[5] ?? 0
  const eh = v[8] ?? 0
  const el = v[9] ?? 0
  const turnedHigh = part(eh, el, 14) ^ part(eh, el, 18) ^ part(el, eh, 9)
  const turnedLow = part(el, eh, 14) ^ part(el, eh, 18) ^ part(eh, el, 9)
  const chosenHigh = (eh & (v[10] ?? 0)) ^ (~eh & (v[12] ?? 0))
  const chosenLow = (el & (v[11] ?? 0)) ^ (~el & (v[13] ?? 0))
  const constantLow = ((constants[t + 1] ?? 0) >>> 0) + ((schedule[t + 1] ?? 0) >>> 0)
  const firstLow = ((v[15] ?? 0) >>> 0) + (turnedLow >>> 0) + (chosenLow >>> 0) + constantLow
  const firstHigh = (v[14] ?? 0) + turnedHigh + chosenHigh + (constants[t] ?? 0) + (schedule[t] ?? 0) + carry(firstLow)
  const mixedHigh = part(ah, al, 28) ^ part(al, ah, 2) ^ part(al, ah, 7)
  const mixedLow = part(al, ah, 28) ^ part(ah, al, 2) ^ part(ah, al, 7)
  const majorHigh = (ah & bh) ^ (ah & ch) ^ (bh & ch)
  const majorLow = (al & bl) ^ (al & cl) ^ (bl & cl)
  v.copyWithin(2, 0, 14)
  const eLow = ((v[9] ?? 0) >>> 0) + (firstLow % 2 ** 32)
  v[8] = (v[8] ?? 0) + firstHigh + carry(eLow)
  v[9] = eLow
  const aLow = (firstLow % 2 ** 32) + (mixedLow >>> 0) + (majorLow >>> 0)
  v[0] = firstHigh + mixedHigh + majorHigh + carry(aLow)
  v[1] = aLow
}
