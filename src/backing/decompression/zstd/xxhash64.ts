/**
 * The checksum of a zstd frame: the low 32 bits of XXH64 with seed 0. RFC 8878, 3.1.1. A 64-bit word is two 32-bit halves. Functions return
 * words in `word`, because an object for each step would cost more than the step.
 */

/** The result of the last step: high half, low half. */
const word = new Int32Array(2)
/** The four lanes of the hash, in pairs. */
const lanes = new Int32Array(8)

type Halves = readonly [high: number, low: number]
const PRIME1: Halves = [0x9e37_79b1 | 0, 0x85eb_ca87 | 0]
const PRIME2: Halves = [0xc2b2_ae3d | 0, 0x27d4_eb4f | 0]
const PRIME3: Halves = [0x1656_67b1, 0x9e37_79f9 | 0]
const PRIME4: Halves = [0x85eb_ca77 | 0, 0xc2b2_ae63 | 0]
const PRIME5: Halves = [0x27d4_eb2f, 0x1656_67c5]
const STRIPE = 32

/** The checksum of the bytes of `data` from `start` to `end`, unsigned. */
export function checksumOf(data: DataView, start: number, end: number): number {
  const length = end - start
  let at = start
  if (length >= STRIPE) {
    at = start + length - (length % STRIPE)
    mergeLanes(data, start, at)
  } else {
    setWord(PRIME5[0], PRIME5[1])
  }
  add(0, length)
  for (; at + 8 <= end; at += 8) {
    mixWord(data.getInt32(at + 4, true), data.getInt32(at, true))
    step(27, PRIME1, PRIME4)
  }
  if (at + 4 <= end) {
    mixSmall(data.getInt32(at, true), PRIME1)
    step(23, PRIME2, PRIME3)
    at += 4
  }
  for (; at < end; at++) {
    mixSmall(data.getUint8(at), PRIME5)
    step(11, PRIME1, [0, 0])
  }
  return finish()
}

/** Starts the hash from the four lanes of the whole stripes in the bytes from `start` to `end`. */
function mergeLanes(data: DataView, start: number, end: number): void {
  setWord(PRIME1[0], PRIME1[1])
  add(PRIME2[0], PRIME2[1])
  lanes.set(word, 0)
  lanes.set(PRIME2, 2)
  lanes.set([0, 0], 4)
  setWord(0, 0)
  add(~PRIME1[0], -PRIME1[1])
  lanes.set(word, 6)
  for (let lane = 0; lane < 4; lane++) runLane(data, start + lane * 8, end, lane * 2)
  setWord(0, 0)
  for (const [lane, bits] of [1, 7, 12, 18].entries()) {
    const [high, low] = [lanes[lane * 2] ?? 0, lanes[lane * 2 + 1] ?? 0]
    add(rotated(high, low, bits), rotated(low, high, bits))
  }
  for (let lane = 0; lane < 4; lane++) {
    mixWord(lanes[lane * 2] ?? 0, lanes[lane * 2 + 1] ?? 0)
    multiply(PRIME1)
    add(PRIME4[0], PRIME4[1])
  }
}

/** Mixes every fourth word of the bytes from `start` to `end` into the lane at `index`. This loop takes nearly all of the time. */
function runLane(data: DataView, start: number, end: number, index: number): void {
  let high = lanes[index] ?? 0
  let low = lanes[index + 1] ?? 0
  for (let at = start; at < end; at += STRIPE) {
    const inputLow = data.getInt32(at, true)
    const productLow = Math.imul(inputLow, PRIME2[1])
    const productHigh = upperProduct(inputLow, PRIME2[1]) + Math.imul(
      data.getInt32(at + 4, true), PRIME2[1],
    ) + Math.imul(inputLow, PRIME2[0])
    const sum = (low >>> 0) + (productLow >>> 0)
    const sumHigh = (high + productHigh + (sum > 0xffff_ffff ? 1 : 0)) | 0
    const sumLow = sum | 0
    const turnedHigh = rotated(sumHigh, sumLow, 31)
    const turnedLow = rotated(sumLow, sumHigh, 31)
    low = Math.imul(turnedLow, PRIME1[1])
    high = (upperProduct(turnedLow, PRIME1[1]) + Math.imul(turnedHigh, PRIME1[1]) + Math.imul(turnedLow, PRIME1[0])) | 0
  }
  lanes[index] = high
  lanes[index + 1] = low
}

/** The high half of the product of two unsigned 32-bit numbers, from products that doubles hold exactly. */
function upperProduct(a: number, b: number): number {
  const unsigned = a >>> 0
  return Math.floor((unsigned * (b >>> 16) + Math.floor((unsigned * (b & 0xffff)) / 0x1_0000)) / 0x1_0000)
}

/** The high half of a word rotated left by 1 to 31 bits; with the halves exchanged, the low one. */
function rotated(high: number, low: number, bits: number): number {
  return (high << bits) | (low >>> (32 - bits))
}

function setWord(high: number, low: number): void {
  word[0] = high
  word[1] = low
}

function add(high: number, low: number): void {
  const sum = ((word[1] ?? 0) >>> 0) + (low >>> 0)
  setWord((word[0] ?? 0) + high + (sum > 0xffff_ffff ? 1 : 0), sum)
}

function multiply([high, low]: Halves): void {
  const [ownHigh = 0, ownLow = 0] = word
  setWord(upperProduct(ownLow, low) + Math.imul(ownHigh, low) + Math.imul(ownLow, high), Math.imul(ownLow, low))
}

/** Mixes a word of the input into the hash. */
function mixWord(high: number, low: number): void {
  const [ownHigh = 0, ownLow = 0] = word
  setWord(high, low)
  multiply(PRIME2)
  const [mixedHigh = 0, mixedLow = 0] = word
  setWord(rotated(mixedHigh, mixedLow, 31), rotated(mixedLow, mixedHigh, 31))
  multiply(PRIME1)
  setWord((word[0] ?? 0) ^ ownHigh, (word[1] ?? 0) ^ ownLow)
}

/** Mixes up to 32 bits of the input into the hash. */
function mixSmall(low: number, prime: Halves): void {
  const [ownHigh = 0, ownLow = 0] = word
  setWord(0, low)
  multiply(prime)
  setWord((word[0] ?? 0) ^ ownHigh, (word[1] ?? 0) ^ ownLow)
}

function step(bits: number, factor: Halves, [high, low]: Halves): void {
  const [ownHigh = 0, ownLow = 0] = word
  setWord(rotated(ownHigh, ownLow, bits), rotated(ownLow, ownHigh, bits))
  multiply(factor)
  add(high, low)
}

/** Spreads every bit over the hash, and returns its low half. */
function finish(): number {
  const [high = 0, low = 0] = word
  setWord(high, low ^ (high >>> 1))
  multiply(PRIME2)
  const [mixedHigh = 0, mixedLow = 0] = word
  setWord(mixedHigh ^ (mixedHigh >>> 29), mixedLow ^ ((mixedHigh << 3) | (mixedLow >>> 29)))
  multiply(PRIME3)
  return ((word[0] ?? 0) ^ (word[1] ?? 0)) >>> 0
}
