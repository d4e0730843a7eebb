/**
 * The anti-forensic splitter stores a key as 4000 stripes. Recovering the key needs all of them, so destroying a few bytes destroys it.
 * [LUKS1] 2.4
 */
import type { Cryptography } from "./cryptography.ts"
import { DIGEST_BYTES } from "./cipher-spec.ts"

export interface SplitOptions {
  readonly hash: string
  readonly stripes: number
  readonly cryptography: Cryptography
}

/** The stripes of `key`, one after the other: all are random, except for the last, which makes the stripes yield the key. */
export function splitKey(key: Uint8Array, { hash, stripes, cryptography }: SplitOptions): Uint8Array {
  const { length } = key
  const split = new Uint8Array(length * stripes)
  split.set(cryptography.random(length * (stripes - 1)))
  const mixed = mix(split, { length, hash, stripes, cryptography })
  const last = length * (stripes - 1)
  for (let at = 0; at < length; at++) split[last + at] = (mixed[at] ?? 0) ^ (key[at] ?? 0)
  return split
}

/** The key of `length` bytes whose stripes are `split`. */
export function mergeKey(split: Uint8Array, length: number, { hash, stripes, cryptography }: SplitOptions): Uint8Array {
  const key = mix(split, { length, hash, stripes, cryptography })
  xorInto(key, split.subarray(length * (stripes - 1)))
  return key
}

/** The combination of all stripes except the last. */
function mix(split: Uint8Array, { length, hash, stripes, cryptography }: SplitOptions & { readonly length: number }): Uint8Array {
  const mixed = new Uint8Array(length)
  for (let stripe = 0; stripe < stripes - 1; stripe++) {
    xorInto(mixed, split.subarray(stripe * length, (stripe + 1) * length))
    diffuse(mixed, hash, cryptography)
  }
  return mixed
}

function xorInto(target: Uint8Array, other: Uint8Array): void {
  for (let at = 0; at < target.length; at++) target[at] = (target[at] ?? 0) ^ (other[at] ?? 0)
}

/** Replaces each piece of a digest's size by the digest of its number and content, cut off for a shorter last piece. */
function diffuse(bytes: Uint8Array, hash: string, cryptography: Cryptography): void {
  const size = DIGEST_BYTES.get(hash) ?? bytes.length
  for (let at = 0, index = 0; at < bytes.length; at += size, index++) {
    const piece = bytes.subarray(at, at + size)
    const numbered = new Uint8Array(4 + piece.length)
    new DataView(numbered.buffer).setUint32(0, index)
    numbered.set(piece, 4)
    piece.set(cryptography.digest(hash, numbered).subarray(0, piece.length))
  }
}
