/**
 * CAST-128, which QEMU and dm-crypt call CAST5: a block cipher that QEMU can encrypt images with. Its blocks are two big-endian words.
 * OpenSSL has it only in its legacy provider, so we implement it, with integers of 32 bits. RFC 2144
 */
import { viewOf } from "../../bytes/fields.ts"
import type { BlockCipher } from "../cryptography.ts"
import { castBoxes } from "./cast5-boxes.ts"
import { rotate } from "./each-block.ts"

const ROUNDS = 16
const BLOCK_BYTES = 8

/**
 * How to compute words of the RFC's bytes z from bytes x, or the other way round. Each row has the first byte of the result, the first byte
 * of the word that it starts from, and the bytes for S5 to S8 and for one more box.
 */
const STEPS_TO_Z = rows("z0 x0 xD xF xC xE x8", "z4 x8 z0 z2 z1 z3 xA", "z8 xC z7 z6 z5 z4 x9", "zC x4 zA z9 zB z8 xB")
const STEPS_TO_X = rows("x0 z8 z5 z7 z4 z6 z0", "x4 z0 x0 x2 x1 x3 z2", "x8 z4 x7 x6 x5 x4 z1", "xC zC xA x9 xB x8 z3")
/** The additional box of each of the four steps. */
const LAST_BOX_OF_STEPS = [7, 8, 5, 6] as const
/** Each with four subkeys: bytes for S5 to S8, and for S5, S6, S7 and S8 in turn. RFC 2144, 2.4 */
const SCHEDULE = [
  { steps: STEPS_TO_Z, keys: rows("z8 z9 z7 z6 z2", "zA zB z5 z4 z6", "zC zD z3 z2 z9", "zE zF z1 z0 zC") },
  { steps: STEPS_TO_X, keys: rows("x3 x2 xC xD x8", "x1 x0 xE xF xD", "x7 x6 x8 x9 x3", "x5 x4 xA xB x7") },
  { steps: STEPS_TO_Z, keys: rows("z3 z2 zC zD z9", "z1 z0 zE zF zC", "z7 z6 z8 z9 z2", "z5 z4 zA zB z6") },
  { steps: STEPS_TO_X, keys: rows("x8 x9 x7 x6 x3", "xA xB x5 x4 x7", "xC xD x3 x2 x8", "xE xF x1 x0 xD") },
] as const

/** Made with the first key, because few programs need them. */
let boxes: Int32Array = new Int32Array(0)

export class Cast5 implements BlockCipher {
  /** Km, then Kr. */
  readonly #keys: Int32Array

  /** `key`: 16 bytes. */
  constructor(key: Uint8Array) {
    if (boxes.length === 0) boxes = castBoxes()
    this.#keys = expandKey(key)
  }

  encrypt(blocks: Uint8Array): Uint8Array {
    return this.#transform(blocks, 0, 1)
  }

  decrypt(blocks: Uint8Array): Uint8Array {
    return this.#transform(blocks, ROUNDS - 1, -1)
  }

  /** Both directions run the same rounds, with the subkeys in the order of `first` and `step`. */
  #transform(blocks: Uint8Array, first: number, step: number): Uint8Array {
    const keys = this.#keys
    const result = new Uint8Array(blocks.length)
    const from = viewOf(blocks)
    const to = new DataView(result.buffer)
    for (let at = 0; at < blocks.length; at += BLOCK_BYTES) {
      let left = from.getInt32(at)
      let right = from.getInt32(at + 4)
      for (let count = 0, round = first; count < ROUNDS; count++, round += step) {
        const next = left ^ mixed(right, round % 3, keys[round] ?? 0, keys[ROUNDS + round] ?? 0)
        left = right
        right = next
      }
      to.setInt32(at, right)
      to.setInt32(at + 4, left)
    }
    return result
  }
}

/** The function f of this type (from 0) for a half of a block. RFC 2144, 2.2 */
function mixed(half: number, type: number, mask: number, rotation: number): number {
  const word = rotate(type === 0 ? mask + half : type === 1 ? mask ^ half : mask - half, rotation)
  const a = boxes[word >>> 24] ?? 0
  const b = boxes[256 + ((word >>> 16) & 0xff)] ?? 0
  const c = boxes[512 + ((word >>> 8) & 0xff)] ?? 0
  const d = boxes[768 + (word & 0xff)] ?? 0
  if (type === 0) return ((a ^ b) - c + d) | 0
  return type === 1 ? ((a - b + c) | 0) ^ d : (((a + b) ^ c) - d) | 0
}

/** Two runs of the schedule: the first yields Km; the second continues from its state and yields Kr. */
function expandKey(key: Uint8Array): Int32Array {
  const state = new KeyState(key)
  const keys: number[] = []
  for (const part of [...SCHEDULE, ...SCHEDULE]) {
    part.steps.forEach((row, index) => state.step(row, LAST_BOX_OF_STEPS[index] ?? 0))
    keys.push(...part.keys.map((row, index) => state.sum(row, 5 + index)))
  }
  return Int32Array.from(keys, (word, index) => (index < ROUNDS ? word : word & 31))
}

/** The bytes x and z of the RFC. */
class KeyState {
  readonly #bytes = new Uint8Array(32)
  readonly #view = new DataView(this.#bytes.buffer)

  constructor(key: Uint8Array) {
    this.#bytes.set(key)
  }

  step([target = 0, start = 0, ...picked]: readonly number[], lastBox: number): void {
    this.#view.setInt32(target, this.#view.getInt32(start) ^ this.sum(picked, lastBox))
  }

  /** Words of S5 to S8, and of `lastBox`, for the bytes at these places. */
  sum(places: readonly number[], lastBox: number): number {
    return places.reduce((word, place, index) => word ^ this.#picked(place, index < 4 ? 5 + index : lastBox), 0)
  }

  #picked(place: number, box: number): number {
    return boxes[(box - 1) * 256 + (this.#bytes[place] ?? 0)] ?? 0
  }
}

/** The places in the state of bytes x0 to xF and z0 to zF. */
function rows(...lines: string[]): readonly (readonly number[])[] {
  return lines.map((line) => line.split(" ").map((name) => (name.startsWith("z") ? 16 : 0) + Number.parseInt(name.slice(1), 16)))
}
