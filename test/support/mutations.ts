/** Ways to damage a qcow2 image, by one word or byte at a time. */
import type { Qcow2Bytes } from "./qcow2-bytes.ts"
import type { Rng } from "./rng.ts"

const COPIED = 1n << 63n
const COMPRESSED = 1n << 62n
const OFFSET_BITS = 0x00ff_ffff_ffff_fe00n

export type Mutation = (image: Qcow2Bytes, rng: Rng) => void

/** Byte position of an L1 entry with a table; of any L1 entry if there is none. */
function someL1(image: Qcow2Bytes, rng: Rng): number {
  const entries = Array.from(
    { length: Math.min(image.l1Size, image.bytes.length / 8) }, (_, index) => image.l1Offset + 8 * index,
  ).filter((at) => at + 8 <= image.bytes.length)
  const used = entries.filter((at) => (image.u64(at) & OFFSET_BITS) !== 0n)
  return rng.pick(used.length > 0 ? used : entries)
}

/** Byte position of an L2 entry, in use if `used`. */
function someL2(image: Qcow2Bytes, rng: Rng, used: boolean): number {
  const table = Number(image.u64(someL1(image, rng)) & OFFSET_BITS)
  const entries = Array.from(
    { length: Math.min(image.clusterSize, image.bytes.length) / image.l2EntrySize }, (_, index) => table + image.l2EntrySize * index,
  ).filter((at) => at + image.l2EntrySize <= image.bytes.length)
  const filled = entries.filter((at) => image.u64(at) !== 0n)
  return rng.pick(used && filled.length > 0 ? filled : entries.length > 0 ? entries : [image.l1Offset])
}

function someRefcountTableEntry(image: Qcow2Bytes, rng: Rng): number {
  return image.refcountTableOffset + 8 * (rng.chance(0.7) ? 0 : rng.below((image.refcountTableClusters * image.clusterSize) / 8))
}

function somePlace(image: Qcow2Bytes, rng: Rng): bigint {
  const cluster = BigInt(image.clusterSize)
  return rng.pick([
    0n,
    BigInt(rng.below(image.clusters)) * cluster,
    BigInt(rng.below(image.clusters)) * cluster + 512n, // perhaps unaligned
    BigInt(image.clusters) * cluster,
    BigInt(image.clusters + rng.below(1000)) * cluster,
    BigInt(image.l1Offset),
    BigInt(image.refcountTableOffset),
    BigInt(image.refcountBlock(0)),
    OFFSET_BITS - cluster + 512n, // the end of all offsets
    (1n << 53n) - cluster,
  ])
}

/** Damage to the tables and refcounts, by name. None touches the header. */
export const tableMutations: Readonly<Record<string, Mutation>> = {
  "refcount 0": (image, rng) => image.setRefcount(rng.below(image.clusters), 0n),
  "refcount 1": (image, rng) => image.setRefcount(rng.below(image.clusters), 1n),
  "another refcount": (image, rng) => image.setRefcount(
    rng.below(image.clusters), BigInt(rng.below(2 ** Math.min(16, image.refcountBits))),
  ),
  "no refcount block": (image) => image.setU64(image.refcountTableOffset, 0n),
  "refcount block elsewhere": (image, rng) => image.setU64(someRefcountTableEntry(image, rng), somePlace(image, rng)),
  "refcount block with reserved bits": (image, rng) => image.setU64(
    image.refcountTableOffset, image.u64(image.refcountTableOffset) | BigInt(rng.between(1, 511)),
  ),
  "L1 entry gone": (image, rng) => image.setU64(someL1(image, rng), 0n),
  "L1 entry elsewhere": (image, rng) => {
    const place = somePlace(image, rng)
    image.setU64(someL1(image, rng), place | (place !== 0n && rng.chance(0.5) ? COPIED : 0n))
  },
  "L1 COPIED flipped": (image, rng) => flip(image, someL1(image, rng), COPIED),
  "L1 reserved bits": (image, rng) => flip(image, someL1(image, rng), rng.pick([1n, 2n, 1n << 8n, 1n << 56n, 1n << 61n, 1n << 62n])),
  "L1 random": (image, rng) => image.setU64(someL1(image, rng), randomWord(rng)),
  "L2 entry gone": (image, rng) => image.setU64(someL2(image, rng, true), 0n),
  "L2 entry elsewhere": (image, rng) => image.setU64(
    someL2(image, rng, rng.chance(0.7)), somePlace(image, rng) | (rng.chance(0.5) ? COPIED : 0n),
  ),
  "L2 COPIED flipped": (image, rng) => flip(image, someL2(image, rng, true), COPIED),
  "L2 reserved bits": (image, rng) => flip(image, someL2(image, rng, true), rng.pick([2n, 1n << 8n, 1n << 56n, 1n << 61n])),
  "L2 zero flag flipped": (image, rng) => flip(image, someL2(image, rng, true), 1n),
  "L2 compressed flag flipped": (image, rng) => flip(image, someL2(image, rng, true), COMPRESSED),
  "L2 random": (image, rng) => image.setU64(someL2(image, rng, rng.chance(0.7)), randomWord(rng)),
  "L2 entry twice": (image, rng) => image.setU64(someL2(image, rng, false), image.u64(someL2(image, rng, true))),
  "a byte of a table": (image, rng) => flipByte(image, rng, Math.floor(someL2(image, rng, true))),
}

/** Changes the bitmap of an extended L2 entry in use, at byte `at`. An image without such entries stays as it is. */
function onBitmap(change: (image: Qcow2Bytes, at: number, rng: Rng) => void): Mutation {
  return (image, rng) => {
    if (image.l2EntrySize === 16) change(image, someL2(image, rng, true) + 8, rng)
  }
}

/** Damage to the bitmaps of subclusters. */
export const subclusterMutations: Readonly<Record<string, Mutation>> = {
  "a subcluster's allocated bit flipped": onBitmap((image, at, rng) => flip(image, at, 1n << BigInt(rng.below(32)))),
  "a subcluster's zero bit flipped": onBitmap((image, at, rng) => flip(image, at, 1n << BigInt(32 + rng.below(32)))),
  "both bits of a subcluster": onBitmap((image, at, rng) => {
    image.setU64(at, image.u64(at) | (0x1_0000_0001n << BigInt(rng.below(32))))
  }),
  "a random bitmap": onBitmap((image, at, rng) => image.setU64(at, randomWord(rng))),
  "a bitmap gone": onBitmap((image, at) => image.setU64(at, 0n)),
  "all bits of a bitmap": onBitmap((image, at) => image.setU64(at, (1n << 64n) - 1n)),
  "a place gone from under its bitmap": onBitmap((image, at) => image.setU64(at - 8, 0n)),
}

/** Damage to the header, the snapshots, and everything else. */
export const otherMutations: Readonly<Record<string, Mutation>> = {
  "a byte of the header": (image, rng) => flipByte(image, rng, rng.below(112)),
  "a byte of the first cluster": (image, rng) => flipByte(image, rng, rng.below(image.clusterSize)),
  "a header field": (image, rng) => mutateField(image, rng),
  "a byte of the snapshot table": (image, rng) => flipByte(image, rng, image.snapshotsOffset + rng.below(80)),
  "a byte of the bitmap directory or table": (image, rng) => {
    const at = bitmapsExtension(image)
    if (at === 0) return
    const directory = Number(image.u64(at + 16))
    flipByte(image, rng, rng.pick([at + rng.below(24), directory + rng.below(48), Number(image.u64(directory)) + rng.below(16)]))
  },
  "a byte anywhere": (image, rng) => flipByte(image, rng, rng.below(image.bytes.length)),
  "cut short": (image, rng) => {
    image.bytes = image.bytes.slice(0, rng.below(image.bytes.length))
  },
}

export const allMutations: Readonly<Record<string, Mutation>> = {
  ...tableMutations, ...subclusterMutations, ...otherMutations,
}

/** Byte position of the bitmaps extension's data; 0 without one. */
function bitmapsExtension(image: Qcow2Bytes): number {
  if (image.version < 3) return 0
  for (let at = image.u32(100); at + 32 < image.clusterSize && image.u32(at) !== 0; at += 8 + Math.ceil(image.u32(at + 4) / 8) * 8) {
    if (image.u32(at) === 0x2385_2875) return at + 8
  }
  return 0
}

/** 32-bit and 64-bit header fields by byte position. */
const FIELDS_32 = [0, 4, 16, 20, 32, 36, 56, 60, 96, 100]
const FIELDS_64 = [8, 24, 40, 48, 64, 72, 80, 88]

function mutateField(image: Qcow2Bytes, rng: Rng): void {
  if (rng.chance(0.5)) {
    image.setU32(
      rng.pick(FIELDS_32),
      rng.pick([0, 1, 2, 3, 8, 21, 22, 64, 512, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, rng.u32(), rng.below(70000)]),
    )
  } else {
    image.setU64(
      rng.pick(FIELDS_64),
      rng.pick([
        0n,
        1n,
        1n << 31n,
        1n << 32n,
        (1n << 53n) - 512n,
        1n << 53n,
        1n << 62n,
        (1n << 63n) - 512n,
        (1n << 64n) - 512n,
        randomWord(rng),
        somePlace(image, rng),
      ]),
    )
  }
}

function randomWord(rng: Rng): bigint {
  const word = (BigInt(rng.u32()) << 32n) | BigInt(rng.u32())
  return rng.chance(0.5) ? word : word >> BigInt(rng.below(50))
}

function flip(image: Qcow2Bytes, at: number, bits: bigint): void {
  image.setU64(at, image.u64(at) ^ bits)
}

function flipByte(image: Qcow2Bytes, rng: Rng, at: number): void {
  if (at >= image.bytes.length) return
  image.setU8(at, image.u8(at) ^ rng.pick([1, 2, 4, 8, 16, 32, 64, 128, 255]))
}
