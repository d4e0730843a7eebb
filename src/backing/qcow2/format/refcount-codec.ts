/** Reads and writes one refcount in a refcount block, for every width that the format allows. [QCOW2] "Host cluster management" */
import { getU64, setU64 } from "../../bytes/fields.ts"

/** Access to the refcounts of one width. `index` counts refcounts from the start of the block. */
export interface RefcountCodec {
  /** The refcount at `index`. A 64-bit one above 2^53 comes back rounded, but still above 2^53. */
  get(block: DataView, index: number): number
  /** Stores `value`, an integer from 0 to the width's largest (at most 2^53 - 1), at `index`. */
  set(block: DataView, index: number, value: number): void
}

/**
 * The first index from `from` up to `to` whose refcount is 0, or `to`. Tests 32 bits at a time, because a block of 2 MiB may hold 16
 * million refcounts. `to` is the end of the block or at a multiple of 32 bits.
 */
export function firstZeroRefcount(block: DataView, refcountOrder: number, from: number, to: number): number {
  const { get } = refcountCodec(refcountOrder)
  const perWord = refcountOrder < 5 ? 32 >>> refcountOrder : 1
  let index = from
  while (index < to) {
    if (index % perWord === 0 && refcountOrder <= 5) {
      while (index < to && hasNoZero(block.getUint32((index / perWord) * 4), refcountOrder)) index += perWord
      if (index >= to) return to
    }
    if (get(block, index) === 0) return index
    index++
  }
  return to
}

/** Whether none of the refcounts in a word of 32 bits is 0. */
function hasNoZero(word: number, refcountOrder: number): boolean {
  // ORs all bits of each refcount into its lowest one.
  let any = word
  for (let order = 0; order < refcountOrder; order++) any |= any >>> (1 << order)
  const lowest = LOWEST_BITS[refcountOrder] ?? 0
  return (any & lowest) >>> 0 === lowest
}

/** The lowest bit of each refcount in a word, by refcount order. */
const LOWEST_BITS = [0xffff_ffff, 0x5555_5555, 0x1111_1111, 0x0101_0101, 0x0001_0001, 0x0000_0001]

/** Widths below a byte fill each byte from its least significant bits (QC-REF-03). */
function packed(order: 0 | 1 | 2): RefcountCodec {
  const bits = 1 << order
  const perByteShift = 3 - order
  const withinMask = (1 << perByteShift) - 1
  const valueMask = (1 << bits) - 1
  return {
    get: (block, index) => (block.getUint8(index >>> perByteShift) >>> ((index & withinMask) * bits)) & valueMask,
    set(block, index, value) {
      const shift = (index & withinMask) * bits
      const byte = block.getUint8(index >>> perByteShift)
      block.setUint8(index >>> perByteShift, (byte & ~(valueMask << shift)) | (value << shift))
    },
  }
}

const CODECS: readonly RefcountCodec[] = [
  packed(0),
  packed(1),
  packed(2),
  { get: (block, index) => block.getUint8(index), set: (block, index, value) => block.setUint8(index, value) },
  { get: (block, index) => block.getUint16(index * 2), set: (block, index, value) => block.setUint16(index * 2, value) },
  { get: (block, index) => block.getUint32(index * 4), set: (block, index, value) => block.setUint32(index * 4, value) },
  { get: (block, index) => getU64(block, index * 8), set: (block, index, value) => setU64(block, index * 8, value) },
]

/** The codec for refcounts of 2 ** `refcountOrder` bits; the order is 0 to 6. */
export function refcountCodec(refcountOrder: number): RefcountCodec {
  const codec = CODECS[refcountOrder]
  if (codec === undefined) throw new RangeError(`refcount order ${refcountOrder} is not 0 to 6`)
  return codec
}
