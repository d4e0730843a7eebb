/** Range lists of discard and write zeroes, as the driver makes them. */
import { describe, expect, it } from "vitest"
import { encodeRanges, splitRanges } from "../../../../src/vmm/driver/block/ranges.ts"

describe("ranges of sectors", () => {
  it("BLK-22 a record is sector, number of sectors and flags, 16 bytes in all", () => {
    expect([...encodeRanges([{ sector: 0x1122_3344_5566_7788n, sectors: 0x99aa_bbcc }], 0x8000_0001)]).toEqual([
      0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0xcc, 0xbb, 0xaa, 0x99, 0x01, 0x00, 0x00, 0x80,
    ])
    expect(encodeRanges([{ sector: 1, sectors: 2 }, { sector: 3, sectors: 4 }])).toHaveLength(32)
    expect(encodeRanges([])).toHaveLength(0)
  })

  it("BLK-25 no piece is longer than allowed, and together they are the range, each sector once", () => {
    expect(splitRanges([{ sector: 5, sectors: 10 }, { sector: 100, sectors: 4 }, { sector: 7, sectors: 0 }], 4)).toEqual([
      { sector: 5, sectors: 4 },
      { sector: 9, sectors: 4 },
      { sector: 13, sectors: 2 },
      { sector: 100, sectors: 4 },
    ])
    expect(splitRanges([{ sector: 2n ** 60n, sectors: 3 }], 2)).toEqual([
      { sector: 2n ** 60n, sectors: 2 }, { sector: 2n ** 60n + 2n, sectors: 1 },
    ])
    expect(() => splitRanges([{ sector: 0, sectors: 1 }], 0)).toThrow(expect.objectContaining({ code: "protocol" }))
  })

  it.each<[number | bigint, unknown]>([
    [0, undefined], [0, Number.NaN], [0, -1], [0, 1.5], [0, "8"], [0, Infinity], [-1, 1], [0.5, 1], [2 ** 53, 1], [-1n, 1],
    [2n ** 64n - 1n, 2],
  ])("no range begins at sector %s and has %s sectors", (sector, sectors) => {
    expect(() => splitRanges([{ sector: 5, sectors: 10 }, { sector, sectors: sectors as number }], 4)).toThrow(RangeError)
  })

  it("the last sector of all is in a range", () => {
    expect(splitRanges([{ sector: 2n ** 64n - 1n, sectors: 1 }], 4)).toEqual([{ sector: 2n ** 64n - 1n, sectors: 1 }])
  })
})
