/**
 * Damage to what stands beside the active tables: entries of the snapshot table and the tables of snapshots, the bitmap directory and the
 * tables of bitmaps, LUKS headers and key slots, the name of an external data file. Each finds its word by the format's own layout, typed
 * in again from the documents.
 */
import type { Mutation } from "../support/mutations.ts"
import type { Qcow2Bytes } from "../support/qcow2-bytes.ts"
import type { Rng } from "../support/rng.ts"

const OFFSET_BITS = 0x00ff_ffff_ffff_fe00n
const COPIED = 1n << 63n

/** Words that are wrong in their own manners: small, huge, at a border, the place of something else. */
function oddWord(image: Qcow2Bytes, rng: Rng): bigint {
  const cluster = BigInt(image.clusterSize)
  return rng.pick([
    0n, 1n, 2n, 511n, cluster, cluster + 512n, BigInt(image.l1Offset), BigInt(image.refcountTableOffset), BigInt(image.snapshotsOffset),
    BigInt(rng.below(image.clusters + 3)) * cluster, BigInt(rng.below(image.bytes.length)), 1n << 31n, (1n << 32n) - 1n, 1n << 53n,
    (1n << 56n) - cluster, (1n << 63n) - cluster, (1n << 64n) - 1n, BigInt(rng.u32()) << 20n,
  ])
}

/** Where the entries of the snapshot table begin. */
function snapshotEntries(image: Qcow2Bytes): number[] {
  const found: number[] = []
  let at = image.snapshotsOffset
  for (let index = 0; index < Math.min(image.snapshotCount, 10) && at + 40 < image.bytes.length; index++) {
    found.push(at)
    const u16 = (position: number): number => image.u32(position) >>> 16
    at += Math.ceil((40 + image.u32(at + 36) + u16(at + 12) + u16(at + 14)) / 8) * 8
  }
  return found
}

/** Changes one entry of the snapshot table, which begins at byte `at`; an image without snapshots stays as it is. */
function onSnapshot(change: (image: Qcow2Bytes, at: number, rng: Rng) => void): Mutation {
  return (image, rng) => {
    const entries = snapshotEntries(image)
    if (entries.length > 0) change(image, rng.pick(entries), rng)
  }
}

/** Byte of an entry in the table of `entries` words at byte `table`: one that is in use, where there is one. */
function usedWord(image: Qcow2Bytes, rng: Rng, table: number, entries: number): number | undefined {
  const all = Array.from({ length: Math.min(entries, 4096) }, (_, index) => table + 8 * index)
  const inside = all.filter((at) => at + 8 <= image.bytes.length)
  const used = inside.filter((at) => (image.u64(at) & OFFSET_BITS) !== 0n)
  return used.length > 0 ? rng.pick(used) : inside[0]
}

function damageWord(image: Qcow2Bytes, at: number, rng: Rng): void {
  const flip = rng.pick([COPIED, 1n, 1n << 62n, 1n << 8n, 1n << 56n, 512n])
  image.setU64(at, rng.chance(0.5) ? image.u64(at) ^ flip : oddWord(image, rng) | (rng.chance(0.5) ? COPIED : 0n))
}

const snapshotL1 = (image: Qcow2Bytes, at: number, rng: Rng): number | undefined =>
  usedWord(image, rng, Number(image.u64(at)), image.u32(at + 8))

export const snapshotMutations: Readonly<Record<string, Mutation>> = {
  "a snapshot's L1 elsewhere": onSnapshot((image, at, rng) => void image.setU64(at, oddWord(image, rng))),
  "a snapshot's L1 of another size": onSnapshot((image, at, rng) => {
    image.setU32(at + 8, rng.pick([0, 1, 2, 1000, 4_194_304, 4_194_305, 0xffff_ffff]))
  }),
  "the lengths of a snapshot's id and name": onSnapshot((image, at, rng) => {
    image.setU16(at + rng.pick([12, 14]), rng.pick([0, 1, 255, 1023, 65535]))
  }),
  "a snapshot's VM state": onSnapshot((image, at, rng) => void image.setU32(at + 32, rng.pick([1, 70_000, 0xffff_ffff]))),
  "a snapshot's extra data": onSnapshot(
    (image, at, rng) => void image.setU32(at + 36, rng.pick([0, 8, 15, 16, 24, 32, 1024, 1025, 0xffff_ffff])),
  ),
  "a snapshot's size of the disk": onSnapshot((image, at, rng) => {
    if (image.u32(at + 36) >= 16) image.setU64(at + 48, rng.chance(0.5) ? oddWord(image, rng) : BigInt(512 * rng.below(1000)))
  }),
  "a snapshot with the L1 table of another": onSnapshot((image, at, rng) => {
    const other = rng.pick(snapshotEntries(image))
    image.setU64(at, rng.chance(0.3) ? BigInt(image.l1Offset) : image.u64(other))
  }),
  "a snapshot's L1 entry": onSnapshot((image, at, rng) => {
    const entry = snapshotL1(image, at, rng)
    if (entry !== undefined) damageWord(image, entry, rng)
  }),
  "an L2 entry of a snapshot": onSnapshot((image, at, rng) => {
    const l1 = snapshotL1(image, at, rng)
    const table = l1 === undefined ? 0 : Number(image.u64(l1) & OFFSET_BITS)
    const entry = usedWord(image, rng, table, image.clusterSize / 8)
    if (entry !== undefined && table !== 0) damageWord(image, entry, rng)
  }),
  "another number of snapshots": (image, rng) => image.setU32(60, rng.pick([0, 1, 2, 3, 65_536, 65_537, 0xffff_ffff])),
  "the snapshot table elsewhere": (image, rng) => {
    if (image.snapshotCount > 0) image.setU64(64, oddWord(image, rng))
  },
}

/** Byte of the data of a header extension, 0 without one. */
function extension(image: Qcow2Bytes, type: number): number {
  const start = image.version < 3 ? 72 : image.u32(100)
  for (let at = start; at + 24 < Math.min(image.clusterSize, image.bytes.length); at += 8 + Math.ceil(image.u32(at + 4) / 8) * 8) {
    if (image.u32(at) === type) return at + 8
    if (image.u32(at) === 0) return 0
  }
  return 0
}

/** Changes the bitmaps extension at byte `at`, and what it names: the directory's first entry at byte `entry`. */
function onBitmap(change: (image: Qcow2Bytes, places: { readonly at: number; readonly entry: number }, rng: Rng) => void): Mutation {
  return (image, rng) => {
    const at = extension(image, 0x2385_2875)
    if (at !== 0) change(image, { at, entry: Number(image.u64(at + 16)) }, rng)
  }
}

export const bitmapMutations: Readonly<Record<string, Mutation>> = {
  "the number of bitmaps": onBitmap((image, { at }, rng) => void image.setU32(at, rng.pick([0, 2, 3, 65_535, 65_536, 0xffff_ffff]))),
  "the bitmap directory elsewhere": onBitmap((image, { at }, rng) => void image.setU64(at + 16, oddWord(image, rng))),
  "the bitmap directory of another size": onBitmap((image, { at }, rng) => {
    image.setU64(at + 8, rng.pick([0n, 8n, image.u64(at + 8) + 8n, image.u64(at + 8) - 8n, 1n << 26n, 1n << 40n]))
  }),
  "the autoclear bit of bitmaps": onBitmap((image) => void image.setU64(88, image.u64(88) ^ 1n)),
  "a bitmap's table elsewhere": onBitmap((image, { entry }, rng) => void image.setU64(entry, oddWord(image, rng))),
  "a bitmap's table of another size": onBitmap((image, { entry }, rng) => {
    image.setU32(entry + 8, rng.pick([0, 1, 2, 100, 0x8000_0000, 0xffff_ffff]))
  }),
  "a bitmap's flags": onBitmap(
    (image, { entry }, rng) => void image.setU32(entry + 12, rng.pick([0, 1, 2, 3, 4, 7, 8, 0x8000_0000, rng.u32()])),
  ),
  "a bitmap's type or granularity": onBitmap((image, { entry }, rng) => {
    image.setU8(entry + rng.pick([16, 17]), rng.pick([0, 1, 2, 8, 9, 31, 32, 63, 255]))
  }),
  "a bitmap's name or extra data": onBitmap((image, { entry }, rng) => {
    if (rng.chance(0.5)) image.setU16(entry + 18, rng.pick([0, 1, 1023, 1024, 65_535]))
    else image.setU32(entry + 20, rng.pick([1, 8, 16, 1000, 0xffff_ffff]))
  }),
  "an entry of a bitmap's table": onBitmap((image, { entry }, rng) => {
    const table = Number(image.u64(entry))
    const at = table + 8 * rng.below(Math.max(1, Math.min(image.u32(entry + 8), 64)))
    if (at + 8 <= image.bytes.length) {
      image.setU64(at, rng.chance(0.3) ? image.u64(at) ^ rng.pick([1n, 2n, 1n << 63n]) : oddWord(image, rng))
    }
  }),
}

/** Changes the LUKS header at byte `at`: the first one of a raw LUKS image. An image without one stays as it is. */
function onLuks(change: (image: Qcow2Bytes, at: number, rng: Rng) => void): Mutation {
  return (image, rng) => {
    if (image.u32(0) === 0x4c55_4b53) return change(image, 0, rng)
    const pointer = extension(image, 0x0537_be77)
    if (pointer !== 0) change(image, Number(image.u64(pointer)), rng)
  }
}

const slotAt = (at: number, rng: Rng): number => at + 208 + 48 * rng.pick([0, 0, rng.below(8)])

export const luksMutations: Readonly<Record<string, Mutation>> = {
  "the LUKS header elsewhere": (image, rng) => {
    const pointer = extension(image, 0x0537_be77)
    if (pointer !== 0) image.setU64(pointer + rng.pick([0, 8]), oddWord(image, rng))
  },
  "a byte of the LUKS header": onLuks((image, at, rng) => {
    const place = at + rng.below(592)
    image.setU8(place, image.u8(place) ^ rng.pick([1, 2, 16, 128, 255]))
  }),
  "the cipher, mode or hash of LUKS": onLuks((image, at, rng) => {
    const text = rng.pick([
      "aes", "xts-plain64", "cbc-plain64", "cbc-essiv:sha256", "ecb", "sha1", "sha256", "sha512", "serpent", "twofish", "cast5",
      "cbc-essiv:md5", "camellia", "",
    ])
    const field = at + rng.pick([8, 40, 72])
    for (let index = 0; index < 32; index++) image.setU8(field + index, text.charCodeAt(index) || 0)
  }),
  "the payload or the key length of LUKS": onLuks((image, at, rng) => {
    image.setU32(at + rng.pick([104, 108]), rng.pick([0, 1, 8, 16, 24, 32, 64, 4096, 0xffff_ffff]))
  }),
  "iterations of LUKS": onLuks((image, at, rng) => {
    image.setU32(rng.chance(0.4) ? at + 164 : slotAt(at, rng) + 4, rng.pick([0, 1, 1 << 24, (1 << 25) + 1, 0x7fff_ffff, 0xffff_ffff]))
  }),
  "the state of a key slot": onLuks(
    (image, at, rng) => void image.setU32(slotAt(at, rng), rng.pick([0x00ac_71f3, 0x0000_dead, 0, rng.u32()])),
  ),
  "the material or stripes of a key slot": onLuks((image, at, rng) => {
    image.setU32(slotAt(at, rng) + rng.pick([40, 44]), rng.pick([0, 1, 8, 4000, 4001, 0x7f_ffff, 0xffff_ffff]))
  }),
  "a byte of key material": onLuks((image, at, rng) => {
    const place = at + 4096 + rng.below(60_000)
    if (place < image.bytes.length) image.setU8(place, image.u8(place) ^ 1)
  }),
  "another encryption method": (image, rng) => image.setU32(32, rng.pick([0, 1, 2, 3])),
}

export const dataFileMutations: Readonly<Record<string, Mutation>> = {
  "the name of the data file": (image, rng) => {
    const at = extension(image, 0x4441_5441)
    if (at === 0) return
    if (rng.chance(0.5)) image.setU32(at - 4, rng.pick([0, 1, 5, 1023, 1024, 0xffff_fff8]))
    else image.setU8(at + rng.below(8), rng.pick([0, 10, 47, 46, 58, 255]))
  },
  "the bits of the data file": (image, rng) => {
    if (image.version < 3) return
    if (rng.chance(0.5)) image.setU64(72, image.u64(72) ^ 4n)
    else image.setU64(88, image.u64(88) ^ 2n)
  },
}

export const structureMutations: Readonly<Record<string, Mutation>> = {
  ...snapshotMutations, ...bitmapMutations, ...luksMutations, ...dataFileMutations,
}
