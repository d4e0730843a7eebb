/** Bitmaps of extended L2 entries, as pure functions. */
import { describe, expect, it } from "vitest"
import { L2_KIND } from "../../../../src/backing/qcow2/format/entries.ts"
import {
  bitmapProblem, endOfAllocated, extendedKind, firstAllocated, subclusterBits, subclusterKind, subclusterRun,
} from "../../../../src/backing/qcow2/format/subclusters.ts"
import { makeGeometry } from "../../../../src/backing/qcow2/format/geometry.ts"

const { UNALLOCATED, NORMAL, ZERO, ZERO_ALLOCATED, COMPRESSED, CORRUPT } = L2_KIND

describe("the bitmap of subclusters", () => {
  it.each([
    [14, 512, 1024],
    [16, 2048, 4096],
    [21, 65536, 131_072],
  ])("QC-EL2-01 clusters of 2^%i bytes have 32 subclusters of %i bytes, and %i entries of 16 bytes in a table", (
    bits, subcluster, entries,
  ) => {
    const geometry = makeGeometry({ version: 3, clusterBits: bits, refcountOrder: 4, size: 1 << 30, extendedL2: true })
    expect([geometry.l2EntrySize, geometry.subclusters, geometry.subclusterSize, geometry.l2Entries]).toEqual([16, 32, subcluster, entries])
    expect(geometry.l2Coverage).toBe(2 ** bits * entries)
  })

  it("QC-EL2-02 subcluster 0 has the least significant bit of each half", () => {
    expect([subclusterBits(0, 1), subclusterBits(31, 32), subclusterBits(4, 7)]).toEqual([1, 0x8000_0000, 0x70])
    expect([subclusterBits(0, 32), subclusterBits(5, 5), subclusterBits(32, 32), subclusterBits(0, 0)]).toEqual([0xffff_ffff, 0, 0, 0])
    for (let index = 0; index < 32; index++) {
      const bit = (1 << index) >>> 0
      const kinds = Array.from({ length: 32 }, (_, other) => subclusterKind(NORMAL, 0, bit, other))
      expect(kinds.filter((kind) => kind === NORMAL).length).toBe(1)
      expect(kinds[index]).toBe(NORMAL)
      expect(subclusterKind(NORMAL, bit, 0, index)).toBe(ZERO_ALLOCATED)
    }
  })

  it("QC-EL2-03 QC-EL2-05 neither bit means unallocated, with a place or without; a zero bit needs no place", () => {
    expect(subclusterKind(NORMAL, 1, 2, 2)).toBe(UNALLOCATED)
    expect(subclusterKind(UNALLOCATED, 1, 0, 2)).toBe(UNALLOCATED)
    expect(subclusterKind(UNALLOCATED, 1, 0, 0)).toBe(ZERO)
  })

  it("QC-EL2-04 QC-EL2-06 an entry is corrupt if a bit is in both halves, or allocated without a place, unless it is compressed", () => {
    expect([extendedKind(NORMAL, 0x8000_0001, 0x8000_0000), extendedKind(UNALLOCATED, 0, 0x8000_0000)]).toEqual([CORRUPT, CORRUPT])
    expect([extendedKind(NORMAL, 0xffff_fffe, 1), extendedKind(UNALLOCATED, 0xffff_ffff, 0)]).toEqual([NORMAL, UNALLOCATED])
    expect(extendedKind(COMPRESSED, 0xffff_ffff, 0xffff_ffff)).toBe(COMPRESSED)
    expect(bitmapProblem(NORMAL, 4, 4)).toBe("a subcluster is both allocated and zero")
    expect(bitmapProblem(UNALLOCATED, 0, 4)).toBe("subclusters are allocated, but the cluster has no host offset")
    expect([bitmapProblem(NORMAL, 4, 8), bitmapProblem(UNALLOCATED, 4, 0), bitmapProblem(COMPRESSED, 4, 4)]).toEqual([
      undefined, undefined, undefined,
    ])
  })

  it("QC-EL2-02 a run of one kind ends at the first subcluster of another, for every pair of ends", () => {
    for (let from = 0; from < 32; from++) {
      for (let to = from + 1; to <= 32; to++) {
        const bits = subclusterBits(from, to)
        const others = ~bits >>> 0
        expect(subclusterRun(NORMAL, 0, bits, from)).toBe(to - from)
        expect(subclusterRun(ZERO_ALLOCATED, bits, others, from)).toBe(to - from)
        expect(subclusterRun(ZERO, bits, 0, from)).toBe(to - from)
        expect(subclusterRun(UNALLOCATED, others & 0x5555_5555, others & 0xaaaa_aaaa, from)).toBe(to - from)
        expect([firstAllocated(bits), endOfAllocated(bits)]).toEqual([from, to])
      }
    }
    expect([subclusterRun(COMPRESSED, 0, 0, 5), subclusterRun(CORRUPT, 0, 0, 5)]).toEqual([27, 27])
    expect([firstAllocated(0), endOfAllocated(0)]).toEqual([32, 0])
  })
})
