/** The words of L1, L2 and refcount tables, decoded and encoded. */
import { describe, expect, it } from "vitest"
import {
  compressedLimit, decodeL1Entry, decodeL2Entry, decodeRefcountTableEntry, encodeCompressedEntry, encodeEntry, L2_KIND, l2Kind,
} from "../../../../src/backing/qcow2/format/entries.ts"
import { makeGeometry } from "../../../../src/backing/qcow2/format/geometry.ts"

const geometry = (clusterBits: number, version: 2 | 3 = 3) => makeGeometry({ version, clusterBits, refcountOrder: 4, size: 1 << 30 })
const halves = (word: bigint): [number, number] => [Number(word >> 32n), Number(word & 0xffff_ffffn)]
const l2 = (word: bigint, clusterBits = 16, version: 2 | 3 = 3) => decodeL2Entry(...halves(word), geometry(clusterBits, version))
const COPIED = 1n << 63n
const COMPRESSED = 1n << 62n

describe("geometry", () => {
  it.each([
    [9, 64, 32768, 256],
    [12, 512, 2097152, 2048],
    [16, 8192, 536870912, 32768],
    [21, 262144, 549755813888, 1048576],
  ])(
    "QC-L1-01 QC-REF-02 with clusters of 2^%i bytes an L2 table has %i entries for %i bytes, a block %i refcounts of 16 bits",
    (clusterBits, entries, coverage, refcounts) => {
      const made = geometry(clusterBits)
      expect([made.l2Entries, made.l2Coverage, made.refcountBlockEntries]).toEqual([entries, coverage, refcounts])
      expect(Object.isFrozen(made)).toBe(true)
    },
  )

  it("QC-L1-01 the L1 table covers the disk's last byte and no more", () => {
    const needed = (size: number): number => makeGeometry({ version: 3, clusterBits: 16, refcountOrder: 4, size }).l1EntriesNeeded
    expect([0, 1, 536870912, 536870913, 2 ** 50].map(needed)).toEqual([0, 1, 1, 2, 2 ** 21])
  })
})

describe("compressed clusters", () => {
  it("QC-CMP-03 QC-LIM-02 compressed clusters of 2 MiB lie below 2^49, and small ones anywhere in a file", () => {
    expect([9, 12, 16, 20, 21].map((bits) => compressedLimit(geometry(bits)))).toEqual([2 ** 53, 2 ** 53, 2 ** 53, 2 ** 50, 2 ** 49])
  })
})

describe("L2 entries", () => {
  it.each<[string, bigint, object]>([
    ["nothing", 0n, { kind: "unallocated", reserved: false }],
    ["COPIED alone", COPIED, { kind: "unallocated", reserved: false }],
    ["a cluster", 0x5_0000n, { kind: "normal", offset: 0x5_0000, copied: false, reserved: false }],
    ["a cluster of its own", COPIED | 0x5_0000n, { kind: "normal", offset: 0x5_0000, copied: true, reserved: false }],
    ["a cluster above 4 GiB", COPIED | 0x1_0005_0000n, { kind: "normal", offset: 0x1_0005_0000, copied: true, reserved: false }],
    ["zero", 1n, { kind: "zero", reserved: false }],
    ["zero and COPIED", COPIED | 1n, { kind: "zero", reserved: false }],
    ["zero with an offset", COPIED | 0x5_0001n, { kind: "zero-allocated", offset: 0x5_0000, copied: true, reserved: false }],
    ["reserved bit 1", 0x5_0002n, { kind: "normal", offset: 0x5_0000, copied: false, reserved: true }],
    ["reserved bit 61", (1n << 61n) | 0x5_0000n, { kind: "normal", offset: 0x5_0000, copied: false, reserved: true }],
    ["reserved bit 56 alone", 1n << 56n, { kind: "unallocated", reserved: true }],
    ["compressed before zero", COMPRESSED | 0x5_0001n, { kind: "compressed", offset: 0x5_0001, length: 511, copied: false }],
    ["compressed and COPIED", COMPRESSED | COPIED | 0x5_0000n, { kind: "compressed", offset: 0x5_0000, length: 512, copied: true }],
    ["compressed at 0", COMPRESSED, { kind: "compressed", offset: 0, length: 512, copied: false }],
  ])("QC-L2-01 QC-L2-02 QC-L2-07 decodes %s", (_, word, expected) => {
    expect(l2(word)).toEqual(expected)
  })

  it("QC-L2-05 an offset that is not cluster aligned is corrupt, also under the zero flag", () => {
    expect(l2(COPIED | 0x5_0200n)).toMatchObject({ kind: "corrupt", offset: 0x5_0200 })
    expect(l2(COPIED | 0x5_0201n)).toMatchObject({ kind: "corrupt", offset: 0x5_0200 })
    expect(l2(0x5_0200n, 9)).toMatchObject({ kind: "normal", offset: 0x5_0200 })
  })

  it("QC-L2-04 the zero flag in version 2 is corrupt", () => {
    expect(l2(1n, 16, 2).kind).toBe("corrupt")
    expect(l2(0x5_0001n, 16, 2).kind).toBe("corrupt")
  })

  it("QC-LIM-02 an offset of 2^53 or more is corrupt, and the largest below is valid", () => {
    expect(l2(1n << 53n).kind).toBe("corrupt")
    expect(l2((1n << 53n) | 1n).kind).toBe("corrupt")
    expect(l2((1n << 53n) - 0x1_0000n)).toMatchObject({ kind: "normal", offset: 2 ** 53 - 0x1_0000 })
    expect(l2(COMPRESSED | (1n << 53n)).kind).toBe("corrupt")
  })

  it("QC-CMP-02 offset 0x50123 with 3 further sectors spans 1757 bytes", () => {
    expect(l2(COMPRESSED | (3n << 54n) | 0x5_0123n)).toEqual({ kind: "compressed", offset: 0x5_0123, length: 1757, copied: false })
  })

  it.each([9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21])(
    "QC-CMP-01 QC-CMP-03 compressed entries with clusters of 2^%i bytes are decoded, whatever the offset and number of sectors",
    (clusterBits) => {
      const x = BigInt(62 - (clusterBits - 8))
      const most = 2 ** (clusterBits - 8) * 512
      // The offset has bits 0 to x-1, of which those from 56 on are 0; beyond 2^53 no file can be addressed.
      const offsets = [1, 511, 0x5_0123, 2 ** 32 - 1, 2 ** 32, 2 ** Math.min(49, Number(x)) - 1]
      for (const offset of offsets) {
        for (const length of [1, 512, most - (offset % 512)]) {
          const sectors = Math.floor((offset + length - 1) / 512) - Math.floor(offset / 512)
          const decoded = decodeL2Entry(...halves(COMPRESSED | (BigInt(sectors) << x) | BigInt(offset)), geometry(clusterBits))
          expect(decoded).toMatchObject({ kind: "compressed", offset })
          expect(decoded.kind === "compressed" && decoded.length >= length && decoded.length < length + 512).toBe(true)
          // The format has no room for as many sectors at an offset that is not aligned; a stream is shorter than a cluster.
          if (length === most) continue
          const { hi, lo } = encodeCompressedEntry({ offset, length }, geometry(clusterBits))
          expect((BigInt(hi) << 32n) | BigInt(lo)).toBe(COMPRESSED | (BigInt(sectors) << x) | BigInt(offset))
        }
      }
    },
  )

  it("the number of a kind and the decoded entry agree", () => {
    const kinds = ["unallocated", "normal", "zero", "zero-allocated", "compressed", "corrupt"]
    for (const word of [0n, 0x5_0000n, 1n, 0x5_0001n, COMPRESSED | 5n, 0x5_0200n]) {
      expect(kinds[l2Kind(...halves(word), geometry(16))]).toBe(l2(word).kind)
    }
    expect(Object.values(L2_KIND)).toEqual([0, 1, 2, 3, 4, 5])
  })
})

describe("L1 and refcount table entries", () => {
  it("QC-L1-02 QC-L1-03 decodes L1 entries", () => {
    const l1 = (word: bigint) => decodeL1Entry(...halves(word), geometry(16))
    expect(l1(0n)).toEqual({ kind: "empty", reserved: false })
    expect(l1(COPIED | 0x7_0000_0000n)).toEqual({ kind: "table", offset: 0x7_0000_0000, copied: true, reserved: false })
    expect(l1(COMPRESSED | 0x5_0001n)).toEqual({ kind: "table", offset: 0x5_0000, copied: false, reserved: true })
    expect(l1(0x5_0200n)).toMatchObject({ kind: "corrupt", offset: 0x5_0200 })
  })

  it("QC-REF-01 a refcount block offset uses bits 9 to 63", () => {
    const entry = (word: bigint) => decodeRefcountTableEntry(...halves(word), geometry(16))
    expect(entry(0n)).toEqual({ kind: "empty", reserved: false })
    expect(entry(0x2_0000n)).toEqual({ kind: "block", offset: 0x2_0000, reserved: false })
    expect(entry(0x2_0001n)).toEqual({ kind: "block", offset: 0x2_0000, reserved: true })
    expect(entry(0x2_0200n).kind).toBe("corrupt")
    expect(entry(1n << 63n).kind).toBe("corrupt")
  })

  it("entries decode to what was encoded", () => {
    for (const offset of [0x1_0000, 2 ** 32, 2 ** 52 + 0x1_0000]) {
      for (const copied of [true, false]) {
        const plain = encodeEntry({ offset, copied })
        expect(decodeL1Entry(plain.hi, plain.lo, geometry(16))).toEqual({ kind: "table", offset, copied, reserved: false })
        expect(decodeL2Entry(plain.hi, plain.lo, geometry(16))).toEqual({ kind: "normal", offset, copied, reserved: false })
      }
    }
  })
})
